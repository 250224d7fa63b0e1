"""`medvqa data analyze`, and the gate before training: data without a passing analysis are refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.prepared.store import iterate_split, read_split
from medvqa_cli.data.selection import ALL, filter_answer_type, filter_language
from medvqa_cli.errors import DataError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import write_atomically, write_json
from medvqa_cli.runs import now
from medvqa_cli.workflows.data import check_language, choose_dataset, choose_language, open_data, select_samples

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from medvqa_cli.data.analysis.inspection import ImageReport
    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.schema import Settings
    from medvqa_cli.workflows.data import PreparedData

MAX_CHEAP_QUESTIONS = 50_000
MAX_CHEAP_IMAGES = 5_000
ANALYSIS = "analysis.json"
PAGE = "analysis.html"
HASHES = "images.jsonl"
THUMBNAIL_PIXELS = 280
UNCHECKED = "The data were not checked before training (data.skip_check)."


@dataclass(frozen=True, slots=True)
class DataCheck:
    """What the gate before training found.

    Attributes:
        state: "passed" or "skipped".
        warnings: What belongs beside every number these data give.
        analysis: The analysis, if there is one.
    """

    state: str
    warnings: tuple[str, ...]
    analysis: dict[str, Any] | None = None


def analyze_data(settings: Settings, *, against: Sequence[str] = (), page: bool = True,
                 progress: Progress = SILENT) -> dict[str, Any]:
    """Examine the questions that the settings select, and keep the result beside the store.

    `analysis.json` holds the document, `analysis.html` a page of plots if it is asked for. Every picture is decoded
    once, and not again while it does not change. The document's shape is described in `medvqa_cli.data.analysis.audit`.

    Args:
        settings: What is selected; `data.workers` processes look at the images.
        against: Names of other data sets; what both share is looked for.
        page: Whether to draw the page, which takes some seconds.
        progress: Where to report.

    Raises:
        MedVQAError: As `prepare_data`. What the analysis finds is no error: see its "verdict".
    """
    from medvqa_cli.data.analysis.audit import audit_samples

    part = _read_part(settings, progress)
    others = [_compare(settings, part, name, progress) for name in dict.fromkeys(against)]
    document = {
        "dataset": part.prepared.name,
        "fingerprint": part.prepared.fingerprint,
        "selection": part.selection,
        "stored": part.stored,
        "skipped": len(part.prepared.skipped),
        **audit_samples(part.splits, part.images, train_split=settings.data.train_split,
                        text_only=settings.data.text_only, against=others),
    }
    write_json(part.prepared.path / ANALYSIS, document)
    (part.prepared.path / PAGE).unlink(missing_ok=True)
    if page:
        _write_page(part.prepared.path / PAGE, document, settings.data.max_pixels)
    return document


@dataclass(frozen=True, slots=True)
class SelectedSplit:
    """The questions of a split that the settings select, read anew each time they are gone through."""

    settings: Settings
    folder: Path
    split: str
    language: str

    def __iter__(self) -> Iterator[VQASample]:
        data = self.settings.data
        if data.limit or (data.subsample and self.split == data.train_split):
            yield from select_samples(read_split(self.folder, self.split), self.split, self.settings, self.language)
            return
        for sample in iterate_split(self.folder, self.split):
            yield from filter_answer_type(filter_language([sample], self.language), data.question_type)


@dataclass(frozen=True, slots=True)
class Part:
    """What is examined of a data set: questions per language, those selected, what looking at their pictures gave."""

    prepared: PreparedData
    stored: dict[str, Counter[str]]
    selection: dict[str, Any]
    splits: dict[str, SelectedSplit]
    images: ImageReport


def _read_part(settings: Settings, progress: Progress) -> Part:
    from medvqa_cli.data.analysis.inspection import inspect_images
    from medvqa_cli.data.images import warn_burned_in

    prepared, language = open_data(settings, progress), choose_language(settings)
    stored = {split: _count_languages(prepared.path, split) for split in prepared.counts}
    check_language(prepared.name, language, sum(stored.values(), Counter()))
    splits = {split: SelectedSplit(settings, prepared.path, split, language) for split in prepared.counts}
    images = inspect_images((sample for samples in splits.values() for sample in samples), settings.data.max_pixels,
                            progress, workers=settings.data.workers, find_text=warn_burned_in,
                            cache=prepared.path / HASHES)
    return Part(prepared, stored, describe_selection(settings, language), splits, images)


def _write_page(path: Path, document: dict[str, Any], max_pixels: int) -> None:
    from medvqa_cli.data.images import make_thumbnail
    from medvqa_cli.reporting.analysis import list_pictures, render_analysis

    thumbnails = {picture: make_thumbnail(picture, THUMBNAIL_PIXELS, max_pixels) for picture in list_pictures(document)}
    write_atomically(path, render_analysis(document, thumbnails, written=now()))


def _compare(settings: Settings, ours: Part, name: str, progress: Progress) -> dict[str, Any]:
    """Return what the examined data set shares with another one, of which all questions in all languages count."""
    from medvqa_cli.data.analysis.audit import compare_datasets

    theirs = _read_part(choose_dataset(settings, name, language=ALL, question_type=ALL, limit=None, subsample=None),
                        progress)
    return compare_datasets(ours.splits, theirs.splits, ours.images, theirs.images, name=theirs.prepared.name)


def _count_languages(folder: Path, split: str) -> Counter[str]:
    return Counter(sample.language for sample in iterate_split(folder, split))


def describe_selection(settings: Settings, language: str) -> dict[str, Any]:
    """Return which questions the settings select, as plain JSON values."""
    return {"language": language, "question_type": settings.data.question_type, "subsample": settings.data.subsample,
            "limit": settings.data.limit, "seed": settings.seed, "text_only": settings.data.text_only}


def check_data(settings: Settings, progress: Progress = SILENT) -> DataCheck:
    """Let only data with a passing analysis through to training.

    A missing analysis is made where that is cheap and `data.analyze` is "auto".

    Raises:
        DataError: If there is no analysis, or it found a fault that forbids training.
        MedVQAError: As `prepare_data`.
    """
    if settings.data.skip_check:
        progress.warn(UNCHECKED)
        return DataCheck("skipped", (UNCHECKED, *find_warnings(settings)))
    prepared = open_data(settings, progress)
    document = find_analysis(settings, prepared) or _analyze_if_cheap(settings, prepared, progress)
    if not document["verdict"]["ready"]:
        faults = " ".join(fault["message"] for fault in document["verdict"]["faults"])
        raise DataError(f"The data set '{prepared.name}' is not ready for training: {faults}",
                        f"Mend its files and run `{_name_command(settings, 'prepare')}`, or train all the same with "
                        "--skip-data-check.")
    return DataCheck("passed", _list_warnings(document, settings), document)


def find_analysis(settings: Settings, prepared: PreparedData) -> dict[str, Any] | None:
    """Return the analysis that is there, if it is one of these data and covers what the settings select."""
    from medvqa_cli.data.analysis.readiness import covers

    document = _read_analysis(prepared.path / ANALYSIS)
    wanted = describe_selection(settings, choose_language(settings))
    if document is None or document.get("fingerprint") != prepared.fingerprint:
        return None
    if document["selection"].get("text_only", False) != settings.data.text_only:
        return None
    return document if covers(document["selection"], wanted) else None


def find_warnings(settings: Settings) -> tuple[str, ...]:
    """Return what an analysis, if there is one, warns of; nothing is analysed."""
    document = find_analysis(settings, open_data(settings, SILENT))
    return _list_warnings(document, settings) if document else ()


def _analyze_if_cheap(settings: Settings, prepared: PreparedData, progress: Progress) -> dict[str, Any]:
    questions, images = sum(prepared.counts.values()), prepared.images
    if settings.data.analyze == "auto" and questions <= MAX_CHEAP_QUESTIONS and images <= MAX_CHEAP_IMAGES:
        progress.say(f"'{prepared.name}' {_describe_gap(settings, prepared)}: analysing {images:,} images.")
        whole = settings.data.model_copy(update={"limit": None, "subsample": None})
        return analyze_data(settings.model_copy(update={"data": whole}), page=False, progress=progress)
    raise DataError(f"DATA ANALYSIS NOT FOUND: '{prepared.name}' ({questions:,} questions, {images:,} images) "
                    f"{_describe_gap(settings, prepared)}.",
                    f"Run `{_name_command(settings, 'analyze')}`, or train without it: --skip-data-check.")


def _describe_gap(settings: Settings, prepared: PreparedData) -> str:
    """Return why no analysis that is there will do."""
    document = _read_analysis(prepared.path / ANALYSIS)
    if document is None:
        return "has not been analysed yet"
    if document.get("fingerprint") != prepared.fingerprint:
        return "has changed since it was analysed"
    made, wanted = document["selection"], describe_selection(settings, choose_language(settings))
    others = [f"{key} {made.get(key)} instead of {value}" for key, value in wanted.items() if made.get(key) != value]
    return f"was analysed with other settings ({', '.join(others)})"


def _name_command(settings: Settings, action: str) -> str:
    parts = [f"medvqa data {action} {settings.data.dataset}"]
    if action == "analyze" and settings.data.language:
        parts.append(f"--language {settings.data.language}")
    return " ".join(parts)


def _list_warnings(document: dict[str, Any], settings: Settings) -> tuple[str, ...]:
    from medvqa_cli.data.analysis.readiness import summarize_warnings

    return tuple(summarize_warnings(document, describe_selection(settings, choose_language(settings))))


def _read_analysis(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return document if isinstance(document, dict) and "verdict" in document else None


def find_page(settings: Settings) -> Path:
    """Return where the page of plots of the settings' data set is kept."""
    return open_data(settings, SILENT).path / PAGE

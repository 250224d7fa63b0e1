"""`medvqa data`: original files to a prepared store, and samples from it.

`prepare_data` reads, checks and keeps a data set, and does nothing if nothing has changed; `load_samples` returns what
the settings select of one split, prepared on first use.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from medvqa_cli import __version__, plugins
from medvqa_cli.data.selection import ALL, draw_subsample, filter_answer_type, filter_language
from medvqa_cli.data.store import fingerprint_files, lock_store, read_facts, read_split, write_store
from medvqa_cli.errors import DataError, SettingsError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import write_json
from medvqa_cli.runs import now
from medvqa_cli.settings.options import read_options
from medvqa_cli.workflows.sources import DataSource, find_source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pydantic import BaseModel

    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.schema import Settings

PACKAGES = ("datasets", "pyarrow", "pillow")


@dataclass(frozen=True, slots=True)
class PreparedData:
    """A data set that is ready for use.

    Attributes:
        name: The data set's name; also the store's folder name.
        path: The store's folder.
        fingerprint: Hash of the data set's name, its options and its files.
        counts: Questions per split, all languages and types.
        skipped: Questions left out: split, question_id, image, reason of each.
        fresh: Whether it was prepared just now.
    """

    name: str
    path: Path
    fingerprint: str
    counts: dict[str, int]
    skipped: list[dict[str, str]]
    fresh: bool


def prepare_data(settings: Settings, *, force: bool = False, progress: Progress = SILENT) -> PreparedData:
    """Read a data set's original files, check them, and keep them as a store.

    Nothing is done if the store is there and neither the files nor the settings it depends on have changed.

    Args:
        settings: `data.dataset`, `data.root`, `data.options`, `data.missing_images`, `data.max_pixels`, `aliases`
            and `paths.prepared` count.
        force: Prepare anew in any case.
        progress: Where to report.

    Raises:
        PluginError: If the data set is unknown.
        SettingsError: If its options are wrong.
        DataError: If its files are missing, laid out wrongly or faulty.
    """
    return _prepare(find_source(settings), progress, force=force)


def _prepare(source: DataSource, progress: Progress, *, force: bool) -> PreparedData:
    named = None if source.is_generated else source.find_root(_read_known(source, force=force))
    with lock_store(source.folder):
        known = _read_known(source, force=force)
        root = named or source.make_files(progress, force=force)
        files = fingerprint_files(root)
        reason = "it was asked for" if force else source.find_change(known)
        if known and not reason and known["files"] != files:
            reason = "its files have changed"
        if known and not reason:
            progress.say(f"'{source.name}' is prepared and unchanged: {_describe_counts(known['counts'])}.")
            return _describe(source, known, fresh=False)
        progress.say(f"Preparing '{source.name}': {reason}.")
        return _write(source, root, files, progress)


def open_data(settings: Settings, progress: Progress = SILENT) -> PreparedData:
    """Return the prepared data set if it fits the settings, else prepare it, saying so.

    Whether the original files have changed since is not looked at: `prepare_data` does that.

    Raises:
        MedVQAError: As `prepare_data`.
    """
    return _open(find_source(settings), progress)


def _open(source: DataSource, progress: Progress) -> PreparedData:
    known = read_facts(source.folder)
    if known and not source.find_change(known):
        return _describe(source, known, fresh=False)
    return _prepare(source, progress, force=False)


def load_samples(settings: Settings, split: str, progress: Progress = SILENT) -> list[VQASample]:
    """Return the questions of a split that the settings select, in the data set's order.

    Filters, in this order: language, question type, subsample (training split only), limit.

    Raises:
        DataError: If there is no such split, or no question is left.
        MedVQAError: As `prepare_data`, if it has to be prepared.
    """
    source = find_source(settings)
    prepared = _open(source, progress)
    if split not in prepared.counts:
        raise DataError(f"The data set '{prepared.name}' has no split '{split}'.",
                        f"It has: {_describe_counts(prepared.counts)}.")
    stored = read_split(prepared.path, split)
    language = _choose_language(settings, source)
    selected = select_samples(stored, split, settings, language)
    if not selected:
        found = Counter(f"{sample.language} {sample.answer_type}" for sample in stored)
        raise DataError(f"No question of '{prepared.name}', split '{split}', is left after the filters: language "
                        f"'{language}', question type '{settings.data.question_type}'.",
                        f"The split has: {_describe_counts(found)}.")
    return selected


def select_samples(samples: Sequence[VQASample], split: str, settings: Settings, language: str) -> list[VQASample]:
    """Return the samples of a split that the settings select, in one language or in "all"; see `load_samples`."""
    kept = filter_answer_type(filter_language(samples, language), settings.data.question_type)
    if settings.data.subsample and split == settings.data.train_split:
        kept = draw_subsample(kept, settings.data.subsample, settings.seed)
    return kept[: settings.data.limit]


def analyze_data(settings: Settings, progress: Progress = SILENT) -> dict[str, Any]:
    """Examine the questions that the settings select, and keep the result as `analysis.json` beside the store.

    Every picture is decoded once. The document's shape is described in `medvqa_cli.data.audit`.

    Raises:
        MedVQAError: As `prepare_data`. What the analysis finds is no error: see its "verdict".
    """
    from medvqa_cli.data.audit import audit_samples, inspect_images

    source = find_source(settings)
    prepared, language = _open(source, progress), _choose_language(settings, source)
    stored = {split: read_split(prepared.path, split) for split in prepared.counts}
    selected = {split: select_samples(samples, split, settings, language) for split, samples in stored.items()}
    images = inspect_images((sample for samples in selected.values() for sample in samples), settings.data.max_pixels,
                            progress)
    document = {
        "dataset": prepared.name,
        "fingerprint": prepared.fingerprint,
        "selection": {"language": language, "question_type": settings.data.question_type,
                      "subsample": settings.data.subsample, "limit": settings.data.limit, "seed": settings.seed},
        "stored": {split: dict(Counter(sample.language for sample in samples)) for split, samples in stored.items()},
        "skipped": len(prepared.skipped),
        **audit_samples(selected, images, train_split=settings.data.train_split),
    }
    write_json(prepared.path / "analysis.json", document)
    return document


def show_samples(settings: Settings, split: str, count: int, seed: int, progress: Progress = SILENT) -> list[VQASample]:
    """Return a few questions drawn at random from those the settings select.

    Raises:
        SettingsError: If `count` is below 1.
        MedVQAError: As `load_samples`.
    """
    if count < 1:
        raise SettingsError(f"The number of questions to show is {count}: it should be at least 1.")
    return draw_subsample(load_samples(settings, split, progress), count, seed)


def draw_sample(sample: VQASample, path: Path) -> None:
    """Draw a question's pictures with their boxes, the question and the answer to a picture file.

    Raises:
        DataError: If a picture cannot be read, or the file's name ends with neither .png nor .jpg.
        OSError: If the file cannot be written.
    """
    if path.suffix.lower() not in {".png", ".jpg", ".jpeg"}:
        raise DataError(f"'{path}' is no name for a picture.", "End it with .png or .jpg.")
    from medvqa_cli.data.drawing import draw_sample as draw

    path.parent.mkdir(parents=True, exist_ok=True)
    draw(sample).save(path)


def load_plugin_options(name: str, tree: Mapping[str, Any]) -> BaseModel | None:
    """Return a data set's own options, validated; None if it takes none.

    Args:
        name: Name or alias of a data set.
        tree: Plain values, as under `data.options`.

    Raises:
        SettingsError: Naming every wrong key as `data.options.KEY`, its value and what is allowed.
        PluginError: If the data set is unknown.
    """
    return read_options(plugins.datasets.get(name).Options, tree, "data.options")


def _read_known(source: DataSource, *, force: bool) -> dict[str, Any] | None:
    """Return the facts of the store that is there; preparing by force also mends a damaged one."""
    try:
        return read_facts(source.folder)
    except DataError:
        if not force:
            raise
        return None


def _write(source: DataSource, root: Path, files: str, progress: Progress) -> PreparedData:
    identity = [source.plugin_name, source.reader["options"], files]
    facts = {
        "name": source.name,
        "root": str(root),
        "reader": source.reader,
        "files": files,
        "fingerprint": hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16],
        "versions": {"medvqa": __version__} | {package: metadata.version(package) for package in PACKAGES},
        "created": now(),
    }
    progress.start(f"Preparing {source.name}", None, "question")
    written = write_store(source.folder, source.plugin.read(root, source.options), facts,
                          skip_missing=source.reader["missing_images"] == "skip",
                          max_pixels=source.reader["max_pixels"], progress=progress)
    progress.finish()
    if written["skipped"]:
        progress.warn(f"{len(written['skipped'])} questions left out: their images are missing or unreadable "
                      f"(listed in {source.folder / 'store.json'}).")
    return _describe(source, written, fresh=True)


def _describe(source: DataSource, facts: Mapping[str, Any], *, fresh: bool) -> PreparedData:
    return PreparedData(source.name, source.folder, facts["fingerprint"], facts["counts"], facts["skipped"], fresh)


def _describe_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in counts.items())


def _choose_language(settings: Settings, source: DataSource) -> str:
    """Return the language to keep: the user's, else the data set's own default; "all" keeps every language."""
    wanted = settings.data.language
    return (source.plugin.card.default_language if wanted is None else wanted) or ALL

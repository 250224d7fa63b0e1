"""`medvqa data`: original files to a prepared store, and samples from it.

`prepare_data` reads, checks and keeps a data set, and does nothing if nothing has changed; `load_samples` returns what
the settings select of one split, prepared on first use.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli import __version__, plugins
from medvqa_cli.data.prepared.store import fingerprint_files, lock_store, read_facts, read_split, write_store
from medvqa_cli.data.selection import ALL, draw_subsample, filter_answer_type, filter_language
from medvqa_cli.errors import DataError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.runs import now
from medvqa_cli.settings.options import read_options
from medvqa_cli.workflows.presentation import Presented, present_samples
from medvqa_cli.workflows.sources import DataSource, find_source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
        root: The folder or file its original files were read from.
        fingerprint: Hash of the data set's name, its options and its files.
        counts: Questions per split, all languages and types.
        images: Distinct images.
        closed_definition: What makes a question closed, as the files were read.
        skipped: Questions left out: split, question_id, image, reason of each.
        fresh: Whether it was prepared just now.
    """

    name: str
    path: Path
    root: Path
    fingerprint: str
    counts: dict[str, int]
    images: int
    closed_definition: str
    skipped: list[dict[str, str]]
    fresh: bool


def prepare_data(settings: Settings, *, force: bool = False, progress: Progress = SILENT) -> PreparedData:
    """Read a data set's original files, check them, and keep them as a store.

    Nothing is done if the store is there and neither the files nor the settings it depends on have changed.

    Args:
        settings: `data.dataset`, `data.root`, `data.source`, `data.revision`, `data.options`, `data.missing_images`,
            `data.max_pixels`, `data.embed_images`, `data.workers`, `datasets`, `aliases` and `paths.prepared` count.
        force: Prepare anew in any case.
        progress: Where to report.

    Raises:
        PluginError: If the data set is unknown.
        SettingsError: If its options are wrong.
        DataError: If its files are missing, laid out wrongly or faulty.
    """
    return _prepare(find_source(settings), progress, force=force, workers=settings.data.workers)


def _prepare(source: DataSource, progress: Progress, *, force: bool, workers: int) -> PreparedData:
    named = source.find_root(_read_known(source, force=force))
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
        progress.say(f"Preparing '{source.name}'{f': {reason}' if known else ''}.")
        facts = _describe_store(source, root, files, known)
        return _write(source, root, facts, progress, workers)


def open_data(settings: Settings, progress: Progress = SILENT) -> PreparedData:
    """Return the prepared data set if it fits the settings, else prepare it, saying so.

    Whether the original files have changed since is not looked at: `prepare_data` does that.

    Raises:
        MedVQAError: As `prepare_data`.
    """
    source = find_source(settings)
    known = read_facts(source.folder)
    if known and not source.find_change(known):
        return _describe(source, known, fresh=False)
    return _prepare(source, progress, force=False, workers=settings.data.workers)


def load_samples(settings: Settings, split: str, progress: Progress = SILENT) -> list[VQASample]:
    """Return the questions of a split that the settings select, as the model is to see them.

    That is: `choose_samples`, their images masked as `mask` says, with the facts that `knowledge` says.

    Raises:
        MedVQAError: As `choose_samples`.
    """
    return load_presented(settings, split, progress).samples


def load_presented(settings: Settings, split: str, progress: Progress = SILENT, *,
                   require_hits: bool = False) -> Presented:
    """Return what `load_samples` returns, with what was done to images and questions.

    Args:
        settings: What is selected, masked and added.
        split: The split.
        progress: Where to report.
        require_hits: Fail where fewer questions have a mask than `mask.require_hit_rate`.

    Raises:
        DataError: If too few questions have a mask.
        MedVQAError: As `choose_samples`.
    """
    chosen, prepared = choose_samples(settings, split, progress), open_data(settings, SILENT)
    return present_samples(chosen, settings, prepared.root, prepared.path, progress, require_hits=require_hits)


def choose_samples(settings: Settings, split: str, progress: Progress = SILENT) -> list[VQASample]:
    """Return the questions of a split that the settings select, as the data set has them and in its order.

    Filters, in this order: language, question type, subsample (training split only), limit.

    Raises:
        DataError: If there is no such split, or no question is left.
        MedVQAError: As `prepare_data`, if it has to be prepared.
    """
    prepared = open_data(settings, progress)
    if split not in prepared.counts:
        raise DataError(f"The data set '{prepared.name}' has no split '{split}'.",
                        f"It has: {_describe_counts(prepared.counts)}.")
    stored = read_split(prepared.path, split)
    language = choose_language(settings)
    check_language(prepared.name, language, Counter(sample.language for sample in stored))
    selected = select_samples(stored, split, settings, language)
    if not selected:
        found = Counter(f"{sample.language} {sample.answer_type}" for sample in stored)
        raise DataError(f"No question of '{prepared.name}', split '{split}', is left after the filters: language "
                        f"'{language}', question type '{settings.data.question_type}'.",
                        f"The split has: {_describe_counts(found)}.")
    return rename_dataset(selected, prepared.name)


def check_language(name: str, language: str, found: Mapping[str, int]) -> None:
    """Refuse a language that no question is in.

    Args:
        name: The data set's name.
        language: The language to keep; "all" is always there.
        found: Questions per language.

    Raises:
        DataError: Naming the languages there are.
    """
    if language != ALL and language not in found:
        raise DataError(f"No question of '{name}' is in the language '{language}'.",
                        f"It has: {_describe_counts(found)}. Name one of them with --language, or all.")


def rename_dataset(samples: Sequence[VQASample], name: str) -> list[VQASample]:
    """Return the samples with their data set's own name instead of the name of a reader that several share."""
    return [sample if sample.dataset == name else dataclasses.replace(sample, dataset=name) for sample in samples]


def select_samples(samples: Sequence[VQASample], split: str, settings: Settings, language: str) -> list[VQASample]:
    """Return the samples of a split that the settings select, in one language or in "all"; see `load_samples`."""
    kept = filter_answer_type(filter_language(samples, language), settings.data.question_type)
    if settings.data.subsample and split == settings.data.train_split:
        kept = draw_subsample(kept, settings.data.subsample, settings.seed)
    return kept[: settings.data.limit]


def choose_dataset(settings: Settings, name: str, **changes: Any) -> Settings:
    """Return the settings for another data set: where its files are and how they are read is its own affair."""
    own: dict[str, Any] = {"dataset": name, "root": None, "options": {}, "source": "auto", "revision": None}
    return settings.model_copy(update={"data": settings.data.model_copy(update=own | changes)})


def choose_language(settings: Settings) -> str:
    """Return the language to keep: the user's, else the data set's own default; "all" keeps every language."""
    wanted = settings.data.language
    return (find_source(settings).plugin.card.default_language if wanted is None else wanted) or ALL


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


def _find_origin(source: DataSource, root: Path, known: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return where the files came from; those taken up again keep what was known of them."""
    if source.originals.make:
        return source.origin
    if known and "origin" in known and known.get("root") == str(root) and not source.originals.identity:
        return dict(known["origin"])
    return {"kind": "local", "root": str(root)}


def _describe_store(source: DataSource, root: Path, files: str, known: Mapping[str, Any] | None) -> dict[str, Any]:
    identity = [source.plugin_name, source.reader["options"], files]
    embeds = source.reader["embed_images"] or bool(known and known.get("reader", {}).get("embed_images"))
    return {
        "name": source.name,
        "root": str(root),
        "origin": _find_origin(source, root, known),
        "reader": source.reader | {"embed_images": embeds},
        "closed_definition": _describe_closed(source, root),
        "files": files,
        "fingerprint": hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16],
        "versions": {"medvqa": __version__} | {package: metadata.version(package) for package in PACKAGES},
        "created": now(),
    }


def _describe_closed(source: DataSource, root: Path) -> str:
    """Return what makes a question closed: the reader's own word on these files, else its card's."""
    describe = getattr(source.plugin, "describe_closed", None)
    return str(describe(root, source.options)) if describe else source.plugin.card.closed_definition


def _write(source: DataSource, root: Path, facts: dict[str, Any], progress: Progress, workers: int) -> PreparedData:
    progress.start(f"Preparing {source.name}", None, "question")
    written = write_store(source.folder, source.plugin.read(root, source.options), facts,
                          skip_missing=source.reader["missing_images"] == "skip",
                          max_pixels=source.reader["max_pixels"], embed_images=facts["reader"]["embed_images"],
                          workers=workers, progress=progress)
    progress.finish()
    if written["skipped"]:
        progress.warn(f"{len(written['skipped'])} questions left out: their images are missing or unreadable "
                      f"(listed in {source.folder / 'store.json'}).")
    return _describe(source, written, fresh=True)


def _describe(source: DataSource, facts: Mapping[str, Any], *, fresh: bool) -> PreparedData:
    return PreparedData(source.name, source.folder, Path(facts["root"]), facts["fingerprint"], facts["counts"],
                        facts["images"], facts["closed_definition"], facts["skipped"], fresh)


def _describe_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in counts.items())



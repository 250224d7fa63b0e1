"""Every picture of a data set decoded once: can it be read, what are its pixels, what does it look like."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from medvqa_cli.data.analysis.image_hashes import hash_look, hash_pixels
from medvqa_cli.data.images import read_image
from medvqa_cli.errors import DataError, RunError
from medvqa_cli.progress import SILENT, Progress, track
from medvqa_cli.records import JsonlWriter, read_jsonl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from medvqa_cli.records import VQASample

T = TypeVar("T")
R = TypeVar("R")

VERSION = 1
"""Of the hashes: what a cache of another version holds is not used."""
_BATCH = 256


@dataclass(frozen=True, slots=True)
class ImageReport:
    """What decoding every picture gave.

    Attributes:
        hashes: Path -> hash of its pixels.
        unreadable: Path -> why it cannot be read.
        looks: Path -> perceptual hash; none for a picture of one shade.
        texts: Path -> why it may have text in its pixels, such as a patient's name.
    """

    hashes: Mapping[str, str] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    looks: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


class _Finding(NamedTuple):
    """One picture: its number of pixels, its two hashes, what was said of burned-in text; or why it is unreadable."""

    area: int = 0
    pixels: str = ""
    look: str = ""
    text: str | None = None
    fault: str = ""


def inspect_images(samples: Iterable[VQASample], max_pixels: int, progress: Progress = SILENT, *, workers: int = 0,
                   find_text: Callable[[str], str] | None = None, cache: Path | None = None) -> ImageReport:
    """Decode every distinct picture once.

    Threads do it, as decoding, shrinking and hashing leave Python's lock free for four fifths of the time (SLAKE's 642
    pictures: 4.7 s with one, 2.6 s with two on two cores), with no process to start.

    Args:
        samples: The questions; their `images` count. They are gone through once.
        max_pixels: Pictures with more pixels count as unreadable.
        progress: Counts pictures.
        workers: Pictures decoded at a time; 0 takes one a core.
        find_text: Says why a picture may have text in its pixels, such as `images.warn_burned_in`; empty if it has not.
        cache: A JSON-lines file that keeps the findings: pictures of unchanged size and time are not decoded again, nor
            after an interruption. Unreadable ones are tried each time.

    Raises:
        RunError: If the cache is damaged.
        MedVQAError: If a picture needs a package that is not installed.
    """
    paths = list(dict.fromkeys(path for sample in samples for path in sample.images))
    kept = _read_cache(cache) if cache else {}
    found = {path: finding for path in paths if kept and (finding := kept.get(_identify(path)))
             and finding.area <= max_pixels and (finding.text is not None or find_text is None)}
    missing = [path for path in paths if path not in found]
    looked = _map_in_threads(lambda path: _inspect(path, max_pixels, find_text), missing, workers)
    with JsonlWriter(cache) if cache else contextlib.nullcontext() as writer:
        for path, finding in track(zip(missing, looked, strict=True), progress, "Looking at images", len(missing),
                                   "image"):
            found[path] = finding
            if writer and not finding.fault:
                writer.write({"version": VERSION, "file": _identify(path), **finding._asdict()})
    return _report({path: found[path] for path in paths})


def _inspect(path: str, max_pixels: int, find_text: Callable[[str], str] | None) -> _Finding:
    try:
        image = read_image(path, max_pixels)
        text = find_text(path) if find_text else None
    except DataError as error:
        return _Finding(fault=error.message)
    return _Finding(image.width * image.height, hash_pixels(image), hash_look(image), text)


def _map_in_threads(function: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    """Yield the results in order; few are under way at a time, so that an interruption ends soon."""
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
    try:
        for start in range(0, len(items), _BATCH):
            yield from pool.map(function, items[start:start + _BATCH])
    finally:
        pool.shutdown(cancel_futures=True)


def _report(found: Mapping[str, _Finding]) -> ImageReport:
    readable = {path: finding for path, finding in found.items() if not finding.fault}
    return ImageReport({path: finding.pixels for path, finding in readable.items()},
                       {path: finding.fault for path, finding in found.items() if finding.fault},
                       {path: finding.look for path, finding in readable.items() if finding.look},
                       {path: finding.text for path, finding in readable.items() if finding.text})


def _read_cache(path: Path) -> dict[tuple[str, int, int], _Finding]:
    """Return what is kept, by the file it was found of. A line of another version, or of none, does not count."""
    if not path.exists():
        return {}
    rows = (row for row in read_jsonl(path) if row.get("version") == VERSION)
    try:
        return {tuple(row["file"]): _Finding(*(row[name] for name in _Finding._fields)) for row in rows}
    except (LookupError, TypeError) as error:
        raise RunError(f"'{path}' is damaged: a row lacks {error}.", "Delete it: it is made anew.") from error


def _identify(path: str) -> tuple[str, int, int]:
    """Return what changes when a file does; a missing one has size -1."""
    try:
        facts = Path(path).stat()
    except OSError:
        return path, -1, 0
    return path, facts.st_size, facts.st_mtime_ns

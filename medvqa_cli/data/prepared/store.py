"""Prepared data: Arrow files that `datasets.load_from_disk` opens, and what they were made from.

```
<prepared>/<name>/
  arrow/            a DatasetDict, one folder a split; pictures are paths, decoded by `datasets` on access
  images/           copies of the pictures, each distinct one once, if they were to be embedded
  store.json        reader, options, root, fingerprint, questions per split, questions left out, versions
  looked_at.jsonl   only while unfinished: the pictures already looked at, so that a killed preparation goes on
```

A new store is written beside the old one as `arrow.next` and `next.json`. From the moment next.json is there the new
one counts: putting it in place takes some steps, and whoever comes between them, or after a kill, reads the new one.
Paths below the store's folder are kept as they were written, and put right as they are read if it has been moved.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.files.fingerprints import fingerprint_files
from medvqa_cli.data.prepared.arrow import read_samples, write_splits
from medvqa_cli.data.prepared.image_checks import ImageGate, name_first
from medvqa_cli.errors import DataError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from medvqa_cli.records import VQASample

__all__ = ["fingerprint_files", "iterate_split", "lock_store", "read_facts", "read_split", "write_store"]
FACTS, NEXT_FACTS = "store.json", "next.json"
TABLES, NEXT_TABLES = "arrow", "arrow.next"


def read_facts(folder: Path) -> dict[str, Any] | None:
    """Return a store's store.json, or None if there is no whole store in the folder.

    Raises:
        DataError: If the file is damaged.
    """
    name = NEXT_FACTS if (folder / NEXT_FACTS).is_file() else FACTS
    hint = f"Run `medvqa data prepare {folder.name} --force`."
    try:
        facts = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"'{folder / name}' is damaged: {error}.", hint) from error
    if not isinstance(facts, dict):
        raise DataError(f"'{folder / name}' is damaged: it holds no object.", hint)
    return facts


def write_store(folder: Path, samples: Iterable[VQASample], facts: Mapping[str, Any], *, skip_missing: bool = False,
                max_pixels: int, embed_images: bool = False, workers: int = 1,
                progress: Progress = SILENT) -> dict[str, Any]:
    """Write samples as a store, in place of the one that may be there, and return its facts.

    Every distinct picture and mask is looked at once (see `check_image`); begun again after a kill, those looked at
    before and unchanged since are not. An error, Ctrl-C or kill leaves the old store, or the new one.

    Args:
        folder: The store's folder.
        samples: All samples of all splits; they are taken one at a time, so that any number fits into memory.
        facts: What else store.json is to hold; at least a "fingerprint".
        skip_missing: Leave out the questions whose picture is missing or unreadable, instead of failing.
        max_pixels: Pictures with more pixels count as unreadable.
        embed_images: Copy every distinct picture, mask and output image into the store; it then needs no other file.
        workers: Processes that look at pictures; 0 takes one a core.
        progress: Counts questions.

    Returns:
        `facts` with "folder" (where it was written), "counts" (questions per split), "images" (distinct ones, masks
        not counted) and "skipped" (a list of split, question_id, image, reason).

    Raises:
        DataError: If a sample is faulty, a picture is missing or unreadable (unless skipped), or nothing is left.
        MissingDependencyError: If a picture is DICOM and what reads it is not installed.
        OSError: If a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _put_in_place(folder)
    part = folder / f"{TABLES}.{os.getpid()}.part"
    try:
        with ImageGate(folder, max_pixels, embed=embed_images, workers=workers) as gate:
            counts = write_splits(part, gate.admit(samples), str(facts["fingerprint"]), progress)
        if not skip_missing:
            gate.refuse_faults()
        if not sum(counts.values()):
            raise DataError(f"The data set '{folder.name}' has no question{' left' if gate.skipped else ''}.",
                            "Check its files." if not gate.skipped else name_first(gate.skipped))
        written = {**facts, "folder": str(folder.resolve()), "counts": counts, "images": len(gate.images),
                   "skipped": gate.skipped}
        shutil.rmtree(folder / NEXT_TABLES, ignore_errors=True)
        part.rename(folder / NEXT_TABLES)
        write_json(folder / NEXT_FACTS, written)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    _put_in_place(folder)
    gate.tidy()
    return written


def _put_in_place(folder: Path) -> None:
    """Take the steps from a new store that counts to one in its place; those already taken are passed over."""
    if not (folder / NEXT_FACTS).is_file():
        return
    if (folder / NEXT_TABLES).is_dir():
        shutil.rmtree(folder / TABLES, ignore_errors=True)
        (folder / NEXT_TABLES).rename(folder / TABLES)
    (folder / NEXT_FACTS).replace(folder / FACTS)


def read_split(folder: Path, split: str) -> list[VQASample]:
    """Return the samples of one split, as the data set's reader made them.

    Raises:
        DataError: If the file is missing or damaged.
    """
    return list(iterate_split(folder, split))


def iterate_split(folder: Path, split: str) -> Iterator[VQASample]:
    """Yield the samples of one split, as the data set's reader made them, holding a thousand of them in memory.

    Raises:
        DataError: If the file is missing or damaged; what is cut off may show only at the end.
    """
    damaged = f"The prepared data of split '{split}' in '{folder}' are missing or damaged"
    hint = f"Run `medvqa data prepare {folder.name} --force`."
    try:
        facts = read_facts(folder) or {}
        expected, count = facts["counts"][split], 0
        is_next = (folder / NEXT_FACTS).is_file() and (folder / NEXT_TABLES).is_dir()
        tables = folder / (NEXT_TABLES if is_next else TABLES)
        for samples in read_samples(tables / split, _find_move(folder, facts)):
            count += len(samples)
            yield from samples
    except (OSError, ValueError, LookupError) as error:
        raise DataError(f"{damaged}: {error}.", hint) from error
    if count != expected:
        raise DataError(f"{damaged}: {count} of {expected} questions are there.", hint)


def _find_move(folder: Path, facts: Mapping[str, Any]) -> Callable[[str], str] | None:
    """Return what puts right the paths below a store that was written in another folder; None if it was not."""
    before, after = facts.get("folder"), str(folder.resolve())
    if before in (None, after):
        return None
    start = f"{before}{os.sep}"
    return lambda path: f"{after}{os.sep}{path[len(start):]}" if path.startswith(start) else path


@contextlib.contextmanager
def lock_store(folder: Path) -> Iterator[None]:
    """Let one process at a time prepare a store; others wait. What a killed one left half done is ended or removed.

    It has no effect on Windows, which has no flock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (folder / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        _put_in_place(folder)
        for part in [*folder.glob("*.part"), folder / NEXT_TABLES]:
            part.unlink() if part.is_file() else shutil.rmtree(part, ignore_errors=True)
        yield

"""Prepared data: Arrow files that `datasets.load_from_disk` opens, and what they were made from.

```
<prepared>/<name>/
  arrow/            a DatasetDict, one folder a split; pictures are paths, decoded by `datasets` on access
  store.json        reader, options, root, fingerprint, questions per split, questions left out, versions
```

store.json is removed first and written last: where it is, the store is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.arrow import read_rows, write_splits
from medvqa_cli.data.images import check_image
from medvqa_cli.data.rows import check_sample, decode_sample
from medvqa_cli.errors import DataError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from medvqa_cli.records import VQASample

TEXT_SUFFIXES = {".json", ".jsonl", ".csv", ".tsv", ".txt", ".xml", ".yaml", ".yml"}


def read_facts(folder: Path) -> dict[str, Any] | None:
    """Return a store's store.json, or None if there is no whole store in the folder.

    Raises:
        DataError: If the file is damaged.
    """
    hint = f"Run `medvqa data prepare {folder.name} --force`."
    try:
        facts = json.loads((folder / "store.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"'{folder / 'store.json'}' is damaged: {error}.", hint) from error
    if not isinstance(facts, dict):
        raise DataError(f"'{folder / 'store.json'}' is damaged: it holds no object.", hint)
    return facts


def write_store(folder: Path, samples: Iterable[VQASample], facts: Mapping[str, Any], *, skip_missing: bool = False,
                max_pixels: int, progress: Progress = SILENT) -> dict[str, Any]:
    """Write samples as a store, in place of the one that may be there, and return its facts.

    Every distinct picture and mask is looked at once (its header). Nothing is changed before all samples are written
    beside the old store; an error or Ctrl-C leaves the old store.

    Args:
        folder: The store's folder.
        samples: All samples of all splits; they are taken one at a time, so that any number fits into memory.
        facts: What else store.json is to hold; at least a "fingerprint".
        skip_missing: Leave out the questions whose picture is missing or unreadable, instead of failing.
        max_pixels: Pictures with more pixels count as unreadable.
        progress: Counts questions.

    Returns:
        `facts` with "counts" (questions per split) and "skipped" (a list of split, question_id, image, reason).

    Raises:
        DataError: If a sample is faulty, a picture is missing or unreadable (unless skipped), or nothing is left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"arrow.{os.getpid()}.part"
    try:
        gate = ImageGate(max_pixels)
        counts = write_splits(part, gate.admit(samples), str(facts["fingerprint"]), progress)
        gate.close(skip=skip_missing)
        if not sum(counts.values()):
            raise DataError(f"The data set '{folder.name}' has no question{' left' if gate.skipped else ''}.",
                            "Check its files." if not gate.skipped else _name_first(gate.skipped))
        written = dict(facts) | {"counts": counts, "skipped": gate.skipped}
        (folder / "store.json").unlink(missing_ok=True)
        shutil.rmtree(folder / "arrow", ignore_errors=True)
        part.rename(folder / "arrow")
        write_json(folder / "store.json", written)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return written


def read_split(folder: Path, split: str) -> list[VQASample]:
    """Return the samples of one split, as the data set's reader made them.

    Raises:
        DataError: If the file is missing or damaged.
    """
    damaged = f"The prepared data of split '{split}' in '{folder}' are missing or damaged"
    hint = f"Run `medvqa data prepare {folder.name} --force`."
    try:
        samples = [decode_sample(row) for row in read_rows(folder / "arrow" / split)]
        expected = (read_facts(folder) or {})["counts"][split]
    except (OSError, ValueError, LookupError) as error:
        raise DataError(f"{damaged}: {error}.", hint) from error
    if len(samples) != expected:
        raise DataError(f"{damaged}: {len(samples)} of {expected} questions are there.", hint)
    return samples


def fingerprint_files(root: Path) -> str:
    """Return a hash of the files below a folder: relative names and sizes, and the content of text files.

    Pictures count by name and size, so that half a million of them cost no reading; times do not count, so that a
    copy has the same fingerprint. Hidden files are left out.
    """
    digest = hashlib.sha256()
    for path in sorted(_walk(root)):
        try:
            facts = path.stat()
            content = path.read_bytes() if path.suffix.lower() in TEXT_SUFFIXES and stat.S_ISREG(facts.st_mode) else b""
        except FileNotFoundError:  # a link to nowhere
            continue
        except OSError as error:
            raise DataError(f"'{path}' cannot be read: {error.strerror}.", "Change its permissions.") from error
        digest.update(f"{path.relative_to(root).as_posix()}\n{facts.st_size}\n".encode(errors="surrogateescape"))
        digest.update(content)
    return digest.hexdigest()


def _walk(root: Path) -> Iterator[Path]:
    """Yield the files below a folder, through links too, but no folder twice."""
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        subfolders[:] = [] if real in seen else [name for name in subfolders if not name.startswith(".")]
        if real not in seen:
            yield from (Path(folder, name) for name in names if not name.startswith("."))
        seen.add(real)


@contextlib.contextmanager
def lock_store(folder: Path) -> Iterator[None]:
    """Let one process at a time prepare a store; others wait. What a killed one left half done is removed.

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
        for part in folder.glob("*.part"):
            shutil.rmtree(part, ignore_errors=True)
        yield


class ImageGate:
    """Lets samples pass whose pictures can be opened, looking at each distinct file once."""

    def __init__(self, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        self.skipped: list[dict[str, str]] = []
        self._faults: dict[str, str] = {}

    def admit(self, samples: Iterable[VQASample]) -> Iterator[VQASample]:
        """Yield the samples whose pictures and masks are all right; note the others in `skipped`.

        Raises:
            DataError: If a sample itself is faulty.
        """
        for sample in samples:
            check_sample(sample)
            paths = (*sample.images, *sample.masks, *sample.output_images)
            bad = next((path for path in paths if self._find_fault(path)), None)
            if bad is None:
                yield sample
            else:
                self.skipped.append({"split": sample.split, "question_id": sample.question_id, "image": bad,
                                     "reason": self._faults[bad]})

    def close(self, *, skip: bool) -> None:
        """Raise the first fault, if there is one and it is not to be skipped."""
        if self.skipped and not skip:
            images = len({row["image"] for row in self.skipped})
            raise DataError(f"{_name_first(self.skipped)} (Unusable images in all: {images}; their questions: "
                            f"{len(self.skipped)}.)",
                            "Extract the images again, or leave these questions out with --missing-images skip.")

    def _find_fault(self, path: str) -> str:
        if path not in self._faults:
            self._faults[path] = self._check(path)
        return self._faults[path]

    def _check(self, path: str) -> str:
        try:
            check_image(path, self.max_pixels)
        except DataError as error:
            return error.message
        return ""


def _name_first(skipped: list[dict[str, str]]) -> str:
    first = skipped[0]
    return f"Question '{first['question_id']}' of split '{first['split']}': {first['reason']}"

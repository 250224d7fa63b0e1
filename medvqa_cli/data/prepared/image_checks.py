"""Every image of a data set looked at once, also if preparing it is killed and begun again."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from medvqa_cli.data.prepared.image_copies import look_at_image, remove_unused
from medvqa_cli.data.prepared.image_workers import ImageWorkers
from medvqa_cli.data.prepared.rows import PICTURES, check_sample, list_pictures
from medvqa_cli.errors import DataError, RunError
from medvqa_cli.records import JsonlWriter, read_jsonl

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from medvqa_cli.data.prepared.image_copies import Look
    from medvqa_cli.records import VQASample

BATCH_SAMPLES = 5000
FEW_IMAGES = 500
"""So many are looked at before processes are started for the rest."""


class ImageGate:
    """Lets samples pass whose images can be used, looking at each distinct file once; to be closed after use.

    Attributes:
        skipped: The samples that did not pass: split, question_id, image, reason of each.
        images: The distinct images of those that did, masks not counted.

    Args:
        folder: The store's folder.
        max_pixels: Images with more pixels cannot be used.
        embed: Copy the images into the store, and let the samples point there.
        workers: Processes that look at images; 0 takes one a core.
    """

    def __init__(self, folder: Path, max_pixels: int, *, embed: bool = False, workers: int = 1) -> None:
        self.skipped: list[dict[str, str]] = []
        self.images: set[str] = set()
        self._max_pixels, self._num_workers = max_pixels, workers or count_cores()
        self._folder = folder.resolve() / "images"
        self._copies = self._folder if embed else None
        self._looks: dict[str, Look] = {}
        self._journal = Journal(folder / "looked_at.jsonl", {"max_pixels": max_pixels, "embed": embed})
        self._workers: ImageWorkers | None = None
        self._stack = contextlib.ExitStack()

    def admit(self, samples: Iterable[VQASample]) -> Iterator[VQASample]:
        """Yield the samples whose images and masks are all right; note the others in `skipped`.

        Raises:
            DataError: If a sample itself is faulty.
            MissingDependencyError: If an image is DICOM and what reads it is not installed.
            OSError: If an image cannot be copied.
        """
        stream = iter(samples)
        while batch := list(islice(stream, BATCH_SAMPLES)):
            for sample in batch:
                check_sample(sample)
            self._look(list(dict.fromkeys(path for sample in batch for path in list_pictures(sample)
                                          if path not in self._looks)))
            yield from (self._embed(sample) for sample in batch if self._is_usable(sample))

    def refuse_faults(self) -> None:
        """Raise the first fault, if there is one."""
        if self.skipped:
            images = len({row["image"] for row in self.skipped})
            raise DataError(f"{name_first(self.skipped)} (Unusable images in all: {images}; their questions: "
                            f"{len(self.skipped)}.)",
                            "Extract the images again, or leave these questions out with --missing-images skip.")

    def tidy(self) -> None:
        """Remove what the finished store does not need: the journal, and copies that no sample uses."""
        self._journal.remove()
        remove_unused(self._folder, {copy for _, copy in self._looks.values() if copy})

    def _is_usable(self, sample: VQASample) -> bool:
        bad = next((path for path in list_pictures(sample) if self._looks[path][0]), None)
        if bad is not None:
            self.skipped.append({"split": sample.split, "question_id": sample.question_id, "image": bad,
                                 "reason": self._looks[bad][0]})
        else:
            self.images.update(sample.images)
        return bad is None

    def _embed(self, sample: VQASample) -> VQASample:
        if not self._copies:
            return sample
        copies: dict[str, Any] = {}
        for name in PICTURES:
            copies[name] = tuple(str(self._copies / self._looks[path][1]) for path in getattr(sample, name))
        return dataclasses.replace(sample, **copies)

    def _look(self, paths: Sequence[str]) -> None:
        """Look at images not seen before, or trust the journal of a preparation that was killed."""
        new = []
        for path in paths:
            copy = self._journal.find(path)
            if copy is None or (self._copies and not (self._copies / copy).is_file()):
                new.append(path)
            else:
                self._looks[path] = "", copy
        for path, look in self._look_at_all(new):
            self._looks[path] = look
            if not look[0]:  # a faulty image may have been mended the next time
                self._journal.add(path, look[1])

    def _look_at_all(self, paths: Sequence[str]) -> Iterator[tuple[str, Look]]:
        alone = len(paths) if self._num_workers == 1 else max(0, FEW_IMAGES - len(self._looks))
        yield from ((path, look_at_image(path, self._max_pixels, self._copies)) for path in paths[:alone])
        if len(paths) > alone:
            if not self._workers:
                workers = ImageWorkers(self._num_workers, self._max_pixels, self._copies)
                self._workers = self._stack.enter_context(workers)
            yield from self._workers.look(paths[alone:])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self._journal.close()


class Journal:
    """An append-only file of the images found to be all right, with their size, time of change, and copy.

    Args:
        path: The file; it is made when there is something to note.
        conditions: What the looks depend on: a journal kept under others is forgotten, and so is a damaged one.
    """

    def __init__(self, path: Path, conditions: dict[str, Any]) -> None:
        self._path, self._conditions = path, conditions
        self._writer: JsonlWriter | None = None
        self._known = self._read()

    def _read(self) -> dict[str, tuple[int, int, str]]:
        try:
            rows = read_jsonl(self._path)
            if next(rows, None) == self._conditions:
                return {row["path"]: (row["size"], row["mtime_ns"], row["copy"]) for row in rows}
        except (RunError, KeyError):
            pass
        self.remove()
        return {}

    def find(self, path: str) -> str | None:
        """Return the name of an image's copy ("" without copies) if it was all right and has not changed since."""
        known = self._known.get(path)
        return known[2] if known and known[:2] == _read_state(path) else None

    def add(self, path: str, copy: str) -> None:
        """Note that an image is all right."""
        state = _read_state(path)
        if state is None:
            return
        if self._writer is None:
            is_new = not self._known
            self._writer = JsonlWriter(self._path)
            if is_new:
                self._writer.write(self._conditions)
        self._writer.write({"path": path, "size": state[0], "mtime_ns": state[1], "copy": copy})

    def close(self) -> None:
        """Close the file."""
        if self._writer:
            self._writer.close()

    def remove(self) -> None:
        """Remove the file."""
        self.close()
        self._path.unlink(missing_ok=True)


def _read_state(path: str) -> tuple[int, int] | None:
    try:
        facts = os.stat(path)  # noqa: PTH116 - there may be half a million, and Path takes longer
    except (OSError, ValueError):
        return None
    return facts.st_size, facts.st_mtime_ns


def count_cores() -> int:
    """Return the number of processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def name_first(skipped: list[dict[str, str]]) -> str:
    """Return the first of `ImageGate.skipped` as a sentence."""
    first = skipped[0]
    return f"Question '{first['question_id']}' of split '{first['split']}': {first['reason']}"

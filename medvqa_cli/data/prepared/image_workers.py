"""Processes that look at images.

Looking holds Python's lock: threads gain nothing (measured: 8,400 images a second alone, 7,000 with two threads, 16,000
with two processes). The processes are started by hand, because those of `multiprocessing` import the caller's script
again, and outlive it when it is killed; these end when their input does.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self

from medvqa_cli.data.prepared.image_copies import look_at_image
from medvqa_cli.errors import DataError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from medvqa_cli.data.prepared.image_copies import Look

CHUNK_IMAGES = 32


class ImageWorkers:
    """Some processes that look at images, as `look_at_image` does; to be closed after use.

    Args:
        count: How many.
        max_pixels: As in `look_at_image`.
        copies: As in `look_at_image`.
    """

    def __init__(self, count: int, max_pixels: int, copies: Path | None) -> None:
        self._max_pixels, self._copies = max_pixels, copies
        task = json.dumps([max_pixels, str(copies) if copies else None])
        self._processes = [_start_process(task) for _ in range(count)]
        self._idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
        for process in self._processes:
            self._idle.put(process)
        self._threads = ThreadPoolExecutor(count)  # each waits for one process at a time

    def look(self, paths: Sequence[str]) -> Iterator[tuple[str, Look]]:
        """Look at every image; yields them in order.

        Raises:
            DataError: If a process has died.
            MissingDependencyError: As `look_at_image`.
            OSError: As `look_at_image`.
        """
        chunks = [paths[start : start + CHUNK_IMAGES] for start in range(0, len(paths), CHUNK_IMAGES)]
        for chunk, looks in zip(chunks, self._threads.map(self._ask, chunks), strict=True):
            for path, look in zip(chunk, looks, strict=True):  # what failed fails here again, as the error it is
                yield path, (look[0], look[1]) if look else look_at_image(path, self._max_pixels, self._copies)

    def _ask(self, paths: Sequence[str]) -> list[Look | None]:
        process = self._idle.get()
        assert process.stdin
        assert process.stdout
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(paths) + "\n")
            process.stdin.flush()
        answer = process.stdout.readline()
        self._idle.put(process)
        if not answer.endswith("\n"):
            raise DataError(f"A process that looks at images has died (exit code {process.wait()}) between "
                            f"'{paths[0]}' and '{paths[-1]}'.", "Run the same command again with --workers 1.")
        looks: list[Look | None] = json.loads(answer)
        return looks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.communicate()


def _start_process(task: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-P", "-m", "medvqa_cli.data.prepared.image_workers", task]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,  # noqa: S603 - this very file
                            text=True, encoding="ascii", env={**os.environ, "PYTHONPATH": paths},
                            start_new_session=True)  # Ctrl-C is the caller's: it ends them


def serve(task: str) -> None:
    """Answer lists of paths on standard input with their looks on standard output, one line each, until it ends."""
    max_pixels, copies = json.loads(task)
    folder = Path(copies) if copies else None
    for line in sys.stdin:
        looks = [_try_look(path, max_pixels, folder) for path in json.loads(line)]
        sys.stdout.write(json.dumps(looks) + "\n")
        sys.stdout.flush()


def _try_look(path: str, max_pixels: int, copies: Path | None) -> Look | None:
    """Return the look at an image, or None where looking raises what is no fault of the image."""
    try:
        return look_at_image(path, max_pixels, copies)
    except (MissingDependencyError, OSError):
        return None


if __name__ == "__main__":
    serve(sys.argv[1])

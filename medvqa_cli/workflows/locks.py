"""One process at a time trains a run, and one writes each of its files.

Locks are files that stay; what counts is who holds them: a killed process lets go of its own at once, whatever workers
it leaves behind. They have no effect on Windows, and on file systems without locks.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

from medvqa_cli.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from medvqa_cli.runs import Run

FILE = ".lock"


@contextlib.contextmanager
def hold_run(run: Run) -> Iterator[None]:
    """Keep others from training a run.

    Raises:
        RunError: If another process is training it.
    """
    busy = RunError(f"Run '{run.name}' is being trained by another process.",
                    f"See how far it is: medvqa train watch {run.name}")
    with _hold(run.path / FILE, busy):
        yield


@contextlib.contextmanager
def hold_rows(path: Path) -> Iterator[None]:
    """Keep others from adding rows to a file.

    Raises:
        RunError: If another process adds rows to it.
    """
    apart = " Other answers are kept apart by --tag NAME." if path.name.startswith("predictions") else ""
    busy = RunError(f"Another process is writing '{path}'.",
                    f"Wait until it has ended, then run the same command again: it does what is left.{apart}")
    with _hold(path.with_name(f".{path.stem}.lock"), busy):
        yield


@contextlib.contextmanager
def take_turns(path: Path) -> Iterator[None]:
    """Wait until no other process changes a file, then keep it from being changed; it is for what takes a moment."""
    with _hold(path.with_name(f".{path.stem}.lock"), None):
        yield


@contextlib.contextmanager
def _hold(lock: Path, busy: RunError | None) -> Iterator[None]:
    """Hold a lock; if another process does, raise `busy`, or wait where there is none."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with lock.open("w") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except OSError as error:
            if busy and error.errno in {errno.EACCES, errno.EAGAIN}:
                raise busy from error
            if error.errno not in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}:
                raise
        yield

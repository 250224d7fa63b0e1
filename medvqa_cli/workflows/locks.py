"""One process at a time trains a run."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

from medvqa_cli.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medvqa_cli.runs import Run

FILE = ".lock"


@contextlib.contextmanager
def hold_run(run: Run) -> Iterator[None]:
    """Keep others from training a run; a killed process lets go of it at once, whatever workers it leaves behind.

    It has no effect on Windows, and on file systems without locks.

    Raises:
        RunError: If another process is training it.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (run.path / FILE).open("w") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in {errno.EACCES, errno.EAGAIN}:
                raise RunError(f"Run '{run.name}' is being trained by another process.",
                               f"See how far it is: medvqa train watch {run.name}") from error
            if error.errno not in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}:
                raise
        yield

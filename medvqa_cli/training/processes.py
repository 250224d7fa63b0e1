"""Several processes that train one model: they start together, stop together, and one of them speaks and writes.

torchrun or accelerate starts them and says in the environment which is which; DistributedDataParallel adds their
gradients. What is here lets the main process work alone for hours before the others are needed.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import distributed

from medvqa_cli.errors import MedVQAError, RunError
from medvqa_cli.models.placement import count_processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
PATIENCE = timedelta(hours=12)
"""How long processes wait for the main one, which may be preparing data."""
_waiting: list[Any] = []
"""The group whose messages may take that long; there is one a process."""


def is_main() -> bool:
    """Return whether this process writes and speaks: the only one, or the first."""
    return int(os.environ.get("RANK") or 0) == 0


def join() -> None:
    """Meet the other processes, if there are any."""
    if count_processes() == 1 or _waiting:
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK") or 0))
    if not distributed.is_initialized():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    _waiting.append(distributed.new_group(backend="gloo", timeout=PATIENCE))


def leave() -> None:
    """Part from the other processes."""
    if _waiting:
        _waiting.clear()
        distributed.destroy_process_group()


def tell(value: Any = None) -> Any:
    """Return the main process's `value` in every process; the others wait for it."""
    if not _waiting:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0, group=_waiting[0], device=torch.device("cpu"))
    return box[0]


def agree(wish: bool) -> bool:
    """Return in every process whether any of them wishes something."""
    if not _waiting:
        return wish
    votes = torch.tensor([float(wish)])
    distributed.all_reduce(votes, distributed.ReduceOp.MAX, group=_waiting[0])
    return bool(votes)


def follow(main: Callable[[], Any]) -> Any:
    """Return in every process what `main` returns in the main one.

    Raises:
        BaseException: In the main process, what `main` raises.
        SystemExit: In the others, if it does: they end in silence.
    """
    if is_main():
        try:
            value = main()
        except BaseException:
            tell((False, None))
            raise
        return tell((True, value))[1]
    succeeded, value = tell()
    if not succeeded:
        raise SystemExit(0)
    return value


def together(action: Callable[[], T]) -> T:
    """Return what `action` returns in this process, once it has succeeded in all of them.

    Raises:
        MedVQAError: What `action` raises, in the main process; in another one, only if the main one succeeds.
        SystemExit: In the others, where any was refused: they end in silence.
    """
    value, refusal = None, None
    try:
        value = action()
    except MedVQAError as error:
        refusal = error
    speaks = not tell(refusal is not None) or is_main()
    is_refused = agree(refusal is not None)
    if refusal and speaks:
        raise refusal
    if is_refused:
        raise SystemExit(0)
    return cast("T", value)


@contextmanager
def explained_loss(resume: str) -> Iterator[None]:
    """Turn what gloo and NCCL raise when another process is gone into one error that names the command to go on by."""
    try:
        yield
    except RuntimeError as error:
        if count_processes() == 1 or not any(sign in str(error) for sign in ("Connection", "gloo", "NCCL", "TCPStore")):
            raise
        raise RunError("Another process of this training has ended; its message says why.",
                       f"Then: {resume}") from error

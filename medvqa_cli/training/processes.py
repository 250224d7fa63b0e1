"""Several processes that train one model: they start together, stop together, and one of them speaks and writes.

torchrun or accelerate starts them and says in the environment which is which; DistributedDataParallel adds their
gradients. What is here lets the main process work alone for hours before the others are needed.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from medvqa_cli.errors import RunError
from medvqa_cli.models.placement import count_processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


def name_resume(run: str, method: str, processes: int | None = None) -> str:
    """Return the command by which a run goes on: in as many processes as now, if not said otherwise."""
    number = processes or count_processes()
    return f"medvqa train {method} --resume {run}" + (f" --num-processes {number}" if number > 1 else "")


@contextmanager
def explained_loss(run: str, method: str) -> Iterator[None]:
    """Turn what gloo and NCCL raise when another process is gone into one error that says how to go on."""
    try:
        yield
    except RuntimeError as error:
        if count_processes() == 1 or not any(sign in str(error) for sign in ("Connection", "gloo", "NCCL", "TCPStore")):
            raise
        raise RunError("Another process of this training has ended; its message says why.",
                       f"Then: {name_resume(run, method)}") from error

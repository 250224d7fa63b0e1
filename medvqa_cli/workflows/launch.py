"""One command as several processes that train together, by torch's own launcher."""

from __future__ import annotations

import os
import sys
import uuid
from typing import TYPE_CHECKING

from medvqa_cli.errors import RunError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SECONDS_TO_STOP = 600
"""How long processes may take for their last step and its checkpoint once they are asked to stop."""


def process_number() -> int:
    """Return this process's number among those that train together, as torchrun and accelerate say; 0 if alone."""
    return int(os.environ.get("RANK") or 0)


def is_launched() -> bool:
    """Return whether a launcher has started this process, as one of several or the only one."""
    return "WORLD_SIZE" in os.environ


def count_wanted(processes: int, gpus: str | None) -> int:
    """Return how many processes to start: 1 to stay the only one.

    Args:
        processes: As typed; 0 if nothing was.
        gpus: As typed, such as "0,1": several start a process each.

    Raises:
        SettingsError: If there are fewer GPUs than processes on GPUs.
    """
    chosen = len(gpus.split(",")) if gpus else 0
    wanted = processes or max(chosen, 1)
    if is_launched() or wanted == 1:
        return 1
    if chosen:
        import torch

        if torch.cuda.device_count() < wanted:
            raise SettingsError(f"--gpu {gpus} starts {wanted} processes, one a GPU, but this machine shows "
                                f"{torch.cuda.device_count()} GPU(s).",
                                "Name GPUs that are there (medvqa doctor), or leave --gpu out.")
    return wanted


def launch(arguments: Sequence[str], processes: int) -> None:
    """Run `medvqa ARGUMENTS` as several processes on this machine and wait for them.

    The first Ctrl-C lets them write a checkpoint, the second ends them; if one fails, the others are ended.

    Raises:
        SystemExit: With their exit code, if they have said why; with 130 after Ctrl-C.
        RunError: If one was killed.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=uuid.uuid4().hex,
                          rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0,
                          logs_specs=DefaultLogsSpecs(log_dir=os.devnull), shutdown_timeout=SECONDS_TO_STOP)
    try:
        elastic_launch(config, sys.executable)("-m", "medvqa_cli", *arguments)
    except ChildFailedError as error:
        raise _explain_failure({number: failure.exitcode for number, failure in error.failures.items()}) from error
    except SignalException as error:
        raise SystemExit(128 + int(error.sigval)) from error


def _explain_failure(codes: Mapping[int, int]) -> SystemExit | RunError:
    """Return the exit code of a process that has said what is wrong, or an error if none could."""
    said = [code for _, code in sorted(codes.items()) if code > 0]
    if said:
        return SystemExit(said[0])
    number, code = min(codes.items())
    return RunError(f"Process {number} was ended by signal {-code}; it could not say why.",
                    "Signal 9 often means that memory ran out: a smaller --batch-size, or fewer processes.")

"""Ways of doing the same thing, measured in turn: time with its spread, peak memory."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from medvqa_cli.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
RESET_PEAK = "5"
"""What /proc/PID/clear_refs takes to set the peak back to what is resident now (Linux, proc(5))."""


@dataclass(slots=True)
class Arm(Generic[T]):
    """One way: its name, its work, and what was measured.

    Attributes:
        name: As it stands in the table.
        work: Does it once and returns what it came to.
        outcomes: What each timed round came to.
        seconds: Time of each timed round.
        peak_bytes: Most memory of any timed round: of the process on a CPU, of torch's allocator on a GPU; None where
            it cannot be known.
        failure: Why it was given up; empty if it was not.
        scale: How many times the whole is what the work does; its time is scaled up by this.
    """

    name: str
    work: Callable[[], T]
    outcomes: list[T] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    failure: str = ""
    scale: float = 1.0

    @property
    def median(self) -> float:
        """Median of the rounds' times, in seconds."""
        return statistics.median(self.seconds)


def alternate(arms: Sequence[Arm[Any]], rounds: int, device: Any, progress: Progress = SILENT) -> None:
    """Measure every arm once a round; each round begins with another arm, so that drift and heat hit all alike.

    An arm that runs out of a GPU's memory is given up, and says so.

    Args:
        arms: What is measured; the caller has warmed them up.
        rounds: Times each is measured.
        device: The torch device it runs on.
        progress: Where to report.
    """
    progress.start("Rounds", rounds * len(arms), "run")
    for number in range(rounds):
        shift = number % len(arms)
        for arm in (*arms[shift:], *arms[:shift]):
            if not arm.failure:
                _measure(arm, device)
            progress.advance(note=arm.name)
    progress.finish()


def attempt(arm: Arm[Any], work: Callable[[], T]) -> T | None:
    """Return what some work of an arm comes to; None, and its failure noted, if it runs out of a GPU's memory."""
    import torch

    try:
        return work()
    except torch.OutOfMemoryError:
        arm.failure = "out of memory"
        return None


def _measure(arm: Arm[Any], device: Any) -> None:
    memory = MemoryPeak(device)
    _wait(device)
    start = time.perf_counter()
    outcome = attempt(arm, arm.work)
    _wait(device)
    seconds = time.perf_counter() - start
    if arm.failure:
        return
    arm.outcomes.append(outcome)
    arm.seconds.append(seconds * arm.scale)
    peak = memory.read()
    arm.peak_bytes = None if peak is None else max(peak, arm.peak_bytes or 0)


def _wait(device: Any) -> None:
    """Wait for what has been handed to a GPU."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


class MemoryPeak:
    """The most memory used since it was made: by torch's allocator on CUDA, by the whole process on Linux."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._is_known = True
        gc.collect()
        if device.type == "cuda":
            import torch

            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            return
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # what the arm before has freed is no need of this one
        try:
            Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="ascii")
        except OSError:
            self._is_known = False

    def read(self) -> int | None:
        """Return the peak in bytes, or None where the system does not tell it."""
        if self._device.type == "cuda":
            import torch

            return int(torch.cuda.max_memory_allocated(self._device))
        if self._device.type != "cpu" or not self._is_known:
            return None
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return None


def summarize(arms: Sequence[Arm[Any]]) -> list[dict[str, Any]]:
    """Return every arm's time, spread and memory, and how many times faster it is than the first.

    The ratio is the median over rounds of the ratios within a round: both sides of each were measured side by side.
    """
    return [_summarize(arm, arms[0]) for arm in arms]


def _summarize(arm: Arm[Any], first: Arm[Any]) -> dict[str, Any]:
    if arm.failure or not arm.seconds:
        return {"name": arm.name, "failure": arm.failure or "not measured"}
    ratios = [slow / fast for slow, fast in zip(first.seconds, arm.seconds, strict=False)]
    spread = {"ratio": statistics.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios)} if ratios else {}
    measured = {"measured_share": 1 / arm.scale} if arm.scale != 1 else {}
    return {"name": arm.name, "seconds": arm.median, "seconds_low": min(arm.seconds), "seconds_high": max(arm.seconds),
            "peak_bytes": arm.peak_bytes, **spread, **measured}

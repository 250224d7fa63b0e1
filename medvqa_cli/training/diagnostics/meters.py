"""What a training step costs: tokens, seconds, memory; and the norms of its weights."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from medvqa_cli.models.adapters import WRAPPER
from medvqa_cli.models.targets import find_owner

if TYPE_CHECKING:
    from collections.abc import Callable

    from medvqa_cli.models.protocol import ModelLayout

MIB = 2**20


class Meter:
    """Counts tokens and the seconds of training steps; the device is waited for only when it is read.

    Args:
        keeps_losses: Whether `take_losses` will be called.
        clock: Returns seconds.
    """

    def __init__(self, *, keeps_losses: bool = True, clock: Callable[[], float] = time.perf_counter) -> None:
        self._keeps_losses = keeps_losses
        self._clock = clock
        self._began: float | None = None
        self._losses: list[torch.Tensor] = []
        self._clear()

    def _clear(self) -> None:
        self._steps, self._tokens, self._seconds = 0, 0, 0.0
        self._supervised: list[torch.Tensor] = []

    def start(self) -> None:
        """A step begins."""
        self._began = self._clock()

    def stop(self) -> None:
        """A step has ended."""
        if self._began is not None:
            self._steps += 1
            self._seconds += self._clock() - self._began
        self._began = None

    def count(self, tokens: int, loss: torch.Tensor, supervised: torch.Tensor) -> None:
        """Add a forward pass: its tokens, the sum of its losses in nats, and its supervised tokens."""
        self._tokens += tokens
        self._supervised.append(supervised)
        if self._keeps_losses:
            self._losses.append(loss / supervised)

    def read(self) -> dict[str, float]:
        """Return the means since the last reading, by tag, and begin anew; none without a step."""
        if not self._steps or not self._seconds or not self._supervised:
            return {}
        supervised = torch.stack(self._supervised).sum().item()
        found = {"train/supervised_tokens": supervised / self._steps,
                 "train/supervised_tokens_per_second": supervised / self._seconds,
                 "train/tokens_per_second": self._tokens / self._seconds}
        self._clear()
        return found

    def take_losses(self) -> torch.Tensor:
        """Return the mean loss of each forward pass since the last call, in nats a token, [N]; NaN is left out."""
        losses = torch.stack(self._losses).float().cpu() if self._losses else torch.zeros(0)
        self._losses = []
        return losses[losses.isfinite()]


def measure_memory() -> dict[str, float]:
    """Return the memory of the current GPU in MiB by tag; empty without one in use."""
    if not torch.cuda.is_initialized():
        return {}
    return {"gpu/memory_allocated_mib": torch.cuda.memory_allocated() / MIB,
            "gpu/memory_peak_mib": torch.cuda.max_memory_allocated() / MIB,
            "gpu/memory_reserved_mib": torch.cuda.memory_reserved() / MIB}


@torch.no_grad()
def measure_norms(model: Any, layout: ModelLayout) -> dict[str, float]:
    """Return the Euclidean norm of each part's trained parameters by tag."""
    squares: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.numel():
            part = find_owner(name.removeprefix(WRAPPER), layout)
            squares[part] = squares.get(part, 0.0) + parameter.float().square().sum().cpu()
    return {f"parameters/{part}/norm": square.sqrt().item() for part, square in squares.items()}

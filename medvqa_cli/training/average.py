"""The exponential moving average of what is trained."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from medvqa_cli.training.callbacks import LastingCallback

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import nn

FILE = "average.safetensors"


class WeightAverage(LastingCallback):
    """Averages the trainable weights over optimiser steps, in float32.

    After step t, from 1, the average moves by 1 - min(decay, (1 + t) / (10 + t)) of the way to the weights, so that the
    first steps do not hold it back.

    Source:
        Polyak and Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging"; the exponential form and its
        ramp are those of TensorFlow's ExponentialMovingAverage with num_updates.

    Args:
        model: What is trained; its frozen weights are left alone.
        decay: In [0, 1): 0.999 looks back over about 1,000 steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._average = {name: weight.detach().float().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the average towards the weights after an optimiser step."""
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        for name, weight in self._weights.items():
            self._average[name].lerp_(weight.detach().float(), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Have the average in the place of the weights for a while; they are as before after it."""
        kept = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self.apply()
        try:
            yield
        finally:
            _copy(kept, self._weights)

    def apply(self) -> None:
        """Put the average in the place of the weights, in their number format, for good."""
        _copy(self._average, self._weights)

    def save(self, checkpoint: Path) -> None:
        """Write the average into a checkpoint."""
        from safetensors.torch import save_file

        save_file({name: average.contiguous() for name, average in self._average.items()}, checkpoint / FILE)

    def load(self, checkpoint: Path) -> None:
        """Go on from the average of a checkpoint."""
        from safetensors.torch import load_file

        _copy(load_file(checkpoint / FILE), self._average)


@torch.no_grad()
def _copy(source: dict[str, torch.Tensor], target: dict[str, Any]) -> None:
    for name, weight in target.items():
        weight.copy_(source[name])

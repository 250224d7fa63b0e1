"""The weights of questions, carried to the tokens of their answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from medvqa_cli.models.packing import IGNORE

if TYPE_CHECKING:
    from collections.abc import Sequence


def spread_weights(labels: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Return each supervised token's weight, 0 elsewhere, [B, T] float32.

    Every answer is one unbroken run of supervised tokens, packed or not, since a segment begins with a token of its
    question; the runs come in the order of the samples.

    Args:
        labels: [B, T]; IGNORE where nothing is learned.
        weights: One for each sample of the batch, in order.

    Raises:
        ValueError: If there are not as many runs as weights.
    """
    supervised = labels != IGNORE
    starts = supervised.clone()
    starts[:, 1:] &= ~supervised[:, :-1]
    if int(starts.sum()) != len(weights):
        raise ValueError(f"{len(weights)} samples have {int(starts.sum())} answers in a batch")
    numbers = starts.flatten().cumsum(0).view(labels.shape) - 1
    spread = torch.tensor(weights, dtype=torch.float32)[numbers.clamp(min=0)]
    return spread * supervised


"""Blocks of a training with the epoch in which they are seen, which decides how their pictures are varied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from medvqa_cli.training.order import Block, TrainingOrder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.training.choices import ChoiceCollator
    from medvqa_cli.training.collation import Collator

Visit = tuple[int, Block]
"""An epoch, from 0, and a block seen in it."""


class Visits(Dataset[Visit]):
    """Every block of a whole training, in order, with its epoch: a function of its place, so that it is resumed too."""

    def __init__(self, order: TrainingOrder) -> None:
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Visit:
        return self.order.find_epoch(index), self.order[index]


@dataclass(frozen=True, slots=True)
class VisitCollator:
    """Turns visits into a batch, in the data-loader workers; a batch may begin in one epoch and end in the next."""

    collator: Collator | ChoiceCollator

    def __call__(self, visits: Sequence[Visit]) -> dict[str, Any]:
        """Return the tensors of one forward pass."""
        groups = [group for _, block in visits for group in block]
        return self.collator.collate(groups, [epoch for epoch, block in visits for _ in block])

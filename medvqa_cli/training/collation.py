"""Blocks of questions to the batches a trainer feeds on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.models.batches import build_batch
from medvqa_cli.training.weighting import spread_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.data.balance import LossWeights
    from medvqa_cli.models.encoding import SampleEncoder
    from medvqa_cli.training.order import Block, Group

WEIGHTS = "weights"
"""Name of the weights [B, T] in a batch."""


@dataclass(frozen=True, slots=True)
class Collator:
    """Turns blocks, each a few groups, into a batch, in the data-loader workers.

    `max_tokens` bounds a packed row; with `weights` each supervised token has its question's weight beside it;
    `apart` leaves pictures to a `FeatureCache`.
    """

    encoder: SampleEncoder
    packed: bool
    max_tokens: int
    weights: LossWeights | None = None
    apart: bool = False

    def __call__(self, blocks: Sequence[Block]) -> dict[str, Any]:
        """Return the tensors of one forward pass."""
        return self.collate([group for block in blocks for group in block])

    def arrange(self, groups: Sequence[Group]) -> list[Group]:
        """Return the groups as they are packed: questions that share a prefix beside one another."""
        return [tuple(self.encoder.arrange(group)) if self.packed else group for group in groups]

    def collate(self, groups: Sequence[Group], epochs: Sequence[int] | None = None) -> dict[str, Any]:
        """Return the tensors of one forward pass; with the epoch of each group, its pictures are varied."""
        groups = self.arrange(groups)
        batch = build_batch(self.encoder, groups, packed=self.packed, max_tokens=self.max_tokens, epochs=epochs,
                            apart=self.apart)
        if self.weights:
            weights = [self.weights.weigh(sample) for group in groups for sample in group]
            batch[WEIGHTS] = spread_weights(batch["labels"], weights)
        return batch

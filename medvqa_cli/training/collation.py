"""Blocks of questions to the batches a trainer feeds on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.models.batches import join_packs, list_packs
from medvqa_cli.training.weighting import spread_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.data.balance import LossWeights
    from medvqa_cli.models.batches import Pack
    from medvqa_cli.models.encoding import SampleEncoder
    from medvqa_cli.training.order import Block, Group

WEIGHTS = "weights"
"""Name of the weights [B, T] in a batch."""
MORE = "more"
"""Name in a batch of those that follow it."""


@dataclass(frozen=True, slots=True)
class Collator:
    """Turns blocks, each a few groups, into a batch, in the data-loader workers.

    `max_tokens` bounds a packed row; with `weights` each supervised token has its question's weight beside it;
    `apart` leaves pictures to a `FeatureCache`. Groups that are too long for a row make more rows than there are
    groups; with `divides` these come in further batches, under MORE, so that no forward pass is larger for them.
    """

    encoder: SampleEncoder
    packed: bool
    max_tokens: int | None
    weights: LossWeights | None = None
    apart: bool = False
    divides: bool = False

    def __call__(self, blocks: Sequence[Block]) -> dict[str, Any]:
        """Return the tensors of one forward pass."""
        return self.collate([group for block in blocks for group in block])

    def arrange(self, groups: Sequence[Group]) -> list[Group]:
        """Return the groups as they are packed: questions that share a prefix beside one another."""
        return [tuple(self.encoder.arrange(group)) if self.packed else group for group in groups]

    def collate(self, groups: Sequence[Group], epochs: Sequence[int] | None = None) -> dict[str, Any]:
        """Return the tensors of one forward pass; with the epoch of each group, its pictures are varied."""
        groups = self.arrange(groups)
        packs = list_packs(self.encoder, groups, packed=self.packed, max_tokens=self.max_tokens, epochs=epochs)
        weights = [self.weights.weigh(sample) for group in groups for sample in group] if self.weights else None
        most = len(groups) if self.divides else len(packs)
        parts, place = [], 0
        for start in range(0, len(packs), most):
            part = packs[start: start + most]
            end = place + sum(len(samples) for samples, _ in part)
            parts.append(self._join(part, weights[place:end] if weights else None))
            place = end
        return parts[0] | ({MORE: parts[1:]} if parts[1:] else {})

    def _join(self, packs: Sequence[Pack], weights: Sequence[float] | None) -> dict[str, Any]:
        batch = join_packs(self.encoder, packs, packed=self.packed, apart=self.apart)
        return batch if weights is None else batch | {WEIGHTS: spread_weights(batch["labels"], weights)}


def list_parts(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the batches of a batch's forward passes, one after the other."""
    return [{name: value for name, value in batch.items() if name != MORE}, *batch.get(MORE, ())]

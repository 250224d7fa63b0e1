"""In which order a training sees its questions: a function of samples, seed and position, and of nothing else.

A whole training is one sequence of blocks, epoch after epoch, so that it can be entered at any place: a resumed run, or
the second of several processes, sees exactly what it would have seen.
"""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

from torch.utils.data import Dataset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.records import VQASample

Group = tuple["VQASample", ...]
"""Samples that share their images."""
Block = tuple[Group, ...]
"""Groups that go through the model together, whatever else does."""


def group_by_image(samples: Sequence[VQASample], max_questions: int) -> list[Group]:
    """Return samples grouped by their images, in order of appearance, at most `max_questions` a group."""
    return [group for members in _share_images(samples) for group in _cut(members, max_questions)]


def _share_images(samples: Sequence[VQASample]) -> list[list[VQASample]]:
    by_image: dict[tuple[str, ...], list[VQASample]] = {}
    for sample in samples:
        by_image.setdefault(sample.images, []).append(sample)
    return list(by_image.values())


def _cut(members: Sequence[VQASample], most: int) -> list[Group]:
    """Cut samples into as few groups of at most `most` as there can be, as equal in size as they can be."""
    count = -(-len(members) // most)
    edges = [len(members) * number // count for number in range(count + 1)]
    return [tuple(members[start:end]) for start, end in itertools.pairwise(edges)]


class SampleBlocks(Dataset[Block]):
    """Blocks in the order they are given, such as those of the validation questions."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = list(blocks)

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> Block:
        return self.blocks[index]


class TrainingOrder(Dataset[Block]):
    """Every block of a whole training, in order.

    In each epoch the questions of an image are dealt anew to its groups, and the groups, or the fixed blocks of a
    mixture, come in a new order. Only the epoch under way is held.

    Args:
        samples: The training questions.
        max_questions: Most questions of a group.
        seed: Seed of the order.
        length: Blocks of the whole training; one epoch if not given.
        block: So many samples that follow one another make up a block, whose order within stays; None: a group each.
    """

    def __init__(self, samples: Sequence[VQASample], max_questions: int, *, seed: int,
                 length: int | None = None, block: int | None = None) -> None:
        self._units: list[list[VQASample]] = _share_images(samples) if block is None else [
            list(samples[start: start + block]) for start in range(0, len(samples), block)]
        self._max_questions = max_questions
        self._is_fixed = block is not None
        self.length = self.per_epoch if length is None else length
        self._seed = seed
        self._epoch = -1
        self._blocks: list[Block] = []

    @property
    def per_epoch(self) -> int:
        """Blocks in an epoch: the same in each."""
        if self._is_fixed:
            return len(self._units)
        return sum(-(-len(unit) // self._max_questions) for unit in self._units)

    def __len__(self) -> int:
        return self.length

    def find_epoch(self, index: int) -> int:
        """Return the epoch, from 0, that a block belongs to."""
        return index // self.per_epoch

    def __getitem__(self, index: int) -> Block:
        if not 0 <= index < self.length:
            raise IndexError(f"block {index} of {self.length}")
        epoch, place = divmod(index, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._blocks = epoch, self._arrange(epoch)
        return self._blocks[place]

    def _arrange(self, epoch: int) -> list[Block]:
        draw = random.Random(f"{self._seed} {epoch}")
        if self._is_fixed:
            blocks = [tuple(group_by_image(unit, self._max_questions)) for unit in self._units]
        else:
            blocks = [(group,) for unit in self._units
                      for group in _cut(draw.sample(unit, len(unit)), self._max_questions)]
        draw.shuffle(blocks)
        return blocks

"""In which order a training sees its questions: a function of samples, seed and position, and of nothing else.

A whole training is one sequence of blocks, epoch after epoch, so that it can be entered at any place: a resumed run, or
the second of several processes, sees exactly what it would have seen.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections import Counter
from functools import cached_property
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
        closed_share: Share of closed questions in each epoch, see `draw_share`; not with `block`. None: as they are.
    """

    def __init__(self, samples: Sequence[VQASample], max_questions: int, *, seed: int, length: int | None = None,
                 block: int | None = None, closed_share: float | None = None) -> None:
        self._samples = samples
        self._units: list[list[VQASample]] = _share_images(samples) if block is None else [
            list(samples[start: start + block]) for start in range(0, len(samples), block)]
        self._max_questions = max_questions
        self._is_fixed = block is not None
        self._share = closed_share
        self._seed = seed
        self._epoch = -1
        self._blocks: list[Block] = []
        self._starts = [0]
        self.length = self.per_epoch if length is None else length

    @cached_property
    def per_epoch(self) -> int:
        """Blocks in an epoch: the same in each, but for drawn questions, where it is those of the first one."""
        if self._share is not None:
            return self._find_start(1)
        if self._is_fixed:
            return len(self._units)
        return sum(-(-len(unit) // self._max_questions) for unit in self._units)

    def count_blocks(self, epochs: float) -> float:
        """Return the blocks of so many epochs, which need not be whole ones."""
        if self._share is None:
            return epochs * self.per_epoch
        whole = int(epochs)
        start = self._find_start(whole)
        return start + (epochs - whole) * (self._find_start(whole + 1) - start)

    def __len__(self) -> int:
        return self.length

    def find_epoch(self, index: int) -> int:
        """Return the epoch, from 0, that a block belongs to."""
        return self._locate(index)[0]

    def __getitem__(self, index: int) -> Block:
        if not 0 <= index < self.length:
            raise IndexError(f"block {index} of {self.length}")
        epoch, place = self._locate(index)
        if epoch != self._epoch:
            self._epoch, self._blocks = epoch, self._arrange(epoch)
        return self._blocks[place]

    def _locate(self, index: int) -> tuple[int, int]:
        """Return the epoch of a block and its place there."""
        if self._share is None:
            return divmod(index, self.per_epoch)
        while self._starts[-1] <= index:
            self._find_start(len(self._starts))
        epoch = bisect.bisect_right(self._starts, index) - 1
        return epoch, index - self._starts[epoch]

    def _find_start(self, epoch: int) -> int:
        """Return the first block of an epoch of drawn questions, which lie in other groups than those before."""
        while len(self._starts) <= epoch:
            self._starts.append(self._starts[-1] + len(self._arrange(len(self._starts) - 1)))
        return self._starts[epoch]

    def _arrange(self, epoch: int) -> list[Block]:
        draw = random.Random(f"{self._seed} {epoch}")
        if self._is_fixed:
            blocks = [tuple(group_by_image(unit, self._max_questions)) for unit in self._units]
        else:
            units = self._units if self._share is None else _share_images(
                draw_share(self._samples, self._share, draw))
            blocks = [(group,) for unit in units for group in _cut(draw.sample(unit, len(unit)), self._max_questions)]
        draw.shuffle(blocks)
        return blocks


def draw_share(samples: Sequence[VQASample], share: float, draw: random.Random) -> list[VQASample]:
    """Return as many samples as there are, a given share of them closed, in the order of samples.

    A kind of which there are too many is drawn without replacement; one of which there are too few comes as often as it
    goes, and the rest is drawn.

    Args:
        samples: Some closed and some open.
        share: Between 0 and 1; each kind has at least one sample.
        draw: Draws them.
    """
    closed = min(max(round(share * len(samples)), 1), len(samples) - 1)
    times: Counter[int] = Counter()
    for is_closed, wanted in ((True, closed), (False, len(samples) - closed)):
        places = [place for place, sample in enumerate(samples) if (sample.answer_type == "closed") is is_closed]
        rounds, rest = divmod(wanted, len(places))
        times.update(dict.fromkeys(places, rounds))
        times.update(draw.sample(places, rest))
    return [sample for place, sample in enumerate(samples) for _ in range(times[place])]

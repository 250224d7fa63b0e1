"""Which pictures of several splits look alike, though their pixels differ."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.analysis.image_hashes import MAX_DISTANCE, find_near_pairs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from collections.abc import Set as AbstractSet

NUM_EXAMPLES = 12
_KEPT = 500
"""Pairs remembered while searching, to choose the examples from."""
_TRIED = 20
"""Pictures of one hash that are tried to find a pair that stands in two splits."""


class Neighbours:
    """Near-duplicates among the pictures of several splits.

    A picture is named by the hash of its pixels, its key: two files of equal pixels are one picture. Memory grows with
    the pictures, not with the pairs.

    Args:
        splits: Split -> the keys of its pictures.
        looks: Key -> perceptual hash; a picture without one has no neighbours.
        sides: Split -> what it is part of, such as its data set; each split by itself if not given.
        max_distance: Largest number of differing bits of a pair.

    Attributes:
        distances: Number of differing bits -> pairs of pictures; without those whose count is 0.
    """

    def __init__(self, splits: Mapping[str, AbstractSet[str]], looks: Mapping[str, str],
                 sides: Mapping[str, str] | None = None, max_distance: int = MAX_DISTANCE) -> None:
        import numpy as np

        self._splits = splits
        self._sides = sides or {name: name for name in splits}
        self._members: dict[str, list[str]] = {}
        for key in sorted(set().union(*splits.values()) & looks.keys()):
            self._members.setdefault(looks[key], []).append(key)
        self._place = {key: place for place, keys in enumerate(self._members.values()) for key in keys}
        self._counts = {name: self._count(keys) for name, keys in splits.items()}
        self._near = {name: np.zeros(len(self._members), bool) for name in splits}
        self._best: list[tuple[bool, int, int, int]] = []
        self.distances = Counter[int]()
        self._search(max_distance)

    def has_near(self, key: str, split: str) -> bool:
        """Return whether a split has a near-duplicate of a picture, other than the picture itself."""
        place = self._place.get(key)
        if place is None:
            return False
        others = int(self._counts[split][place]) - (key in self._splits[split])
        return others > 0 or bool(self._near[split][place])

    def list_splits(self, key: str) -> list[str]:
        """Return the splits a picture stands in."""
        return [name for name, keys in self._splits.items() if key in keys]

    def choose_examples(self, *, across: bool = False) -> Iterator[tuple[str, str, int]]:
        """Yield a few pairs and their distance: those across sides first, then the closest; no picture twice.

        Args:
            across: Only pairs across sides.
        """
        used: set[str] = set()
        members = [keys[:_TRIED] for keys in self._members.values()]
        for _, distance, first, second in self._best:
            pairs = [pair for pair in itertools.product(members[first], members[second])
                     if pair[0] != pair[1] and not used.intersection(pair)]
            chosen = next(filter(self._is_across, pairs), None if across else next(iter(pairs), None))
            if chosen and len(used) < 2 * NUM_EXAMPLES:
                used.update(chosen)
                left, right = sorted(chosen, key=self._rank)
                yield left, right, distance

    def _count(self, keys: AbstractSet[str]) -> Any:
        """Return for each hash how many pictures of a split have it."""
        import numpy as np

        return np.bincount([self._place[key] for key in keys if key in self._place], minlength=len(self._members))

    def _search(self, max_distance: int) -> None:
        import numpy as np

        sizes = np.array([len(keys) for keys in self._members.values()], np.int64)
        same = np.flatnonzero(sizes > 1)
        self._add(same, same, np.zeros_like(same), sizes[same] * (sizes[same] - 1) // 2)
        for first, second, distance in find_near_pairs(list(self._members), max_distance):
            for name, counts in self._counts.items():
                self._near[name][first[counts[second] > 0]] = True
                self._near[name][second[counts[first] > 0]] = True
            self._add(first, second, distance, sizes[first] * sizes[second])

    def _add(self, first: Any, second: Any, distance: Any, pairs: Any) -> None:
        """Count pairs of hashes, each of which stands for some pairs of pictures, and remember the best examples."""
        import numpy as np

        for bits in np.unique(distance):
            self.distances[int(bits)] += int(pairs[distance == bits].sum())
        across = np.zeros(len(first), bool)
        for one, other in itertools.permutations(self._counts, 2):
            if self._sides[one] != self._sides[other]:
                across |= (self._counts[one][first] > 0) & (self._counts[other][second] > 0)
        best = np.lexsort((second, first, distance, ~across))[:_KEPT]
        found = zip(*(array[best].tolist() for array in (~across, distance, first, second)), strict=True)
        self._best = sorted([*self._best, *found])[:_KEPT]

    def _rank(self, key: str) -> tuple[int, str]:
        """Return what orders the two pictures of a pair: their splits, as they were given."""
        return [key in keys for keys in self._splits.values()].index(True), key

    def _is_across(self, pair: tuple[str, str]) -> bool:
        left, right = ({self._sides[name] for name in self.list_splits(key)} for key in pair)
        return left != right or len(left) > 1

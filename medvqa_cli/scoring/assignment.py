"""One-to-one assignment of the largest total: which predicted box is which gold box."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def assign_most(gains: Sequence[Sequence[float]]) -> float:
    """Return the largest sum of gains [N, M] of which no two stand in one row or column; 0 if there are none.

    Source:
        Kuhn 1955 ("The Hungarian method for the assignment problem"), as shortest augmenting paths with potentials
        (Jonker and Volgenant 1987), O(N^2 M).
    """
    if not gains or not gains[0]:
        return 0.0
    if len(gains) > len(gains[0]):
        gains = list(zip(*gains, strict=True))
    rows, columns = len(gains), len(gains[0])
    above, beside = [0.0] * (rows + 1), [0.0] * (columns + 1)
    owner = [0] * (columns + 1)
    for row in range(1, rows + 1):
        _augment(gains, row, above, beside, owner)
    return sum(gains[owner[column] - 1][column - 1] for column in range(1, columns + 1) if owner[column])


def _augment(gains: Sequence[Sequence[float]], row: int, above: list[float], beside: list[float],
             owner: list[int]) -> None:
    """Give `row` a column, moving other rows along the cheapest path; places count from 1, 0 is none."""
    columns = len(beside) - 1
    least, before, seen = [math.inf] * (columns + 1), [0] * (columns + 1), [False] * (columns + 1)
    owner[0], place = row, 0
    while owner[place]:
        seen[place] = True
        here, step, best = owner[place], math.inf, 0
        for column in range(1, columns + 1):
            if seen[column]:
                continue
            cost = -gains[here - 1][column - 1] - above[here] - beside[column]
            if cost < least[column]:
                least[column], before[column] = cost, place
            if least[column] < step:
                step, best = least[column], column
        for column in range(columns + 1):
            if seen[column]:
                above[owner[column]] += step
                beside[column] -= step
            else:
                least[column] -= step
        place = best
    while place:
        owner[place] = owner[before[place]]
        place = before[place]

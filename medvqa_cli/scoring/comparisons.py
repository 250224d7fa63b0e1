"""Is one system better than another on the same questions? Paired differences, drawn by image; many at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medvqa_cli.scoring.intervals import Interval
from medvqa_cli.scoring.paired import compare_counts
from medvqa_cli.scoring.resampling import Counted, take_mean

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean paired difference with its interval, and how often chance alone gives one as large (two-sided)."""

    interval: Interval
    p_value: float | None


def compare_pairs(differences: Sequence[float], clusters: Sequence[Hashable], *, level: float = 0.95,
                  resamples: int = 10_000, seed: int = 0) -> Difference:
    """Return the mean of paired differences, its bootstrap interval over clusters, and a p-value.

    Exchanging two systems' answers to an image flips the sign of its difference: see `compare_counts`.

    Args:
        differences: Second minus first score, one a question.
        clusters: The image each question is about.
        level: Coverage of the interval, in 0-1.
        resamples: Draws for both.
        seed: Of the draws.

    Raises:
        ValueError: If there are no differences.
    """
    values = np.asarray(differences, float)
    ones = np.ones_like(values)
    first, second = ({"mean": Counted(np.stack([side, ones], axis=1), take_mean)}
                     for side in (np.zeros_like(values), values))
    found = compare_counts(first, second, clusters, level=level, resamples=resamples, seed=seed)["mean"]
    bounds = found.difference
    return Difference(Interval(float(values.mean()), bounds.low, bounds.high), found.p_value)


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted so that the chance of any false finding among all of them stays below the level.

    Source:
        Holm 1979, Scand. J. Statist. 6(2), p. 65.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted

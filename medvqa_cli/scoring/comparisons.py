"""Is one system better than another on the same questions? Paired differences, drawn by image; many at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medvqa_cli.scoring.intervals import BLOCK, Interval, bootstrap_mean, number_clusters

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

EXACT_CLUSTERS = 14


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean paired difference with its interval, and how often chance alone gives one as large (two-sided)."""

    interval: Interval
    p_value: float


def compare_pairs(differences: Sequence[float], clusters: Sequence[Hashable], *, level: float = 0.95,
                  resamples: int = 10_000, seed: int = 0) -> Difference:
    """Return the mean of paired differences, its bootstrap interval over clusters, and a sign-flip p-value.

    Args:
        differences: Second minus first score, one a question.
        clusters: The image each question is about.
        level: Coverage of the interval, in 0-1.
        resamples: Draws for both.
        seed: Of the draws.

    Raises:
        ValueError: If there are no differences.
    """
    interval = bootstrap_mean(differences, clusters, level=level, resamples=resamples, seed=seed)
    return Difference(interval, flip_signs(differences, clusters, resamples=resamples, seed=seed))


def flip_signs(differences: Sequence[float], clusters: Sequence[Hashable], *, resamples: int = 10_000,
               seed: int = 0) -> float:
    """Return the two-sided p-value of a randomization test that flips the signs of whole clusters.

    If both systems are equally good, each image's difference is as likely as its opposite. Up to 14 clusters every
    flip is counted; beyond that they are drawn, and the observed one counts as one of them, so that p is above 0.

    Raises:
        ValueError: If there are no differences.

    Source:
        Fisher 1935, The Design of Experiments, section 21; the count of drawn flips: Phipson and Smyth 2010, Stat.
        Appl. Genet. Mol. Biol. 9(1), article 39.
    """
    owner = number_clusters(clusters)
    count = int(owner.max()) + 1
    sums = np.bincount(owner, np.asarray(differences, float), count)
    reached = abs(float(sums.sum())) * (1 - 1e-9)
    if count <= EXACT_CLUSTERS:
        return float(np.mean(np.abs(_all_signs(count) @ sums) >= reached))
    random = np.random.default_rng(seed)
    sizes = [BLOCK] * (resamples // BLOCK) + ([resamples % BLOCK] if resamples % BLOCK else [])
    hits = sum(int(np.sum(np.abs(random.choice([-1.0, 1.0], (size, count)) @ sums) >= reached)) for size in sizes)
    return (hits + 1) / (resamples + 1)


def _all_signs(count: int) -> NDArray[np.float64]:
    """Return every row of signs, [2^count, count]."""
    bits = np.arange(2**count)[:, None] >> np.arange(count) & 1
    return np.where(bits == 1, 1.0, -1.0)


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

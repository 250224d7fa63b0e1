"""Many statistics of the same questions at once, each with its interval: every resample of images is drawn once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medvqa_cli.scoring.intervals import draw_weights, number_clusters

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from numpy.typing import NDArray

    # Sums [..., k] -> the statistic [...], NaN where it is undefined.
    Combine = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Counted:
    """A statistic that depends on sums over the questions: its `rows` [questions, k] and what it makes of their sum."""

    rows: NDArray[np.float64]
    combine: Combine


@dataclass(frozen=True, slots=True)
class Resampled:
    """A statistic with its bounds, None where it is undefined or there are fewer than two clusters to resample."""

    value: float | None
    low: float | None
    high: float | None


def resample_counts(tables: Mapping[str, Counted], clusters: Sequence[Hashable], *, level: float = 0.95,
                    resamples: int = 2000, seed: int = 0) -> dict[str, Resampled]:
    """Return each statistic with its percentile interval under resampling of whole clusters.

    Resamples in which a statistic is undefined are left out of its interval.

    Args:
        tables: Name -> what is counted; all of the same questions.
        clusters: The image each question is about.
        level: Coverage wanted, in 0-1.
        resamples: Bootstrap draws, the same for every statistic.
        seed: Of the draws.

    Raises:
        ValueError: If there are no questions.

    Source:
        Field and Welsh 2007, J. R. Statist. Soc. B 69(3), the randomized cluster bootstrap; percentile bounds.
    """
    owner = number_clusters(clusters)
    count = int(owner.max()) + 1
    sums = {name: _sum_by_cluster(table.rows, owner, count) for name, table in tables.items()}
    draws: dict[str, list[NDArray[np.float64]]] = {name: [] for name in tables}
    if count > 1:
        for weights in draw_weights(count, resamples, seed):
            for name, table in tables.items():
                draws[name].append(table.combine(weights @ sums[name]))
    return {name: _summarize(table.combine(sums[name].sum(axis=0)), draws[name], level)
            for name, table in tables.items()}


def take_mean(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sum / number from [..., 2]; NaN where nothing was counted."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan)


def _sum_by_cluster(rows: NDArray[np.float64], owner: NDArray[np.intp], count: int) -> NDArray[np.float64]:
    sums = np.zeros((count, rows.shape[1]))
    np.add.at(sums, owner, rows)
    return sums


def _summarize(value: NDArray[np.float64], draws: Sequence[NDArray[np.float64]], level: float) -> Resampled:
    if np.isnan(value):
        return Resampled(None, None, None)
    known = np.concatenate(draws) if draws else np.zeros(0)
    known = known[~np.isnan(known)]
    if not len(known):
        return Resampled(float(value), None, None)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Resampled(float(value), float(low), float(high))

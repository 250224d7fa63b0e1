"""Many statistics of the same questions at once, each with its interval: every resample of images is drawn once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from medvqa_cli.scoring.intervals import bound_draws, draw_weights, number_clusters

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from numpy.typing import NDArray

    from medvqa_cli.scoring.intervals import Limits

    # Sums [..., k] -> the statistic [...], NaN where it is undefined.
    Combine = Callable[[NDArray[np.float64]], NDArray[np.float64]]


Name = TypeVar("Name", bound="Hashable")


@dataclass(frozen=True, slots=True)
class Counted:
    """A statistic that depends on sums over the questions: its `rows` [questions, k] and what it makes of their sum.

    `limits` are those of a mean or share; None for any other statistic.
    """

    rows: NDArray[np.float64]
    combine: Combine
    limits: Limits | None = None


@dataclass(frozen=True, slots=True)
class Resampled:
    """A statistic with its bounds, None where it is undefined or `intervals.bound_draws` gives none."""

    value: float | None
    low: float | None
    high: float | None


def resample_counts(tables: Mapping[Name, Counted], clusters: Sequence[Hashable], *, level: float = 0.95,
                    resamples: int = 2000, seed: int = 0) -> dict[Name, Resampled]:
    """Return each statistic with its percentile interval under resampling of whole clusters.

    Resamples in which a statistic is undefined are left out of its interval; so are images in which it is from their
    number, by which a statistic has an interval at all (`intervals.MIN_IMAGES`).

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
    sums = {key: sum_by_cluster(rows, owner, count) for key, rows in
            {id(table.rows): table.rows for table in tables.values()}.items()}  # measures may share their rows
    draws: dict[Name, list[NDArray[np.float64]]] = {name: [] for name in tables}
    for weights in draw_weights(count, resamples, seed) if count > 1 else ():
        drawn = {key: weights @ totals for key, totals in sums.items()}
        for name, table in tables.items():
            draws[name].append(table.combine(drawn[id(table.rows)]))
    return {name: _summarize(table, sums[id(table.rows)], draws[name], level) for name, table in tables.items()}


def _summarize(table: Counted, sums: NDArray[np.float64], draws: Sequence[NDArray[np.float64]],
               level: float) -> Resampled:
    return summarize_draws(table.combine(sums.sum(axis=0)), draws, level, images=count_images(table, sums),
                           limits=table.limits)


def count_images(table: Counted, sums: NDArray[np.float64]) -> int:
    """Return on how many clusters a statistic rests, by their sums [clusters, k]."""
    if table.limits is None:
        return int(np.count_nonzero(sums.any(axis=1)))
    return int(np.count_nonzero(~np.isnan(table.combine(sums))))


def resample_levels(values: Sequence[float], is_positive: Sequence[bool], combine: Combine,
                    clusters: Sequence[Hashable], *, level: float = 0.95, resamples: int = 2000,
                    seed: int = 0) -> Resampled:
    """Return a statistic of ranks, such as `clinical.combine_auroc`, with its interval under resampling of clusters.

    The positives and negatives of each distinct value are summed anew for every draw, a few draws at a time, so that
    the memory needed grows with the number of questions only.

    Args:
        values: One number a question.
        is_positive: Its class.
        combine: From counts by value, ascending: positives, then negatives [..., 2 * levels].
        clusters: The image each question is about.
        level: Coverage wanted, in 0-1.
        resamples: Bootstrap draws.
        seed: Of the draws.

    Raises:
        ValueError: If there are no questions.
    """
    order = np.argsort(np.asarray(values, float), kind="stable")
    ranked, positive = np.asarray(values, float)[order], np.asarray(is_positive, float)[order]
    starts = np.flatnonzero(np.concatenate([[True], np.diff(ranked) > 0]))
    numbers = number_clusters(clusters)
    owner, count = numbers[order], int(numbers.max()) + 1

    def measure(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        parts = [np.add.reduceat(weights * kind, starts, axis=-1) for kind in (positive, 1 - positive)]
        return combine(np.concatenate(parts, axis=-1))

    draws = [measure(weights[:, owner]) for weights in draw_weights(count, resamples, seed, block=100)] \
        if count > 1 else []
    images = min(len(np.unique(owner[positive == kind])) for kind in (0, 1))
    return summarize_draws(measure(np.ones(len(owner))), draws, level, images=images)


def take_mean(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sum / number from [..., 2]; NaN where nothing was counted."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan)


def sum_by_cluster(rows: NDArray[np.float64], owner: NDArray[np.intp], count: int) -> NDArray[np.float64]:
    """Return the sums [count, k] of rows [questions, k] whose clusters are numbered by `owner` [questions]."""
    sums = np.zeros((count, rows.shape[1]))
    np.add.at(sums, owner, rows)
    return sums


def summarize_draws(value: NDArray[np.float64], draws: Sequence[NDArray[np.float64]], level: float, *, images: int,
                    limits: Limits | None = None) -> Resampled:
    """Return a statistic with the bounds of its resampled values, see `intervals.bound_draws`; NaN is undefined."""
    if np.isnan(value):
        return Resampled(None, None, None)
    known = np.concatenate(draws) if draws else np.zeros(0)
    return Resampled(float(value), *bound_draws(float(value), known, level, images=images, limits=limits))

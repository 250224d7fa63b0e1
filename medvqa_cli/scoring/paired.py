"""Two systems on the same questions: paired differences of any measure, McNemar's test, sizes of effects."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medvqa_cli.scoring.intervals import draw_weights, number_clusters
from medvqa_cli.scoring.resampling import Counted, Resampled, count_images, sum_by_cluster, summarize_draws

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from medvqa_cli.scoring.intervals import Limits
    from medvqa_cli.scoring.resampling import Combine

EXACT_CLUSTERS = 14
EXACT_DISAGREEMENTS = 1000
"""Up to so many disagreements McNemar's test counts the binomial law out; beyond them the normal one is as good."""
BLOCK = 500


@dataclass(frozen=True, slots=True)
class PairedMeasure:
    """A measure of two systems, its difference (second minus first) with bounds, and the two-sided p-value.

    The p-value says how often the difference is as large if for each image it is a coin's toss which system gave which
    answers. Values are None where the measure is undefined.
    """

    first: float | None
    second: float | None
    difference: Resampled
    p_value: float | None


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Questions of a yes-or-no measure on which two systems differ.

    `p_value` is McNemar's, which takes questions as independent. `odds_ratio` is only_second / only_first, None where
    nothing is divided by; `g` is Cohen's with a sign: the second system's part of the disagreements less one half, from
    -0.5 to 0.5, above 0 where the second is right more often.
    """

    both: int
    only_first: int
    only_second: int
    neither: int
    p_value: float
    odds_ratio: float | None
    g: float | None


def compare_counts(first: Mapping[str, Counted], second: Mapping[str, Counted], clusters: Sequence[Hashable], *,
                   level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> dict[str, PairedMeasure]:
    """Return a paired comparison of every measure that both systems have.

    The interval resamples whole clusters, both systems' answers together. The p-value comes from exchanging the two
    systems' answers cluster by cluster; up to 14 clusters every exchange is counted, beyond that they are drawn, and
    the observed one counts as one of them.

    Args:
        first: Measure -> its counts for the first system, one row a question.
        second: The same for the second, its rows in the same order.
        clusters: The image each question is about.
        level: Coverage of the interval, in 0-1.
        resamples: Draws for both.
        seed: Of the draws.

    Raises:
        ValueError: If there are no questions.

    Source:
        Noreen 1989, Computer-Intensive Methods for Testing Hypotheses (approximate randomization); the count of
        drawn exchanges: Phipson and Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9(1), article 39.
    """
    owner = number_clusters(clusters)
    count = int(owner.max()) + 1
    keys = [key for key in first if key in second]
    tables = {key: (sum_by_cluster(first[key].rows, owner, count), sum_by_cluster(second[key].rows, owner, count))
              for key in keys}
    resampled: dict[str, list[NDArray[np.float64]]] = {key: [] for key in keys}
    for weights in draw_weights(count, resamples, seed) if count > 1 else ():
        for key, (one, other) in tables.items():
            combine = first[key].combine
            resampled[key].append(combine(weights @ other) - combine(weights @ one))
    found = {}
    for key, (one, other) in tables.items():
        values = [first[key].combine(table.sum(axis=0)) for table in (one, other)]
        known = [None if np.isnan(value) else float(value) for value in values]
        p_value = None if None in known else _test_exchanges(first[key].combine, one, other,
                                                             _draw_exchanges(count, resamples, seed))
        images = min(count_images(side[key], table) for side, table in ((first, one), (second, other)))
        bounds = summarize_draws(values[1] - values[0], resampled[key], level, images=images,
                                 limits=_span(first[key].limits))
        found[key] = PairedMeasure(known[0], known[1], bounds, p_value)
    return found


def _span(limits: Limits | None) -> Limits | None:
    """Return the limits of a difference of two means."""
    return (limits[0] - limits[1], limits[1] - limits[0]) if limits else None


def _test_exchanges(combine: Combine, one: NDArray[np.float64], other: NDArray[np.float64],
                    exchanges: Iterator[NDArray[np.float64]]) -> float:
    """Return how often exchanging clusters' sums [clusters, k] gives a difference as large as the one seen.

    Exchanges that leave the measure undefined are not counted. The observed one always is.
    """
    reached = abs(float(combine(other.sum(axis=0)) - combine(one.sum(axis=0)))) - 1e-9
    hits = drawn = 0
    for swapped in exchanges:
        moved = swapped @ (other - one)
        found = combine(other.sum(axis=0) - moved) - combine(one.sum(axis=0) + moved)
        found = np.abs(found[~np.isnan(found)])
        hits, drawn = hits + int(np.sum(found >= reached)), drawn + len(found)
    is_exact = len(one) <= EXACT_CLUSTERS
    return hits / drawn if is_exact else (hits + 1) / (drawn + 1)


def _draw_exchanges(count: int, draws: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield which clusters are exchanged, [draws, clusters]: every way of it where there are few."""
    if count <= EXACT_CLUSTERS:
        yield (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(float)
        return
    random = np.random.default_rng([seed, 1])
    for start in range(0, draws, BLOCK):
        yield random.integers(0, 2, (min(BLOCK, draws - start), count)).astype(float)


def find_disagreement(first: Sequence[bool], second: Sequence[bool]) -> Disagreement:
    """Return on which questions two systems differ, with McNemar's test.

    Up to 1,000 disagreements the test is exact (binomial), beyond them it is the normal one with continuity correction.

    Raises:
        ValueError: If the lengths differ.

    Source:
        McNemar 1947, Psychometrika 12(2), 153-157, with Edwards's correction (1948, Psychometrika 13(3), 185-187); g:
        Cohen 1988, Statistical Power Analysis for the Behavioral Sciences. Differs: it has the sign of the difference.
    """
    pairs = list(zip(map(bool, first), map(bool, second), strict=True))
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    total = only_first + only_second
    return Disagreement(pairs.count((True, True)), only_first, only_second, pairs.count((False, False)),
                        _test_binomial(min(only_first, only_second), total),
                        only_second / only_first if only_first else None,
                        only_second / total - 0.5 if total else None)


def _test_binomial(fewer: int, total: int) -> float:
    """Return the two-sided p-value of a split of `total` tosses of a fair coin."""
    if total > EXACT_DISAGREEMENTS:
        statistic = max(0.0, total - 2 * fewer - 1) / math.sqrt(total)
        return math.erfc(statistic / math.sqrt(2))
    tail = sum(math.comb(total, number) for number in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**total))


def measure_effect(differences: Sequence[float]) -> float | None:
    """Return Cohen's d of paired differences, mean / standard deviation; None where they do not vary.

    Source:
        Cohen 1988, Statistical Power Analysis for the Behavioral Sciences (d_z).
    """
    values = np.asarray(differences, float)
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return float(values.mean()) / spread if spread > 0 else None

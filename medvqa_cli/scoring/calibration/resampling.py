"""Every calibration measure with its interval, from one bootstrap over images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medvqa_cli.scoring.calibration import selection, tally
from medvqa_cli.scoring.calibration.bins import assign_bins, check_pairs
from medvqa_cli.scoring.intervals import MIN_IMAGES, SHARE, Interval, bound_draws, draw_weights, number_clusters

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

MEANS = ("accuracy", "mean_confidence", "brier")
"""Measures that are means over the questions, in 0-1."""
COVERAGES = (0.5, 0.8, 0.9)
BLOCK_CELLS = 4_000_000
"""Most numbers in an array of [draws, questions]: 32 MB."""


def measure_calibration(confidences: Sequence[float], correct: Sequence[bool], clusters: Sequence[Hashable], *,
                        num_bins: int = 10, clip: float = 1e-12, level: float = 0.95, resamples: int = 2000,
                        seed: int = 0) -> dict[str, Interval]:
    """Return every measure with the percentile interval of a bootstrap that draws whole images.

    Args:
        confidences: In 0-1, one a question.
        correct: Whether its answer is right.
        clusters: The image it is about.
        num_bins: Bins of equal width, and of equal mass.
        clip: Confidences are held inside [clip, 1 - clip] for the likelihood.
        level: Coverage wanted, in 0-1.
        resamples: Bootstrap draws.
        seed: Of the draws.

    Returns:
        By name. An estimate is NaN where it is undefined (AUROC of answers that are all right); draws in which it is
        are left out. Bounds are None where the estimate is NaN or `intervals.bound_draws` gives none. Equal-mass bins
        are those of the answers themselves in every draw.

    Raises:
        ValueError: If there is no question, the lengths differ, or a confidence is outside [0, 1].
    """
    sure, right = check_pairs(confidences, correct)
    owner = number_clusters(clusters)
    if len(owner) != len(sure):
        raise ValueError(f"{len(sure)} confidences on {len(owner)} images' rows")
    found = _measure(sure, right, None, num_bins, clip)
    count = int(owner.max()) + 1
    if count < MIN_IMAGES:
        return {name: Interval(float(values[0]), None, None) for name, values in found.items()}
    blocks = [_measure(sure, right, weights[:, owner], num_bins, clip)
              for weights in draw_weights(count, resamples, seed, block=max(1, BLOCK_CELLS // len(sure)))]
    return {name: _bound(float(values[0]), np.concatenate([block[name] for block in blocks]), level, count,
                         is_mean=name in MEANS) for name, values in found.items()}


def bound_bins(confidences: Sequence[float], correct: Sequence[bool], clusters: Sequence[Hashable], *,
               num_bins: int = 10, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> list[Interval]:
    """Return each equal-width bin's accuracy with its interval, drawn as by `measure_calibration`.

    An empty bin's accuracy is NaN; bounds are None with too few images in the bin (`intervals.MIN_IMAGES`).

    Raises:
        ValueError: If there is no question, or a confidence is outside [0, 1].
    """
    sure, right = check_pairs(confidences, correct)
    owner = number_clusters(clusters)
    count = int(owner.max()) + 1
    found = _measure_bins(sure, right, None, num_bins)[0]
    if count < MIN_IMAGES:
        return [Interval(float(value), None, None) for value in found]
    draws = np.concatenate([_measure_bins(sure, right, weights[:, owner], num_bins) for weights in draw_weights(
        count, resamples, seed, block=max(1, BLOCK_CELLS // len(sure)))])
    images = _count_images(owner, assign_bins(sure, num_bins), num_bins)
    return [_bound(float(value), draws[:, place], level, images[place], is_mean=True)
            for place, value in enumerate(found)]


def _measure_bins(sure: Floats, right: Floats, weights: Floats | None, num_bins: int) -> Floats:
    bins = tally.bin_by_width(tally.count_levels(sure, right, weights), num_bins)
    accuracies: Floats = np.divide(bins.rights, bins.totals, out=np.full(bins.totals.shape, np.nan),
                                   where=bins.totals > 0)
    return accuracies


def _measure(sure: Floats, right: Floats, weights: Floats | None, num_bins: int, clip: float) -> Mapping[str, Floats]:
    counts = tally.count_levels(sure, right, weights)
    bins = tally.bin_by_width(counts, num_bins)
    return {
        "accuracy": tally.measure_accuracy(counts), "mean_confidence": tally.measure_confidence(counts),
        "ece": tally.measure_gap(bins), "ece_debiased": tally.measure_debiased_gap(bins),
        "ece_equal_mass": tally.measure_gap(tally.bin_by_mass(counts, sure, num_bins)),
        "mce": tally.measure_worst_gap(bins), "overconfidence": tally.measure_one_side(bins, 1),
        "underconfidence": tally.measure_one_side(bins, -1), "brier": tally.measure_brier(counts),
        "nll": tally.measure_likelihood(counts, clip), "auroc": selection.measure_auroc(counts),
        "aurc": selection.measure_aurc(counts), "excess_aurc": selection.measure_excess_aurc(counts),
    } | {f"accuracy_at_{100 * coverage:g}": selection.measure_accuracy_at(counts, coverage) for coverage in COVERAGES}


def _count_images(owner: NDArray[np.intp], bins: NDArray[np.intp], num_bins: int) -> list[int]:
    """Return of how many images each bin holds questions."""
    held = np.unique(np.stack([bins, owner]), axis=1)[0]
    return [int(count) for count in np.bincount(held, minlength=num_bins)]


def _bound(estimate: float, draws: Floats, level: float, images: int, *, is_mean: bool) -> Interval:
    if not np.isfinite(estimate):
        return Interval(estimate, None, None)
    return Interval(estimate, *bound_draws(estimate, draws, level, images=images, limits=SHARE if is_mean else None))

"""Confidence in bins against correctness, and the errors that bins show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

EDGE = 1e-9
Scheme = Literal["width", "mass"]


@dataclass(frozen=True, slots=True)
class Bin:
    """A confidence bin (lower, upper]: its size, mean accuracy and mean confidence (None where it is empty).

    The first bin holds 0 too.
    """

    lower: float
    upper: float
    size: int
    accuracy: float | None
    confidence: float | None

    @property
    def gap(self) -> float | None:
        """Confidence minus accuracy: positive where the model is too sure."""
        if self.accuracy is None or self.confidence is None:
            return None
        return self.confidence - self.accuracy


def assign_bins(confidences: NDArray[np.float64], num_bins: int) -> NDArray[np.intp]:
    """Return each confidence's bin number: bin b holds (b / num_bins, (b + 1) / num_bins]; 0 goes to the first.

    Shares of N samples lie exactly on edges, where rounding would decide (70 / 100 * 10 > 7): a value within 1e-9 of
    an edge counts as being on it.
    """
    numbers = np.ceil(confidences * num_bins - EDGE).astype(np.intp) - 1
    return np.clip(numbers, 0, num_bins - 1)


def find_edges(confidences: NDArray[np.float64], num_bins: int) -> NDArray[np.float64]:
    """Return the upper edges of at most `num_bins` bins that hold about as many confidences each; the last is 1.

    Equal confidences are never parted: each edge is the confidence that leaves the number below it nearest to its
    share. Fewer bins, of other sizes, come out where many are equal, as shares of N samples are.

    Source:
        Nguyen and O'Connor 2015, arXiv:1508.05154, algorithm 1 (adaptive binning). Differs: they set the size of a bin,
        and part equal confidences. For calibration errors over such bins: Nixon et al. 2019, arXiv:1904.01685 (ACE,
        bins counted alike; here each counts as much as it holds, for ties make them unequal).
    """
    levels, counts = np.unique(confidences, return_counts=True)
    return np.union1d(levels[_find_ends(np.cumsum(counts), num_bins)] if len(levels) else [], [1.0])


def _find_ends(below: NDArray[np.intp], num_bins: int) -> NDArray[np.intp]:
    """Return the levels that end a bin, all but the last; `below` counts answers up to each level, itself included."""
    wanted = np.arange(1, num_bins) / num_bins * below[-1]
    above = np.searchsorted(below, wanted)
    under = np.maximum(above - 1, 0)
    ends: NDArray[np.intp] = np.where(wanted - below[under] <= below[above] - wanted, under, above)
    return ends


def number_bins(confidences: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return each confidence's bin number where bin b holds (edges[b - 1], edges[b]]; the first holds 0 too."""
    return np.searchsorted(edges + EDGE, confidences, side="left")


def bin_confidences(confidences: Sequence[float], correct: Sequence[bool], num_bins: int = 10,
                    scheme: Scheme = "width") -> list[Bin]:
    """Return bins over [0, 1] with what fell into them: of equal width, or of about equal mass (`find_edges`).

    Raises:
        ValueError: If the lengths differ, or a confidence is outside [0, 1] or not a number.
    """
    sure, right = check_pairs(confidences, correct)
    if scheme == "width":
        edges, numbers = np.arange(1, num_bins + 1) / num_bins, assign_bins(sure, num_bins)
    else:
        edges = find_edges(sure, num_bins)
        numbers = number_bins(sure, edges)
    return [_make_bin(float(edges[number - 1]) if number else 0.0, float(edges[number]), sure[numbers == number],
                      right[numbers == number]) for number in range(len(edges))]


def check_pairs(confidences: Sequence[float], correct: Sequence[bool]) -> tuple[NDArray[np.float64],
                                                                               NDArray[np.float64]]:
    """Return confidences and correctness (0 or 1) as arrays of one length.

    Raises:
        ValueError: If the lengths differ, or a confidence is outside [0, 1] or not a number.
    """
    sure, right = np.asarray(confidences, float), np.asarray(correct, float)
    if sure.shape != right.shape:
        raise ValueError(f"{len(sure)} confidences for {len(right)} answers")
    if len(sure) and not (np.all(sure >= 0) and np.all(sure <= 1)):
        raise ValueError("a confidence lies outside [0, 1]")
    return sure, right


def _make_bin(lower: float, upper: float, sure: NDArray[np.float64], right: NDArray[np.float64]) -> Bin:
    filled = len(sure) > 0
    return Bin(lower, upper, len(sure), float(right.mean()) if filled else None, float(sure.mean()) if filled else None)


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Return the sum over bins of (size / N) |accuracy - confidence|, in 0-1.

    Source:
        Guo et al. 2017, arXiv:1706.04599, equation 3.
    """
    return sum(weight * abs(gap) for weight, gap in _weighted_gaps(bins))


def maximum_calibration_error(bins: Sequence[Bin]) -> float:
    """Return the largest |accuracy - confidence| of a filled bin (Guo et al. 2017, arXiv:1706.04599, equation 5)."""
    return max((abs(gap) for _, gap in _weighted_gaps(bins)), default=0.0)


def overconfidence(bins: Sequence[Bin]) -> float:
    """Return the part of the expected calibration error from bins that are too sure: a one-sided error, no rate."""
    return sum(weight * max(gap, 0.0) for weight, gap in _weighted_gaps(bins))


def underconfidence(bins: Sequence[Bin]) -> float:
    """Return the part of the expected calibration error from bins that are not sure enough."""
    return sum(weight * max(-gap, 0.0) for weight, gap in _weighted_gaps(bins))


def squared_calibration_error(bins: Sequence[Bin], *, debiased: bool = True) -> float:
    """Return the sum over bins of (size / N) (accuracy - confidence)^2, less what chance adds to it if `debiased`.

    Unbiased, so it may fall below 0; a bin of one answer says nothing about chance and counts in full only without
    `debiased`, else not at all.

    Source:
        Kumar et al. 2019, arXiv:1909.10155 (the debiased estimator), and their library uncertainty-calibration,
        `unbiased_square_ce`: the squared gap of a bin less accuracy (1 - accuracy) / (size - 1).
    """
    total = sum(item.size for item in bins)
    return sum(item.size / total * _square_gap(item, debiased) for item in bins if item.size)


def _square_gap(item: Bin, debiased: bool) -> float:
    gap, accuracy = item.gap or 0.0, item.accuracy or 0.0
    if not debiased:
        return gap * gap
    return gap * gap - accuracy * (1 - accuracy) / (item.size - 1) if item.size > 1 else 0.0


def sweep_calibration_error(confidences: Sequence[float], correct: Sequence[bool]) -> tuple[float, int]:
    """Return the error over as many equal-mass bins as keep accuracy rising with confidence, and how many those are.

    Source:
        Roelofs et al. 2022, arXiv:2012.08668 (ECE_SWEEP, here with the norm 1). Differs: equal confidences are not
        parted (`find_edges`), and there are never more bins than distinct confidences.

    Raises:
        ValueError: If there is no answer, the lengths differ, or a confidence is outside [0, 1].
    """
    sure, right = check_pairs(confidences, correct)
    if not len(sure):
        raise ValueError("a calibration error needs at least one answer")
    levels, owner = np.unique(sure, return_inverse=True)
    below, hits = np.cumsum(np.bincount(owner)), np.cumsum(np.bincount(owner, right))
    gaps = np.cumsum(np.bincount(owner, sure - right))
    if right.min() == right.max():  # accuracy never falls, and all gaps have one sign: every binning gives this
        return float(abs(gaps[-1]) / len(sure)), len(levels)
    last = np.array([len(levels) - 1])
    best = last
    for num_bins in range(2, len(levels) + 1):
        ends = np.union1d(_find_ends(below, num_bins), last)
        if np.any(np.diff(np.diff(hits[ends], prepend=0) / np.diff(below[ends], prepend=0)) < 0):
            break
        best = ends
    return float(np.abs(np.diff(gaps[best], prepend=0)).sum() / len(sure)), len(best)


def _weighted_gaps(bins: Sequence[Bin]) -> list[tuple[float, float]]:
    total = sum(item.size for item in bins)
    return [(item.size / total, item.gap) for item in bins if item.gap is not None]


def measure_error(confidences: NDArray[np.float64], correct: NDArray[np.float64], num_bins: int) -> float:
    """Return the expected calibration error of arrays, without making bins: for resampling."""
    numbers = assign_bins(confidences, num_bins)
    gaps = np.bincount(numbers, confidences - correct, num_bins)
    return float(np.abs(gaps).sum() / len(confidences))

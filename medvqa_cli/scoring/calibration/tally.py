"""Answers counted by level of confidence, and every calibration measure as one function of these counts.

A bootstrap draw only changes the counts, so that thousands of draws are measured at once: arrays are [draws, levels].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medvqa_cli.scoring.calibration.bins import assign_bins, find_edges, number_bins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tally:
    """How many answers, and how many right ones, there are at each level of confidence.

    Args:
        levels: Distinct confidences in 0-1, falling, [levels].
        totals: Answers, [draws, levels].
        rights: Right answers, [draws, levels].
    """

    levels: Floats
    totals: Floats
    rights: Floats

    @property
    def sizes(self) -> Floats:
        """Answers of each draw, [draws]."""
        sizes: Floats = self.totals.sum(axis=1)
        return sizes

    @property
    def wrongs(self) -> Floats:
        """Wrong answers, [draws, levels]."""
        return self.totals - self.rights


@dataclass(frozen=True, slots=True)
class Binning:
    """A tally's levels put into bins: answers, right ones and confidence, each [draws, bins]."""

    totals: Floats
    rights: Floats
    sure: Floats

    @property
    def gaps(self) -> Floats:
        """Confidence minus accuracy times the share of answers, [draws, bins]; 0 in an empty bin."""
        gaps: Floats = (self.sure - self.rights) / self.totals.sum(axis=1, keepdims=True)
        return gaps


def count_levels(confidences: Floats, correct: Floats, weights: Floats | None = None) -> Tally:
    """Return the counts of answers [n], each taken as often as `weights` [draws, n] say: once by default."""
    weights = np.ones((1, len(confidences))) if weights is None else weights
    levels, owner = np.unique(-confidences, return_inverse=True)
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(len(levels)))
    ordered = weights[:, order]
    return Tally(-levels, np.add.reduceat(ordered, starts, axis=1),
                 np.add.reduceat(ordered * correct[order], starts, axis=1))


def bin_levels(tally: Tally, numbers: NDArray[np.intp], num_bins: int) -> Binning:
    """Return the tally with level i in bin `numbers[i]`."""
    member = np.zeros((len(tally.levels), num_bins))
    member[np.arange(len(numbers)), numbers] = 1.0
    return Binning(tally.totals @ member, tally.rights @ member, (tally.totals * tally.levels) @ member)


def bin_by_width(tally: Tally, num_bins: int) -> Binning:
    """Return equal-width bins (lower, upper]."""
    return bin_levels(tally, assign_bins(tally.levels, num_bins), num_bins)


def bin_by_mass(tally: Tally, confidences: Floats, num_bins: int) -> Binning:
    """Return bins of about equal mass in `confidences`; the same bins for every draw."""
    edges = find_edges(confidences, num_bins)
    return bin_levels(tally, number_bins(tally.levels, edges), len(edges))


def measure_gap(binning: Binning) -> Floats:
    """Return the expected calibration error of each draw (Guo et al. 2017, arXiv:1706.04599, equation 3)."""
    gaps: Floats = np.abs(binning.gaps).sum(axis=1)
    return gaps


def measure_worst_gap(binning: Binning) -> Floats:
    """Return the largest |accuracy - confidence| of a filled bin (Guo et al. 2017, arXiv:1706.04599, equation 5)."""
    gaps: Floats = np.abs(_divide(binning.sure - binning.rights, binning.totals)).max(axis=1)
    return gaps


def measure_one_side(binning: Binning, sign: int) -> Floats:
    """Return the part of the calibration error from bins that are too sure (+1) or not sure enough (-1)."""
    gaps: Floats = np.maximum(sign * binning.gaps, 0.0).sum(axis=1)
    return gaps


def measure_debiased_gap(binning: Binning) -> Floats:
    """Return the calibration error less what chance is expected to add to it; may fall below 0.

    A bin's gap is taken as normal around the measured one, with the accuracy's variance a (1 - a) / size; the mean of
    its absolute value exceeds the gap by the bias.

    Source:
        Kumar et al. 2019, arXiv:1909.10155, in the form of their library uncertainty-calibration for the norm 1
        (`normal_debiased_ce`). Differs: the folded normal's mean in closed form in place of random draws, and bins of
        one answer are kept. The measured gap is itself too large by chance, and a bin with one answer, or with only
        right or wrong ones, shows no variance: part of the bias is left (compare the bias floor).
    """
    accuracy = _divide(binning.rights, binning.totals)
    gap = np.abs(_divide(binning.sure, binning.totals) - accuracy)
    deviation = np.sqrt(_divide(accuracy * (1 - accuracy), binning.totals))
    ratio = _divide(gap, deviation)
    folded = (deviation * math.sqrt(2 / math.pi) * np.exp(-(ratio**2) / 2)
              + gap * np.asarray(_ERF(ratio / math.sqrt(2)), float))
    bias = np.where(deviation > 0, folded - gap, 0.0)
    share = binning.totals / binning.totals.sum(axis=1, keepdims=True)
    debiased: Floats = (share * (gap - bias)).sum(axis=1)
    return debiased


_ERF = np.frompyfunc(math.erf, 1, 1)


def measure_accuracy(tally: Tally) -> Floats:
    """Return the share of right answers."""
    accuracy: Floats = tally.rights.sum(axis=1) / tally.sizes
    return accuracy


def measure_confidence(tally: Tally) -> Floats:
    """Return the mean confidence."""
    confidence: Floats = (tally.totals @ tally.levels) / tally.sizes
    return confidence


def measure_brier(tally: Tally) -> Floats:
    """Return the mean squared difference of confidence and correctness."""
    brier: Floats = (tally.rights @ (1 - tally.levels) ** 2 + tally.wrongs @ tally.levels**2) / tally.sizes
    return brier


def measure_likelihood(tally: Tally, clip: float) -> Floats:
    """Return the mean negative log-likelihood of correctness, confidences held inside [clip, 1 - clip]; nats."""
    levels = np.clip(tally.levels, clip, 1 - clip)
    nll: Floats = -(tally.rights @ np.log(levels) + tally.wrongs @ np.log1p(-levels)) / tally.sizes
    return nll


def _divide(top: Floats, bottom: Floats) -> Floats:
    """Return top / bottom, 0 where bottom is 0."""
    return np.divide(top, bottom, out=np.zeros(np.broadcast(top, bottom).shape), where=bottom > 0)

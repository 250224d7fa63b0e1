"""Proper scores of probabilities: Brier with its decomposition, negative log-likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medvqa_cli.scoring.calibration.bins import assign_bins

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class BrierParts:
    """Brier = reliability - resolution + uncertainty + within_bins, exactly.

    `reliability`: squared distance of a bin's mean probability and its frequency; 0 is calibrated. `resolution`: how
    far the bins' frequencies lie apart; large is good. `uncertainty`: variance of the outcome, which no model changes.
    `within_bins`: what binning hides, 0 where all probabilities of a bin are equal; may be negative.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within_bins: float


def brier_score(probabilities: Sequence[float], outcomes: Sequence[bool]) -> float:
    """Return the mean squared difference of probability and outcome, in 0-1 (Brier 1950, for two classes)."""
    return float(np.mean((np.asarray(probabilities, float) - np.asarray(outcomes, float)) ** 2))


def decompose_brier(probabilities: Sequence[float], outcomes: Sequence[bool], num_bins: int = 10) -> BrierParts:
    """Return the parts of the Brier score over equal-width bins (lower, upper].

    Source:
        Murphy 1973, J. Appl. Meteor. 12(4), 595-600, for reliability, resolution and uncertainty; Stephenson et al.
        2008, Weather and Forecasting 23(4), 752-757, for the remainder, here one number: their variance within bins
        less their covariance term, which is twice the covariance of probability and outcome there.

    Raises:
        ValueError: If there is no probability.
    """
    found, real = np.asarray(probabilities, float), np.asarray(outcomes, float)
    if not len(found):
        raise ValueError("a Brier score needs at least one probability")
    numbers = assign_bins(found, num_bins)
    forecast, frequency = _average(found, numbers, num_bins), _average(real, numbers, num_bins)
    spread, rate = found - forecast, float(real.mean())
    return BrierParts(reliability=float(np.mean((forecast - frequency) ** 2)),
                      resolution=float(np.mean((frequency - rate) ** 2)), uncertainty=rate * (1 - rate),
                      within_bins=float(np.mean(spread**2) - 2 * np.mean(spread * (real - frequency))))


def _average(values: NDArray[np.float64], numbers: NDArray[np.intp], num_bins: int) -> NDArray[np.float64]:
    """Return the mean of each value's bin, [n]."""
    means: NDArray[np.float64] = (np.bincount(numbers, values, num_bins)
                                  / np.maximum(np.bincount(numbers, minlength=num_bins), 1))[numbers]
    return means


def negative_log_likelihood(probabilities: Sequence[float], outcomes: Sequence[bool], clip: float = 1e-12) -> float:
    """Return the mean of -log(probability of what came true), in nats, probabilities held inside [clip, 1 - clip].

    Shares of N samples reach 0 and 1 without meaning it: there 1 / (2 N), half of the smallest share they can show.

    Raises:
        ValueError: If there is no probability.
    """
    found, real = np.clip(np.asarray(probabilities, float), clip, 1 - clip), np.asarray(outcomes, float)
    if not len(found):
        raise ValueError("a likelihood needs at least one probability")
    return float(-np.mean(real * np.log(found) + (1 - real) * np.log1p(-found)))

"""Confidence against correctness: bins, calibration errors, votes over sampled answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

EDGE = 1e-9


@dataclass(frozen=True, slots=True)
class Bin:
    """A confidence bin (lower, upper]: its size, mean accuracy and mean confidence (None where it is empty)."""

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


@dataclass(frozen=True, slots=True)
class Vote:
    """What sampled answers say to a yes/no question; `confidence` and `p_yes` in 0-1."""

    answer: Literal["yes", "no"]
    confidence: float
    p_yes: float
    is_valid: bool


def vote_yes_no(num_yes: int, num_no: int) -> Vote:
    """Return the majority of the valid answers: p_yes = yes / (yes + no), confidence = max(p_yes, 1 - p_yes).

    A tie says yes. Without any valid answer both probabilities are 0.5 and the vote is marked as not valid: it is
    neither guessed nor hidden.
    """
    valid = num_yes + num_no
    p_yes = num_yes / valid if valid else 0.5
    return Vote("yes" if p_yes >= 0.5 else "no", max(p_yes, 1 - p_yes), p_yes, valid > 0)


def assign_bins(confidences: NDArray[np.float64], num_bins: int) -> NDArray[np.intp]:
    """Return each confidence's bin number: bin b holds (b / num_bins, (b + 1) / num_bins]; 0 goes to the first.

    Shares of N samples lie exactly on edges, where rounding would decide (70 / 100 * 10 > 7): a value within 1e-9 of
    an edge counts as being on it.
    """
    numbers = np.ceil(confidences * num_bins - EDGE).astype(np.intp) - 1
    return np.clip(numbers, 0, num_bins - 1)


def bin_confidences(confidences: Sequence[float], correct: Sequence[bool], num_bins: int = 10) -> list[Bin]:
    """Return equal-width bins over [0, 1] with what fell into them.

    Raises:
        ValueError: If the lengths differ, or a confidence is outside [0, 1].
    """
    sure, right = np.asarray(confidences, float), np.asarray(correct, float)
    if sure.shape != right.shape:
        raise ValueError(f"{len(sure)} confidences for {len(right)} answers")
    if len(sure) and not (np.all(sure >= 0) and np.all(sure <= 1)):
        raise ValueError("a confidence lies outside [0, 1]")
    numbers = assign_bins(sure, num_bins)
    return [_make_bin(number, num_bins, sure[numbers == number], right[numbers == number])
            for number in range(num_bins)]


def _make_bin(number: int, num_bins: int, sure: NDArray[np.float64], right: NDArray[np.float64]) -> Bin:
    filled = len(sure) > 0
    return Bin(number / num_bins, (number + 1) / num_bins, len(sure), float(right.mean()) if filled else None,
               float(sure.mean()) if filled else None)


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Return the sum over bins of (size / N) |accuracy - confidence|, in 0-1.

    Source:
        Guo et al. 2017, arXiv:1706.04599, equation 3.
    """
    return sum(weight * abs(gap) for weight, gap in _weighted_gaps(bins))


def maximum_calibration_error(bins: Sequence[Bin]) -> float:
    """Return the largest |accuracy - confidence| of a filled bin (Guo et al. 2017, equation 5)."""
    return max((abs(gap) for _, gap in _weighted_gaps(bins)), default=0.0)


def overconfidence(bins: Sequence[Bin]) -> float:
    """Return the part of the expected calibration error from bins that are too sure: a one-sided error, no rate."""
    return sum(weight * max(gap, 0.0) for weight, gap in _weighted_gaps(bins))


def underconfidence(bins: Sequence[Bin]) -> float:
    """Return the part of the expected calibration error from bins that are not sure enough."""
    return sum(weight * max(-gap, 0.0) for weight, gap in _weighted_gaps(bins))


def _weighted_gaps(bins: Sequence[Bin]) -> list[tuple[float, float]]:
    total = sum(item.size for item in bins)
    return [(item.size / total, item.gap) for item in bins if item.gap is not None]


def brier_score(probabilities: Sequence[float], outcomes: Sequence[bool]) -> float:
    """Return the mean squared difference of probability and outcome, in 0-1 (Brier 1950, for two classes)."""
    return float(np.mean((np.asarray(probabilities, float) - np.asarray(outcomes, float)) ** 2))


def measure_error(confidences: NDArray[np.float64], correct: NDArray[np.float64], num_bins: int) -> float:
    """Return the expected calibration error of arrays, without making bins: for resampling."""
    numbers = assign_bins(confidences, num_bins)
    gaps = np.bincount(numbers, confidences - correct, num_bins)
    return float(np.abs(gaps).sum() / len(confidences))


def simulate_bias_floor(p_yes: Sequence[float], num_samples: int, num_bins: int, *, seed: int = 0,
                        rounds: int = 200) -> float:
    """Return the expected calibration error a perfectly calibrated model would show, by simulation.

    Each round takes `p_yes` as the true probabilities, draws the truth of every question and `num_samples` answers
    from them, votes, and measures the error: what is left is the bias of the estimator at this many questions and
    samples.
    """
    truth = np.asarray(p_yes, float)
    random = np.random.default_rng(seed)
    errors = []
    for _ in range(rounds):
        share = random.binomial(num_samples, truth) / num_samples
        says_yes = share >= 0.5
        correct = says_yes == (random.random(len(truth)) < truth)
        errors.append(measure_error(np.maximum(share, 1 - share), correct.astype(float), num_bins))
    return float(np.mean(errors))

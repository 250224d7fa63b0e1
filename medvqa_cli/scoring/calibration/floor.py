"""The bias floor: what calibration error a perfectly calibrated model would show, for chance alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medvqa_cli.scoring.calibration.bins import measure_error

if TYPE_CHECKING:
    from collections.abc import Sequence


def simulate_bias_floor(p_yes: Sequence[float], num_samples: int, num_bins: int, *, seed: int = 0,
                        rounds: int = 200) -> float:
    """Return the expected calibration error a perfectly calibrated model would show, by simulation.

    Each round takes `p_yes` as the true probabilities, draws the truth of every question and `num_samples` answers
    from them, votes, and measures the error: what is left is the bias of the estimator at this many questions and
    samples.

    Raises:
        ValueError: If there is no question or no sample.
    """
    truth = np.asarray(p_yes, float)
    if not len(truth) or num_samples < 1:
        raise ValueError("a bias floor needs at least one question and one sample")
    random = np.random.default_rng(seed)
    errors = []
    for _ in range(rounds):
        share = random.binomial(num_samples, truth) / num_samples
        says_yes = share >= 0.5
        correct = says_yes == (random.random(len(truth)) < truth)
        errors.append(measure_error(np.maximum(share, 1 - share), correct.astype(float), num_bins))
    return float(np.mean(errors))


def simulate_share_floor(confidences: Sequence[float], num_samples: int, num_bins: int, *, seed: int = 0,
                         rounds: int = 200) -> float:
    """Return the same for answers to questions of any kind, the confidence being the majority's share of samples.

    Each round draws every majority's share anew, and whether it is right, with its confidence as the probability of
    both. That another answer may win the vote is left out.

    Raises:
        ValueError: If there is no question or no sample.
    """
    truth = np.asarray(confidences, float)
    if not len(truth) or num_samples < 1:
        raise ValueError("a bias floor needs at least one question and one sample")
    random = np.random.default_rng(seed)
    return float(np.mean([measure_error(random.binomial(num_samples, truth) / num_samples,
                                        (random.random(len(truth)) < truth).astype(float), num_bins)
                          for _ in range(rounds)]))


def simulate_confidence_floor(confidences: Sequence[float], num_bins: int, *, seed: int = 0,
                              rounds: int = 200) -> float:
    """Return the same for confidences that are exact, not shares of samples: an answer is right with its confidence.

    Source:
        Bröcker and Smith 2007, Weather and Forecasting 22(3) (consistency resampling); for classifiers Vaicenavicius et
        al. 2019, arXiv:1902.06977. Differs: only outcomes are drawn anew, not which confidences there are.

    Raises:
        ValueError: If there is no confidence.
    """
    sure = np.asarray(confidences, float)
    if not len(sure):
        raise ValueError("a bias floor needs at least one question")
    random = np.random.default_rng(seed)
    return float(np.mean([measure_error(sure, (random.random(len(sure)) < sure).astype(float), num_bins)
                          for _ in range(rounds)]))

"""Calibration errors against hand computation, with confidences exactly on the edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from medvqa_cli.scoring.calibration import (
    assign_bins,
    bin_confidences,
    brier_score,
    expected_calibration_error,
    maximum_calibration_error,
    measure_error,
    overconfidence,
    simulate_bias_floor,
    underconfidence,
    vote_yes_no,
)

PAIRS = st.lists(st.tuples(st.integers(0, 100), st.booleans()), min_size=1, max_size=60)


@pytest.mark.parametrize("num_bins", [1, 5, 10, 15, 20])
@pytest.mark.parametrize("num_samples", [10, 20, 30, 100])
def test_every_share_of_samples_falls_into_the_bin_it_closes(num_bins, num_samples):
    """Exact integer arithmetic decides: k/N is in (b/B, (b+1)/B] for b = ceil(k * B / N) - 1."""
    for k in range(num_samples + 1):
        expected = max(-(-k * num_bins // num_samples) - 1, 0)
        assert assign_bins(np.array([k / num_samples]), num_bins)[0] == expected


def test_by_hand():
    """Bins (0.6, 0.7]: accuracy 1/2, confidence 0.7; (0.8, 0.9]: 3/4, 0.9; (0.9, 1]: 1, 1."""
    confidences = [0.7, 0.7, 0.9, 0.9, 0.9, 0.9, 1.0, 1.0]
    correct = [True, False, True, True, True, False, True, True]
    bins = bin_confidences(confidences, correct, 10)
    assert [item.size for item in bins] == [0, 0, 0, 0, 0, 0, 2, 0, 4, 2]
    assert expected_calibration_error(bins) == pytest.approx(2 / 8 * 0.2 + 4 / 8 * 0.15)
    assert maximum_calibration_error(bins) == pytest.approx(0.2)
    assert overconfidence(bins) == pytest.approx(0.125)
    assert underconfidence(bins) == 0.0


def test_a_model_that_is_not_sure_enough():
    bins = bin_confidences([0.55, 0.55], [True, True], 10)
    assert (overconfidence(bins), underconfidence(bins)) == (0.0, pytest.approx(0.45))


@given(PAIRS, st.integers(1, 20))
def test_one_sided_errors_add_up_and_arrays_agree_with_bins(pairs, num_bins):
    confidences, correct = [k / 100 for k, _ in pairs], [right for _, right in pairs]
    bins = bin_confidences(confidences, correct, num_bins)
    error = expected_calibration_error(bins)
    assert overconfidence(bins) + underconfidence(bins) == pytest.approx(error)
    assert error <= maximum_calibration_error(bins) + 1e-12
    assert measure_error(np.array(confidences), np.array(correct, float), num_bins) == pytest.approx(error)
    assert sum(item.size for item in bins) == len(pairs)


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="2 confidences for 1 answers"):
        bin_confidences([0.1, 0.2], [True])
    with pytest.raises(ValueError, match="outside"):
        bin_confidences([1.1], [True])


def test_brier_equals_scikit_learn():
    random = np.random.default_rng(0)
    p, y = random.random(200), random.random(200) < 0.4
    assert brier_score(p.tolist(), y.tolist()) == pytest.approx(brier_score_loss(y, p))


@pytest.mark.parametrize(("yes", "no", "expected"), [
    (70, 30, ("yes", 0.7, 0.7, True)), (30, 70, ("no", 0.7, 0.3, True)), (50, 50, ("yes", 0.5, 0.5, True)),
    (0, 0, ("yes", 0.5, 0.5, False)), (1, 0, ("yes", 1.0, 1.0, True)),
])
def test_votes(yes, no, expected):
    vote = vote_yes_no(yes, no)
    assert (vote.answer, pytest.approx(vote.confidence), pytest.approx(vote.p_yes), vote.is_valid) == expected


def test_bias_floor_is_that_of_a_calibrated_model():
    """peers.md's setting: p ~ Beta(2, 2), 251 questions, 10 bins: 0.051 at 100 samples, 0.084 at 10."""
    truth = np.random.default_rng(1).beta(2, 2, 251).tolist()
    assert simulate_bias_floor(truth, 100, 10) == pytest.approx(0.051, abs=0.006)
    assert simulate_bias_floor(truth, 10, 10) == pytest.approx(0.084, abs=0.008)
    assert simulate_bias_floor([0.0, 1.0], 100, 10) == 0.0

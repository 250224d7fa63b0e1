"""Every calibration measure against hand computation, scikit-learn, published values and its own bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from medvqa_cli.scoring.calibration import (
    bin_confidences,
    brier_score,
    decompose_brier,
    expected_calibration_error,
    maximum_calibration_error,
    measure_calibration,
    negative_log_likelihood,
    overconfidence,
    simulate_bias_floor,
    simulate_confidence_floor,
    squared_calibration_error,
    sweep_calibration_error,
    trace_risk,
    underconfidence,
)
from medvqa_cli.scoring.calibration.bins import find_edges
from medvqa_cli.scoring.calibration.selection import measure_accuracy_at, measure_aurc
from medvqa_cli.scoring.calibration.tally import count_levels

PAIRS = st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=40)


def measure(confidences, correct, images=None, resamples=50, **options):
    return measure_calibration(confidences, correct, images or list(range(len(correct))), resamples=resamples,
                               **options)


def draw(number, seed=0):
    random = np.random.default_rng(seed)
    sure = np.round(0.5 + random.random(number) / 2, 2)
    return sure, random.random(number) < sure**2, random.integers(0, number // 4, number)


def test_published_values_of_torchmetrics():
    """Its documentation's example of BinaryCalibrationError(n_bins=2): l1 0.2900, l2 0.2918, max 0.3167."""
    bins = bin_confidences([0.25, 0.25, 0.55, 0.75, 0.75], [False, False, True, True, True], 2)
    assert expected_calibration_error(bins) == pytest.approx(0.2900, abs=5e-5)
    assert math.sqrt(squared_calibration_error(bins, debiased=False)) == pytest.approx(0.2918, abs=5e-5)
    assert maximum_calibration_error(bins) == pytest.approx(0.3167, abs=5e-5)


def test_published_values_of_verified_calibration():
    """Kumar et al.'s own tests: 4/9 0.25 + 5/9 0.2, its square, and 0.15 for two right answers at 0.9 and 0.8."""
    sure = [0.5, 0.5, 0.5, 0.6, 0.5, 0.6, 0.6, 0.6, 0.6]
    right = [False, True, False, True, False, True, True, True, False]
    bins = bin_confidences(sure, right, 2, "mass")
    assert [item.size for item in bins if item.size] == [4, 5]
    assert expected_calibration_error(bins) == pytest.approx(4 / 9 * 0.25 + 5 / 9 * 0.2)
    assert squared_calibration_error(bins, debiased=False) == pytest.approx(4 / 9 * 0.25**2 + 5 / 9 * 0.2**2)
    by_hand = 4 / 9 * (0.25**2 - 0.25 * 0.75 / 3) + 5 / 9 * (0.2**2 - 0.8 * 0.2 / 4)
    assert squared_calibration_error(bins) == pytest.approx(by_hand)
    assert measure([0.9, 0.8], [True, True])["ece"].estimate == pytest.approx(0.15)


def test_equal_mass_bins_never_part_equal_confidences():
    assert find_edges(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), 3).tolist() == [0.2, 0.4, 1.0]
    assert find_edges(np.array([0.3, 0.5, 1.0, 1.0, 1.0, 1.0]), 3).tolist() == [0.5, 1.0]
    assert find_edges(np.array([0.7] * 5), 3).tolist() == [0.7, 1.0]
    bins = bin_confidences([0.2, 0.2, 0.2, 0.9], [True] * 4, 4, "mass")
    assert [(item.lower, item.upper, item.size) for item in bins] == [(0.0, 0.2, 3), (0.2, 1.0, 1)]


def test_equal_mass_error_by_hand():
    """Two bins of two: confidences 0.55 and 0.9, accuracies 1/2 and 1."""
    found = measure([0.5, 0.6, 0.85, 0.95], [True, False, True, True], num_bins=2)
    assert found["ece_equal_mass"].estimate == pytest.approx(0.5 * 0.05 + 0.5 * 0.1)


def test_sweep_stops_before_accuracy_falls():
    """Accuracies 0, 0, 1, 1 never fall. Of 1, 0, 1, 1 two bins rise (0.5, 1), three fall (1, 0.5, 1)."""
    assert sweep_calibration_error([0.6, 0.7, 0.8, 0.9], [False, False, True, True])[1] == 4
    error, number = sweep_calibration_error([0.6, 0.7, 0.8, 0.9], [True, False, True, True])
    assert (error, number) == (pytest.approx(0.5 * 0.15 + 0.5 * 0.15), 2)
    assert sweep_calibration_error([0.6, 0.9], [True, False]) == (pytest.approx(0.25), 1)
    assert sweep_calibration_error([0.6, 0.9], [True, True]) == (pytest.approx(0.25), 2)
    with pytest.raises(ValueError, match="at least one answer"):
        sweep_calibration_error([], [])


def test_debiased_error_of_a_calibrated_model_is_nearer_to_nothing():
    random = np.random.default_rng(0)
    plain, debiased = [], []
    for _ in range(40):
        sure = 0.5 + random.random(200) / 2
        found = measure(sure, random.random(200) < sure, ["one"] * 200)
        plain.append(found["ece"].estimate)
        debiased.append(found["ece_debiased"].estimate)
    assert np.mean(plain) > 0.05
    assert 0 < np.mean(debiased) < 0.7 * np.mean(plain)


def test_debiased_error_equals_its_simulation():
    """One bin of 20 answers, 14 right, confidence 0.75: the mean of |N(0.7, 0.7 0.3 / 20) - 0.75| exceeds 0.05."""
    draws = np.random.default_rng(0).normal(0.7, math.sqrt(0.21 / 20), 400_000)
    bias = np.abs(draws - 0.75).mean() - 0.05
    found = measure([0.75] * 20, [True] * 14 + [False] * 6)
    assert found["ece_debiased"].estimate == pytest.approx(0.05 - bias, abs=3e-4)


def test_measures_equal_scikit_learn():
    sure, right, images = draw(300)
    found = measure(sure, right, images.tolist(), clip=1e-12)
    assert found["brier"].estimate == pytest.approx(brier_score_loss(right, sure))
    assert found["auroc"].estimate == pytest.approx(roc_auc_score(right, sure))
    held = np.clip(sure, 0.005, 0.995)
    assert measure(sure, right, clip=0.005)["nll"].estimate == pytest.approx(log_loss(right, held))
    assert negative_log_likelihood(sure, right, 0.005) == pytest.approx(log_loss(right, held))


@settings(max_examples=40, deadline=None)
@given(PAIRS, st.integers(1, 12))
def test_measures_of_arrays_are_those_of_bins(pairs, num_bins):
    sure, right = [k / 20 for k, _ in pairs], [hit for _, hit in pairs]
    found = measure_calibration(sure, right, ["one"] * len(sure), num_bins=num_bins)
    bins = bin_confidences(sure, right, num_bins)
    wanted = {"ece": expected_calibration_error(bins), "mce": maximum_calibration_error(bins),
              "overconfidence": overconfidence(bins), "underconfidence": underconfidence(bins),
              "ece_equal_mass": expected_calibration_error(bin_confidences(sure, right, num_bins, "mass")),
              "brier": brier_score(sure, right), "accuracy": np.mean(right), "mean_confidence": np.mean(sure)}
    assert {name: found[name].estimate for name in wanted} == pytest.approx(wanted)
    assert found["excess_aurc"].estimate >= -1e-12


def average_over_orders(sure, right, rounds=2000):
    """AURC by its definition, over random orders among ties."""
    random, total = np.random.default_rng(1), 0.0
    for _ in range(rounds):
        order = np.lexsort((random.random(len(sure)), -np.asarray(sure)))
        wrong = 1 - np.asarray(right, float)[order]
        total += np.mean(np.cumsum(wrong) / np.arange(1, len(sure) + 1))
    return total / rounds


def test_aurc_by_hand_and_over_all_orders_of_ties():
    """Surest first: right, wrong, right, wrong: risks 0, 1/2, 1/3, 1/2; the best order 0, 0, 1/3, 1/2."""
    found = measure([0.9, 0.8, 0.7, 0.6], [True, False, True, False])
    assert found["aurc"].estimate == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert found["excess_aurc"].estimate == pytest.approx((1 / 2) / 4)
    sure, right = [0.9, 0.9, 0.9, 0.7, 0.7, 0.5], [True, False, True, False, True, False]
    assert measure(sure, right)["aurc"].estimate == pytest.approx(average_over_orders(sure, right), abs=1e-2)
    assert measure([0.7] * 8, [True, False] * 4)["aurc"].estimate == pytest.approx(0.5)


def test_risk_coverage_curve():
    curve = trace_risk([0.9, 0.7, 0.9, 0.5], [True, False, True, False])
    assert curve == [(0.9, 0.5, 0.0), (0.7, 0.75, pytest.approx(1 / 3)), (0.5, 1.0, 0.5)]


def test_accuracy_at_coverage():
    tally = count_levels(np.array([0.9, 0.8, 0.8, 0.6]), np.array([1.0, 1.0, 0.0, 0.0]))
    assert measure_accuracy_at(tally, 0.25)[0] == 1.0
    assert measure_accuracy_at(tally, 0.5)[0] == pytest.approx((1 + 0.5) / 2)
    assert measure_accuracy_at(tally, 0.7)[0] == pytest.approx(2 / 3)
    assert measure_accuracy_at(tally, 1.0)[0] == 0.5


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.integers(1, 12))
def test_brier_parts_add_up(pairs, num_bins):
    sure, right = [k / 20 for k, _ in pairs], [hit for _, hit in pairs]
    parts = decompose_brier(sure, right, num_bins)
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within_bins
    assert total == pytest.approx(brier_score(sure, right))


def test_brier_parts_by_hand():
    """Two bins: 0.8 with 1 of 2 right, 0.6 with 2 of 2 right; nothing is lost within bins."""
    parts = decompose_brier([0.8, 0.8, 0.6, 0.6], [True, False, True, True], 10)
    assert parts.reliability == pytest.approx((0.09 + 0.16) / 2)
    assert parts.resolution == pytest.approx(0.0625)
    assert (parts.uncertainty, parts.within_bins) == (pytest.approx(0.1875), pytest.approx(0.0))


def test_bootstrap_counts_a_row_as_often_as_it_is_drawn():
    """A weight of two is the row twice: for every measure, in one tally of weights."""
    sure, right, _ = draw(40)
    weights = np.random.default_rng(3).integers(0, 3, (1, 40)).astype(float)
    rows = np.repeat(np.arange(40), weights[0].astype(int))
    repeated, weighted = count_levels(sure[rows], right[rows].astype(float)), count_levels(sure, right, weights)
    assert measure_aurc(weighted)[0] == pytest.approx(measure_aurc(repeated)[0])
    assert measure_accuracy_at(weighted, 0.8)[0] == pytest.approx(measure_accuracy_at(repeated, 0.8)[0])


def test_intervals_agree_with_the_plain_bootstrap_over_images():
    sure, right, images = draw(80)
    found = measure(sure, right, images.tolist(), 2000)
    members = [np.flatnonzero(images == image) for image in np.unique(images)]
    random = np.random.default_rng(5)
    draws = []
    for _ in range(300):
        rows = np.concatenate([members[image] for image in random.integers(0, len(members), len(members))])
        draws.append(measure(sure[rows], right[rows], ["one"] * len(rows)))
    for name, interval in found.items():
        low, high = np.quantile([draw[name].estimate for draw in draws], [0.025, 0.975])
        if name != "ece_equal_mass":  # its bins are found anew here, and stay the same there
            assert interval.low == pytest.approx(low, abs=0.15 * (high - low)), name
            assert interval.high == pytest.approx(high, abs=0.15 * (high - low)), name


def test_clusters_widen_intervals():
    """Each image ten times the same question: ten times as many rows, no more information."""
    sure, right, _ = draw(60)
    alone = measure(sure, right, resamples=800)["brier"]
    rows = np.repeat(np.arange(60), 10)
    together = measure(sure[rows], right[rows], rows.tolist(), 800)["brier"]
    as_rows = measure(sure[rows], right[rows])["brier"]
    assert together.high - together.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert as_rows.high - as_rows.low < 0.5 * (together.high - together.low)


@pytest.mark.parametrize("hit", [True, False])
def test_all_right_or_all_wrong(hit):
    found = measure([0.9, 0.8, 0.7], [hit] * 3)
    assert math.isnan(found["auroc"].estimate)
    assert (found["auroc"].low, found["auroc"].high) == (None, None)
    assert found["aurc"].estimate == (0.0 if hit else 1.0)
    assert found["excess_aurc"].estimate == pytest.approx(0.0)
    assert math.isfinite(measure([1.0, 0.0], [hit] * 2, clip=0.005)["nll"].estimate)


def test_one_image_has_no_interval():
    found = measure([0.9, 0.8], [True, False], ["a", "a"])
    assert {(interval.low, interval.high) for interval in found.values()} == {(None, None)}


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="at least one value"):
        measure([], [])
    with pytest.raises(ValueError, match="outside"):
        measure([math.nan], [True])
    with pytest.raises(ValueError, match="2 confidences on 1"):
        measure([0.5, 0.5], [True, True], ["a"])
    with pytest.raises(ValueError, match="one question and one sample"):
        simulate_bias_floor([0.5], 0, 10)
    with pytest.raises(ValueError, match="at least one question"):
        simulate_confidence_floor([], 10)
    for function in (decompose_brier, negative_log_likelihood):
        with pytest.raises(ValueError, match="at least one probability"):
            function([], [])


def test_floor_of_exact_confidences():
    """With many questions it vanishes; a certain model has none; few questions leave much."""
    random = np.random.default_rng(2)
    assert simulate_confidence_floor([1.0] * 50, 10) == 0.0
    few, many = (simulate_confidence_floor(0.5 + random.random(n) / 2, 10, rounds=50) for n in (250, 25_000))
    assert 0.03 < few < 0.07
    assert many == pytest.approx(few / 10, rel=0.3)


def test_floor_of_one_bin_is_the_mean_of_a_half_normal():
    """n answers at p: E|share - p| = sqrt(2 p (1 - p) / (pi n))."""
    one = simulate_confidence_floor([0.8] * 400, 10, rounds=2000)
    assert one == pytest.approx(math.sqrt(2 * 0.8 * 0.2 / (math.pi * 400)), rel=0.05)

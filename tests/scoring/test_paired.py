"""Paired comparisons against hand counts, scipy, and the sign-flip test of means."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from scipy.stats import binomtest, chi2

from medvqa_cli.scoring.intervals import bootstrap_mean
from medvqa_cli.scoring.paired import compare_counts, find_disagreement, measure_effect
from medvqa_cli.scoring.resampling import Counted, take_mean


def counted(values):
    return {"accuracy": Counted(np.asarray([[float(value), 1.0] for value in values]), take_mean)}


def test_disagreements_by_hand():
    found = find_disagreement([True] * 9 + [False] * 6, [True] * 4 + [False] * 5 + [True] * 2 + [False] * 4)
    assert (found.both, found.only_first, found.only_second, found.neither) == (4, 5, 2, 4)
    assert found.odds_ratio == pytest.approx(0.4)
    assert found.g == pytest.approx(2 / 7 - 0.5)


def test_the_sign_of_an_effect_is_that_of_the_difference():
    better, worse = [True] * 9 + [False], [False] * 9 + [True]
    assert find_disagreement(worse, better).g == -find_disagreement(better, worse).g == pytest.approx(0.4)
    assert measure_effect([0.0, 1.0]) == -measure_effect([0.0, -1.0])


@pytest.mark.parametrize(("fewer", "more"), [(0, 1), (2, 5), (7, 7), (40, 61), (480, 520)])
def test_mcnemar_is_the_binomial_test(fewer, more):
    found = find_disagreement([True] * fewer + [False] * more, [False] * fewer + [True] * more)
    assert found.p_value == pytest.approx(binomtest(fewer, fewer + more).pvalue, rel=1e-9)


def test_mcnemar_of_many_disagreements_is_the_corrected_chi_square():
    found = find_disagreement([True] * 1100 + [False] * 1200, [False] * 1100 + [True] * 1200)
    assert found.p_value == pytest.approx(chi2.sf((100 - 1) ** 2 / 2300, 1), rel=1e-9)


def test_drawn_exchanges_never_give_a_p_value_of_0():
    """30 images that all say the same: of 199 drawn exchanges none reaches it, and the observed one counts as one."""
    found = compare_counts(counted([True] * 30), counted([False] * 30), list(range(30)), resamples=199)["accuracy"]
    assert found.p_value == pytest.approx(1 / 200)


def test_no_disagreement_is_no_difference():
    found = find_disagreement([True, False], [True, False])
    assert (found.p_value, found.odds_ratio, found.g) == (1.0, None, None)


@pytest.mark.parametrize("images", [8, 40])
def test_exchanging_systems_flips_the_signs_of_mean_differences(images):
    draw = random.Random(3)
    first = [draw.random() < 0.5 for _ in range(images * 5)]
    second = [draw.random() < 0.65 for _ in range(images * 5)]
    clusters = [number // 5 for number in range(images * 5)]
    found = compare_counts(counted(first), counted(second), clusters, resamples=4000, seed=1)["accuracy"]
    differences = [float(b) - float(a) for a, b in zip(first, second, strict=True)]
    interval = bootstrap_mean(differences, clusters, resamples=4000, seed=1)
    assert found.difference.value == pytest.approx(interval.estimate)
    assert found.difference.low == pytest.approx(interval.low, abs=0.02)
    assert found.difference.high == pytest.approx(interval.high, abs=0.02)
    sums = np.asarray(differences).reshape(images, 5).sum(axis=1)
    signs = np.asarray(list(itertools.product((-1, 1), repeat=8))) if images == 8 else (
        np.random.default_rng(5).choice([-1, 1], (20_000, images)))
    flipped = np.mean(np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9)
    assert found.p_value == pytest.approx(flipped, abs=1e-12 if images == 8 else 0.03)


def test_a_measure_that_is_no_mean_is_compared_as_a_whole():
    """A ratio of sums: the difference of ratios, not the mean of differences."""
    rows = {"ratio": Counted(np.array([[1.0, 4.0], [3.0, 1.0]]), take_mean)}
    other = {"ratio": Counted(np.array([[2.0, 4.0], [3.0, 1.0]]), take_mean)}
    found = compare_counts(rows, other, ["a", "b"])["ratio"]
    assert (found.first, found.second) == (0.8, 1.0)
    assert found.difference.value == pytest.approx(0.2)
    assert found.p_value == 1.0  # exchanging the second image changes nothing; either way the difference is 0.2


def test_exchanges_that_leave_a_measure_undefined_are_not_counted():
    """Of four exchanges two leave a system without any question of the kind; the other two give a difference of 1."""
    rows = {"ratio": Counted(np.array([[1.0, 1.0], [0.0, 0.0]]), take_mean)}
    other = {"ratio": Counted(np.array([[0.0, 0.0], [0.0, 1.0]]), take_mean)}
    found = compare_counts(rows, other, ["a", "b"])["ratio"]
    assert (found.first, found.second, found.p_value) == (1.0, 0.0, 1.0)


def test_equal_systems_are_rarely_found_different():
    """At level 0.05 about one in twenty comparisons of equal systems is found, questions of an image alike or not."""
    draw, found = np.random.default_rng(0), 0
    clusters = [number // 10 for number in range(200)]
    for trial in range(200):
        by_image = np.repeat(draw.random(20), 10)
        first, second = (draw.random(200) < by_image for _ in range(2))
        p = compare_counts(counted(first), counted(second), clusters, resamples=400, seed=trial)["accuracy"].p_value
        found += p <= 0.05
    assert 2 <= found <= 22


def test_effects():
    assert measure_effect([0.5, 0.5, 0.5]) is None
    assert measure_effect([1.0]) is None
    assert measure_effect([0.0, 1.0]) == pytest.approx(0.5 / math.sqrt(0.5))

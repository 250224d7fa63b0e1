"""Paired differences: against scipy where it has the test, against hand computation elsewhere."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from medvqa_cli.scoring.comparisons import adjust_holm, compare_pairs


def flip_signs(*arguments, **options):
    return compare_pairs(*arguments, **options).p_value


def test_few_clusters_are_counted_exactly():
    """Sums 3, 1, 2 of 6: the 8 flips give |6| twice, so p = 2/8."""
    assert flip_signs([1, 2, 1, 2], ["a", "a", "b", "c"]) == 0.25
    assert flip_signs([1, -1], ["a", "b"]) == 1.0
    assert flip_signs([0, 0, 0], ["a", "b", "c"]) == 1.0
    assert flip_signs([5.0], ["a"]) == 1.0


@pytest.mark.parametrize("count", [10, 40])
def test_single_rows_agree_with_scipy(count):
    values = np.random.default_rng(3).normal(0.4, 1.0, count)
    found = stats.permutation_test((values,), lambda x, axis: x.sum(axis=axis), permutation_type="samples",
                                   n_resamples=20_000, rng=np.random.default_rng(0))
    assert flip_signs(list(values), list(range(count)), resamples=20_000) == pytest.approx(found.pvalue, abs=0.01)


def test_clusters_weigh_more_than_rows():
    """Ten equal rows of one image are one piece of evidence, not ten."""
    clusters = [image for image in "abcd" for _ in range(10)]
    differences = [value for value in (1, 1, 1, -1) for _ in range(10)]
    assert flip_signs(differences, clusters) == pytest.approx(10 / 16)
    assert flip_signs(differences, list(range(40))) < 0.01


def test_an_interval_and_its_test_agree():
    random = np.random.default_rng(1)
    clusters = [image for image in range(60) for _ in range(5)]
    better = compare_pairs(list(random.normal(0.5, 1.0, 300)), clusters)
    same = compare_pairs(list(random.normal(0.0, 1.0, 300)), clusters)
    assert better.interval.low > 0
    assert better.p_value < 0.01
    assert same.interval.low < 0 < same.interval.high
    assert same.p_value > 0.05


def test_a_p_value_is_never_zero_and_false_findings_are_as_rare_as_said():
    assert flip_signs([1.0] * 50, list(range(50)), resamples=999) == 1 / 1000
    random = np.random.default_rng(0)
    found = [flip_signs(list(random.normal(0, 1, 20)), list(range(20)), resamples=400, seed=seed)
             for seed in range(300)]
    assert np.mean(np.asarray(found) < 0.05) < 0.09


def test_holm_by_hand():
    assert adjust_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_holm([0.9, 0.8]) == [1.0, 1.0]
    assert adjust_holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(values):
    """An adjusted p is the largest Bonferroni p over all sets of hypotheses that hold it."""
    places = range(len(values))
    sets = [chosen for size in range(1, len(values) + 1) for chosen in itertools.combinations(places, size)]
    closed = [max(min(1.0, len(chosen) * min(values[other] for other in chosen)) for chosen in sets if place in chosen)
              for place in places]
    assert adjust_holm(values) == pytest.approx(closed)

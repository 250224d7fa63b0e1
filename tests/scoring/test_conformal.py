"""Guarantees by simulation: over many draws risk and coverage are as asked for; clusters need their own rule."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from medvqa_cli.scoring.conformal import (
    control_error,
    control_risk,
    find_binomial_tail,
    find_quantile,
    fit_answer_sets,
    score_candidates,
)

NAMES = ("left", "right", "both", "none")


def draw_answers(random, number):
    """Confidences and correctness of a calibrated model."""
    sure = np.round(0.5 + random.random(number) / 2, 2)
    return sure, random.random(number) < sure


def draw_clustered(random, images, size):
    """Images share their confidence and mostly their fate: ten questions say little more than one."""
    sure = np.round(0.5 + random.random(images) / 2, 2)
    right = random.random(images) < sure
    return np.repeat(sure, size), np.repeat(right, size), np.repeat(np.arange(images), size).tolist()


def draw_candidates(random, number, spread=1.5):
    """Probabilities that are too sure, and golds drawn from milder ones."""
    logits = random.normal(0, spread, (number, len(NAMES)))
    truth = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    said = truth**2 / (truth**2).sum(axis=1, keepdims=True)
    golds = [NAMES[random.choice(len(NAMES), p=row)] for row in truth]
    return [dict(zip(NAMES, map(float, row), strict=True)) for row in said], golds


def true_risk(threshold):
    """Risk and error of the calibrated model: confidence c on the grid 0.50..1.00 (ends half as likely)."""
    levels = np.arange(50, 101) / 100
    weights = np.ones(51)
    weights[[0, -1]] = 0.5
    given = weights * (levels >= (2 if threshold is None else threshold) - 1e-9) / weights.sum()
    wrong = float((given * (1 - levels)).sum())
    return wrong / max(float(given.sum()), 1e-12), wrong


def test_binomial_tail_equals_scipy():
    for most, trials, chance in [(0, 40, 0.1), (3, 50, 0.05), (10, 12, 0.9), (200, 2000, 0.1), (5, 5, 0.3),
                                 (0, 0, 0.5)]:
        assert find_binomial_tail(most, trials, chance) == pytest.approx(binom.cdf(most, trials, chance), rel=1e-8)


def test_guaranteed_risk_is_broken_as_seldom_as_promised():
    """In 150 draws of 400 questions at most 10 % may exceed a risk of 0.15; and the rule is of use."""
    random = np.random.default_rng(0)
    rules = [control_risk(*draw_answers(random, 400), 0.15, error=0.1) for _ in range(150)]
    assert np.mean([true_risk(rule.threshold)[0] > 0.15 for rule in rules]) <= 0.1
    assert np.mean([rule.coverage for rule in rules]) > 0.3
    assert all(rule.risk <= 0.15 for rule in rules if rule.threshold is not None)


def test_controlled_error_is_kept_on_average():
    random = np.random.default_rng(1)
    rules = [control_error(*draw_answers(random, 100), 0.1) for _ in range(300)]
    mean = np.mean([true_risk(rule.threshold)[1] for rule in rules])
    assert 0.08 < mean <= 0.1


def test_clusters_break_the_plain_guarantee_and_their_own_rule_keeps_it():
    """50 images of 20 like questions: as 1,000 independent ones they break it in far more than 10 % of the draws."""
    random = np.random.default_rng(2)
    plain, clustered = [], []
    for seed in range(60):
        sure, right, images = draw_clustered(random, 50, 20)
        plain.append(true_risk(control_risk(sure, right, 0.15).threshold)[0] > 0.15)
        clustered.append(true_risk(control_risk(sure, right, 0.15, clusters=images, seed=seed).threshold)[0] > 0.15)
    assert np.mean(plain) > 0.2
    assert np.mean(clustered) <= 0.1


def test_controlled_error_of_clusters_is_kept_on_average():
    random = np.random.default_rng(3)
    found = []
    for _ in range(300):
        sure, right, images = draw_clustered(random, 40, 5)
        found.append(true_risk(control_error(sure, right, 0.1, clusters=images).threshold)[1])
    assert 0.06 < np.mean(found) <= 0.1


def test_threshold_by_hand():
    """9 right and 1 wrong at 0.6: (1 + 1) / 11 > 0.1, so only what lies above 0.6 is answered: (0 + 1) / 11."""
    rule = control_error([0.9] * 9 + [0.6], [True] * 9 + [False], 0.1)
    assert (rule.threshold, rule.coverage, rule.risk) == (0.61, 0.9, 0.0)
    assert rule.guarantee == ("on average at most 0.1 of all questions are answered wrongly (conformal risk control, "
                              "10 questions)")
    assert control_error([0.9] * 9 + [0.6], [True] * 9 + [False], 0.2).threshold == 0.0


@pytest.mark.parametrize("control", [control_error, control_risk])
@pytest.mark.parametrize(("sure", "right"), [([1.0] * 30, [False] * 30), ([0.9], [True]), ([0.7], [False])])
def test_nothing_can_be_vouched_for(control, sure, right):
    rule = control(sure, right, 0.1)
    assert (rule.threshold, rule.coverage, rule.risk) == (None, 0.0, None)
    assert rule.guarantee.startswith("none: no threshold passed")


def test_all_right_is_answered():
    rule = control_risk([0.9] * 200, [True] * 200, 0.1)
    assert (rule.threshold, rule.coverage, rule.risk) == (0.0, 1.0, 0.0)


def test_fewest_answers_that_a_guarantee_needs_by_hand():
    """Without any error: 1 / (n + 1) <= 0.1 from n = 9 on; 0.9^n <= 0.1 / 5 from n = 38 on (0.9^37 = 0.0203)."""
    for control, least in ((control_error, 9), (control_risk, 38)):
        assert control([1.0] * least, [True] * least, 0.1).threshold is not None
        assert control([1.0] * (least - 1), [True] * (least - 1), 0.1).threshold is None


def test_wrong_input_is_refused():
    for control in (control_error, control_risk):
        with pytest.raises(ValueError, match="at least one question"):
            control([], [], 0.1)
        with pytest.raises(ValueError, match="wanted risk of 1"):
            control([0.5], [True], 1)
        with pytest.raises(ValueError, match="outside"):
            control([math.nan], [True], 0.1)
    with pytest.raises(ValueError, match="error of 0"):
        control_risk([0.5], [True], 0.1, error=0)
    with pytest.raises(ValueError, match="miss rate of 0"):
        find_quantile([0.1], 0)
    with pytest.raises(ValueError, match="not a number"):
        find_quantile([math.nan], 0.1)


def test_quantile_by_hand():
    """ceil((9 + 1) 0.9) = 9: the largest of nine; with eight scores nothing can be excluded."""
    assert find_quantile([n / 10 for n in range(9)], 0.1) == 0.8
    assert find_quantile([n / 10 for n in range(9)], 0.5) == 0.4
    assert find_quantile([0.1] * 8, 0.1) == math.inf
    assert find_quantile([], 0.1) == math.inf


def test_scores_by_hand():
    row = {"left": 0.5, "right": 0.3, "both": 0.2}
    assert score_candidates(row, "lac") == pytest.approx({"left": 0.5, "right": 0.7, "both": 0.8})
    assert score_candidates(row, "aps") == pytest.approx({"left": 0.5, "right": 0.8, "both": 1.0})


@pytest.mark.parametrize("method", ["lac", "aps"])
def test_sets_cover_as_often_as_asked(method):
    """Over 40 draws of 99 questions, 100 new ones each: 90 % are covered, and not by naming everything."""
    random = np.random.default_rng(4)
    hits, sizes = [], []
    for _ in range(40):
        sets = fit_answer_sets(*draw_candidates(random, 99), 0.1, method=method)
        rows, golds = draw_candidates(random, 100)
        chosen = [sets.select(row) for row in rows]
        hits += [gold in names for gold, names in zip(golds, chosen, strict=True)]
        sizes += [len(names) for names in chosen]
    assert np.mean(hits) == pytest.approx(0.9, abs=0.015) if method == "lac" else np.mean(hits) >= 0.89
    assert np.mean(sizes) < 3


def test_sets_of_clusters_cover_on_average_over_images():
    """Each image is one question asked 10 or once: few images, many rows. The image is the unit."""
    random = np.random.default_rng(5)
    hits = []
    for _ in range(120):
        rows, golds = draw_candidates(random, 40)
        times = random.choice([1, 10], 40)
        sets = fit_answer_sets([row for row, n in zip(rows, times, strict=True) for _ in range(n)],
                               [gold for gold, n in zip(golds, times, strict=True) for _ in range(n)], 0.2,
                               clusters=np.repeat(np.arange(40), times).tolist())
        new, wanted = draw_candidates(random, 20)
        hits += [gold in sets.select(row) for row, gold in zip(new, wanted, strict=True)]
    assert 0.785 <= np.mean(hits) <= 0.85


def test_one_question_an_image_is_the_plain_rule():
    rows, golds = draw_candidates(np.random.default_rng(6), 57)
    plain, clustered = (fit_answer_sets(rows, golds, 0.15, clusters=images) for images in (None, list(range(57))))
    assert plain == clustered


def test_too_few_questions_name_every_candidate():
    sets = fit_answer_sets([{"yes": 0.9, "no": 0.1}] * 3, ["yes"] * 3, 0.1)
    assert sets.select({"yes": 0.9, "no": 0.1}) == ("yes", "no")
    assert fit_answer_sets([], [], 0.1, clusters=[]).threshold == math.inf


def test_a_gold_that_is_not_on_offer_is_made_up_for():
    """2 of 20 golds are no candidates: at a miss of 0.2 the others are covered, at 0.05 nothing can be promised."""
    rows, golds = [{"yes": 0.9, "no": 0.1}] * 20, ["yes"] * 18 + ["maybe"] * 2
    assert fit_answer_sets(rows, golds, 0.2).select(rows[0]) == ("yes",)
    assert fit_answer_sets(rows, golds, 0.05).threshold == math.inf


def test_the_likeliest_is_always_named():
    sets = fit_answer_sets([{"yes": 1.0, "no": 0.0}] * 50, ["yes"] * 50, 0.1)
    assert sets.select({"yes": 0.6, "no": 0.4}) == ("yes",)

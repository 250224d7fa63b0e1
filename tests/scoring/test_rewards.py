"""Rewards equal what evaluation counts, and none can be had by tricks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from medvqa_cli.records import Box
from medvqa_cli.scoring.assignment import assign_most
from medvqa_cli.scoring.rewards import (
    find_iou,
    is_right,
    list_named,
    rate_boxes,
    rate_calibration,
    rate_choice,
    rate_form,
    rate_length,
    rate_overlap,
    read_boxes,
)

ORGANS = ("liver", "left lung", "lung", "heart")
TWO = [Box("a", 0, 0, 10, 10), Box("b", 20, 20, 30, 30)]


@pytest.mark.parametrize(("answer", "gold", "right"), [
    ("Yes", "yes", True), ("no", "yes", False), ("yes and no", "yes", False), ("yes or no", "no", False),
    ("(yes) / (no)", "yes", False), ("it is normal", "no", False), ("I do not know", "no", False), ("", "no", False),
    ("nodule", "no", False), ("eyes", "yes", False), ("left, right", "left", False), ("left right", "right", False),
    ("Spinal cord; lung", "lung, spinal cord", True)])
def test_closed_answers(answer, gold, right):
    assert is_right(answer, gold, is_closed=True) is right


@pytest.mark.parametrize(("answer", "reward"), [
    ("B", 1.0), ("(b)", 1.0), ("B) left lung", 1.0), ("left lung", 1.0), ("Left lung.", 1.0),
    ("The answer is B", 0.5), ("It must be B because of the shadow", 0.5), ("I see it in the left lung here", 0.5),
    ("A", 0.0), ("lung", 0.0), ("A B C D", 0.0), ("A, B, C and D", 0.0), ("B or C", 0.0), ("B) liver", 0.0),
    ("liver, left lung, lung, heart", 0.0), ("left lung or heart", 0.0), ("not B but C", 0.0), ("", 0.0),
    ("the lung", 0.0), ("E", 0.0), ("BBBB", 0.0), ("b b b", 0.0)])
def test_choices_are_graded(answer, reward):
    assert rate_choice(answer, "left lung", ORGANS) == reward


def test_a_gold_answer_that_is_no_option_rates_nothing():
    assert rate_choice("A", "spleen", ORGANS) is None


def test_options_inside_others_do_not_count_twice():
    assert list_named("the left lung", ORGANS) == {1}
    assert list_named("the left lung and a lung", ORGANS) == {1, 2}
    assert list_named("A", ORGANS) == {0}


@pytest.mark.parametrize(("answer", "reward"), [
    ("left", 1.0), ("the left", 2 / 3), ("left right", 0.0), ("left and right", 0.0), ("right", 0.0), ("", 0.0),
    ("left left left left", 0.4), ("upper left lower", 0.5)])
def test_overlap_pays_no_hedging(answer, reward):
    assert rate_overlap(answer, "left", options=("left", "right")) == pytest.approx(reward)


def test_both_sides_count_where_both_are_right():
    assert rate_overlap("left and right", "left and right", options=("left", "right")) == 1.0


@pytest.mark.parametrize(("text", "reward"), [
    ("<think>a shadow</think><answer>yes</answer>", 1.0),
    (" <think>a\nb</think>\n<answer>yes</answer>\n", 1.0),
    ("<think>a</think><answer>yes</answer><confidence>0.7</confidence>", 1.0),
    ("<think>a</think><confidence>0.7</confidence><answer>yes</answer>", 1.0),
    ("<answer>yes</answer>", 0.5),
    ("<think></think><answer>yes</answer>", 0.0), ("<think>  \n</think><answer>yes</answer>", 0.0),
    ("<think>...</think><answer>yes</answer>", 0.0), ("<think>a</think><answer></answer>", 0.0),
    ("<think>a</think><answer>yes</answer><answer>no</answer>", 0.0),
    ("<think>a<answer>no</answer></think><answer>yes</answer>", 0.0),
    ("<think>a</think><think>b</think><answer>yes</answer>", 0.0),
    ("<think>a</think>so<answer>yes</answer>", 0.0), ("<think>a</think><answer>yes</answer> I think", 0.0),
    ("<answer>yes</answer><think>a</think>", 0.0), ("<think>a</think><answer>yes", 0.0),
    ("<think>a<answer>yes</answer>", 0.0), ("yes", 0.0), ("", 0.0),
    ("<answer><think>a</think>yes</answer>", 0.0)])
def test_the_form_has_no_holes(text, reward):
    assert rate_form(text) == reward


@pytest.mark.parametrize(("tokens", "ended", "reward"), [
    (1, True, 0.0), (96, True, 0.0), (112, True, -0.5), (128, True, -1.0), (128, False, -1.0), (3, False, -1.0)])
def test_length(tokens, ended, reward):
    assert rate_length(tokens, 128, is_ended=ended) == reward


def test_boxes_are_read_and_matched():
    assert read_boxes("at [0, 0, 10, 10], (1.5,2,3,4); [5,5,1,1] [1,2,3]") == [(0, 0, 10, 10), (1.5, 2, 3, 4)]
    assert find_iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert rate_boxes([(20, 20, 30, 30), (0, 0, 10, 10)], TWO) == 1.0
    assert rate_boxes([(0, 0, 10, 10)], TWO) == 0.5
    assert rate_boxes([], TWO) == 0.0
    assert rate_boxes([(0, 0, 10, 10)], []) is None


def test_boxes_by_the_dozen_and_one_box_twice_earn_less():
    grid = [(x, y, x + 10.0, y + 10.0) for x in range(0, 40, 10) for y in range(0, 40, 10)]
    assert rate_boxes(grid, TWO) == pytest.approx(2 / 16)
    assert rate_boxes([(0, 0, 10, 10)] * 2, TWO) == 0.5
    assert rate_boxes([(0, 0, 1000, 1000)], TWO) < 1e-3


@given(st.integers(0, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_the_assignment_is_the_best_there_is(rows, columns, seed):
    gains = np.random.default_rng(seed).random((rows, columns))
    found = linear_sum_assignment(gains, maximize=True)
    assert assign_most(gains.tolist()) == pytest.approx(gains[found].sum())


@pytest.mark.parametrize(("text", "correct", "reward"), [
    ("yes <confidence>1</confidence>", True, 1.0), ("yes <confidence>0</confidence>", True, 0.0),
    ("yes <confidence>0.8</confidence>", True, 1 - 0.04), ("yes <confidence>0.8</confidence>", False, -0.64),
    ("yes, 80% sure", False, -0.64), ("yes", True, 0.0), ("yes", False, -1.0),
    ("yes <confidence>7</confidence>", True, 0.0), ("yes <confidence>-1</confidence>", False, -1.0),
    ("yes <confidence>150%</confidence>", False, -1.0),
    ("<confidence>1</confidence> yes <confidence>0</confidence>", True, 0.0)])
def test_rlcr(text, correct, reward):
    assert rate_calibration(text, is_correct=correct) == pytest.approx(reward)


@given(st.floats(0.01, 0.99))
def test_the_best_confidence_is_the_chance_of_being_right(chance):
    """RLCR is a proper rule: expected reward is largest where the stated confidence is the true chance."""
    def expect(q):
        return sum(p * rate_calibration(f"x <confidence>{q:.2f}</confidence>", is_correct=right)
                   for right, p in ((True, chance), (False, 1 - chance)))

    stated = max((step / 100 for step in range(101)), key=expect)
    assert abs(stated - chance) <= 0.0051

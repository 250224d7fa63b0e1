"""The most frequent answer to closed questions, and when it is a collapse."""

from __future__ import annotations

import pytest

from medvqa_cli.scoring.collapse import TopAnswer, find_top_answer


def test_yes_and_no_are_parsed_and_other_answers_normalized():
    top = find_top_answer([("yes", "Yes, there is."), ("No", "yes"), ("left", "Left."), ("right", "left")])
    assert top in (TopAnswer("yes", 0.5, 0.25, 4), TopAnswer("left", 0.5, 0.25, 4))
    assert find_top_answer([("yes", "maybe"), ("no", "Maybe.")]) == TopAnswer("maybe", 1.0, 0.5, 2)
    assert find_top_answer([]) is None


@pytest.mark.parametrize(("yes", "gold_yes", "total", "collapsed"), [
    (10, 5, 10, True), (9, 5, 10, False), (19, 10, 20, True), (18, 10, 20, False),
    (9, 5, 9, False), (20, 19, 20, False), (20, 18, 20, True),
])
def test_a_collapse_is_over_nine_tenths_where_the_truth_is_not(yes, gold_yes, total, collapsed):
    golds = ["yes"] * gold_yes + ["no"] * (total - gold_yes)
    answers = ["yes"] * yes + ["no"] * (total - yes)
    assert find_top_answer(zip(golds, answers, strict=True)).is_collapse is collapsed

"""Options named by letter or text."""

from __future__ import annotations

import pytest
from sklearn.metrics import cohen_kappa_score

from medvqa_cli.scoring.agreement import measure_agreement
from medvqa_cli.scoring.choices import is_choice_correct, read_choice

OPTIONS = ["lung", "heart", "large mass", "liver"]


@pytest.mark.parametrize(("answer", "wanted"), [
    ("B", 1), ("b", 1), ("(B)", 1), ("B.", 1), ("B:", 1), ("[b]", 1), ("B) heart", 1), ("B. Heart.", 1),
    ("The answer is B", 1), ("The answer is (B).", 1), ("Answer: B) heart", 1), ("Option C", 2), ("heart", 1),
    ("The answer is heart", 1), ("A", 0),
    ("A large mass", None), ("B) lung", None), ("E", None), ("", None), ("heart and lung", None), ("no", None),
    ("Because of it", None),
])
def test_which_option_is_named(answer, wanted):
    assert read_choice(answer, OPTIONS) == wanted


def test_an_options_own_text_counts_before_its_letter():
    assert read_choice("A", ["b", "c", "a"]) == 2
    assert read_choice("same", ["same", "Same."]) is None


def test_gold_may_be_a_letter_or_a_text():
    assert is_choice_correct("b", "heart", OPTIONS) is True
    assert is_choice_correct("heart", "B", OPTIONS) is True
    assert is_choice_correct("nothing", "B", OPTIONS) is False
    assert is_choice_correct("B", "kidney", OPTIONS) is None


def test_agreement_equals_scikit_learn():
    first = [True, True, False, False, True, False, True]
    second = [True, False, False, True, True, False, True]
    found = measure_agreement(first, second)
    assert (found.n, found.share) == (7, pytest.approx(5 / 7))
    assert found.kappa == pytest.approx(cohen_kappa_score(first, second))


def test_agreement_without_spread_has_no_kappa():
    assert measure_agreement([True, True], [True, True]).kappa is None
    assert measure_agreement([], []).share is None

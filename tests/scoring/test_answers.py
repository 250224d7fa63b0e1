"""Right and wrong answers, with the traps that other scorers fall into."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvqa_cli.scoring.answers import is_closed_correct, match_exactly, normalize_answer, parse_yes_no, score_tokens

WORDS = st.lists(st.sampled_from(["left", "lung", "right", "liver", "no"]), max_size=6)


@pytest.mark.parametrize(("text", "expected"), [
    ("yes", "yes"), ("Yes.", "yes"), ("YES, there is a nodule", "yes"), ("Yes - clearly", "yes"),
    (" no ", "no"),
    ("No, the image is normal", "no"), ("Answer: no.", "no"), ("The answer is yes", "yes"),
    ("the final answer is no", "no"),
    ("I would say yes", "yes"), ("My answer would be no", "no"),
    ('"Yes"', "yes"), ("yes\nbecause of the shadow", "yes"),
    ("The image is normal", None), ("Normal chest x-ray", None), ("not sure", None), ("Not sure.", None),
    ("I don't know", None), ("There is a nodule", None), ("There is no lesion", None),
    ("know", None), ("abnormality", None),
    ("noise", None), ("none", None), ("eyes", None), ("yes or no", None), ("yes/no", None),
    ("No doubt", None),
    ("", None),
    ("no-contrast scan", None), ("I would not say yes", None), ("it isn't a yes", None), ("left", None), ("Nope", None),
])
def test_yes_no_parsing(text, expected):
    assert parse_yes_no(text) == expected


def test_normalization_is_what_it_says():
    assert normalize_answer("  The\t Left \n LUNG. ") == "the left lung"
    assert normalize_answer("\uff23\uff34") == "ct"
    assert normalize_answer("x-ray") == "x-ray"
    assert normalize_answer("...") == ""


@given(st.text())
def test_normalization_is_idempotent(text):
    assert normalize_answer(normalize_answer(text)) == normalize_answer(text)


def test_exact_match_takes_lists_in_any_order_and_alternatives():
    assert match_exactly("Spinal Cord, lung.", ["Lung, Spinal Cord"])
    assert not match_exactly("Lung", ["Lung, Spinal Cord"])
    assert match_exactly("CT", ["computed tomography", "ct"])
    assert not match_exactly("a", ["ct scan of abdomen"])
    assert not match_exactly("not a ct; an mri", ["ct"])


def test_precision_recall_and_f1_are_not_permuted():
    score = score_tokens("left upper lung lobe", ["left lung"])
    assert (score.precision, score.recall) == (0.5, 1.0)
    assert score.f1 == pytest.approx(2 / 3)


def test_repeated_words_count_as_often_as_they_stand():
    score = score_tokens("lung lung lung", ["lung"])
    assert (score.precision, score.recall) == (pytest.approx(1 / 3), 1.0)


def test_empty_answers():
    assert score_tokens("", [""]).f1 == 1.0
    assert score_tokens("", ["lung"]).f1 == 0.0
    assert score_tokens("...", ["lung"]).f1 == 0.0


@given(WORDS, WORDS)
def test_f1_is_symmetric_bounded_and_order_free(first, second):
    score = score_tokens(" ".join(first), [" ".join(second)])
    turned = score_tokens(" ".join(second), [" ".join(first)])
    assert score.f1 == pytest.approx(turned.f1)
    assert (score.precision, score.recall) == (pytest.approx(turned.recall), pytest.approx(turned.precision))
    assert 0 <= score.f1 <= 1
    assert score == score_tokens(" ".join(sorted(first)), [" ".join(second)])


@pytest.mark.parametrize(("answer", "gold", "expected"), [
    ("Yes, there is a nodule", "Yes", True), ("the image is normal", "no", False), ("left", "Left", True),
    ("yes", "left", False), ("Left lung", "left", False), ("No.", "no", True), ("there is no lesion", "No", False),
])
def test_closed_answers(answer, gold, expected):
    assert is_closed_correct(answer, gold) is expected

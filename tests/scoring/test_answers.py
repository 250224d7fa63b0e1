"""Right and wrong answers, with the traps that other scorers fall into."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvqa_cli.scoring.answers import (
    is_closed_correct,
    is_yes_no,
    match_exactly,
    normalize_answer,
    parse_yes_no,
    score_tokens,
)

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
    assert normalize_answer("**Left**") == normalize_answer("\u201cleft\u201d") == "left"
    assert normalize_answer("\u80ba\u90e8\u3002") == "\u80ba\u90e8"
    assert normalize_answer(" \n ") == ""


def test_signs_that_carry_meaning_stay():
    assert normalize_answer("> 5 cm.") == "> 5 cm"
    assert [normalize_answer(sign) for sign in ("+", "-", "(+)", "5%", "3+")] == ["+", "-", "+", "5%", "3+"]
    assert not match_exactly("+", ["-"])
    assert not match_exactly(">5 cm", ["<5 cm"])
    assert not match_exactly("...", [""])


@given(st.text())
def test_normalization_is_idempotent_and_blind_to_blanks_and_case_marks(text):
    normal = normalize_answer(text)
    assert normalize_answer(normal) == normal
    assert normalize_answer(f" \t{text}\n") == normal
    assert normal == " ".join(normal.split())


@given(st.text(max_size=30), st.sampled_from(["yes", "no"]))
def test_a_word_that_holds_yes_or_no_is_neither(text, word):
    letters = "".join(letter for letter in text if letter.isalpha())
    for joined in (f"k{word}{letters}", f"{word}d{letters}"):
        assert parse_yes_no(joined) is None


@given(st.text(alphabet="abc ,.()\u2019", max_size=30), st.sampled_from(["yes", "no"]))
def test_an_answer_that_begins_with_a_word_says_it(text, word):
    assert parse_yes_no(f"{word.upper()}, {text}") == word
    assert parse_yes_no(f"  **{word}**\n{text}") == word
    assert parse_yes_no(f"abc. The final answer is: {word}. {text}") == word


@pytest.mark.parametrize(("text", "expected"), [
    ("The lungs show no consolidation. The answer is (yes)", "yes"), ("There is a yes-man. Answer: no.", "no"),
    ("Yes, at first sight. But the final answer is no.", "no"), ("My answer is no, since it is clear", "no"),
    ("the answer would be no because of it", "no"), ("The answer to the question is yes.", "yes"),
    ("Yes. The answer is visible in the left lung.", "yes"), ("Answer: left lung", None),
    ("The answer is (yes) / (no)", None), ("The answer is not yes", None), ("The answer isn't no", None),
])
def test_a_stated_verdict_is_read(text, expected):
    assert parse_yes_no(text) == expected


@pytest.mark.parametrize("text", [
    "yes and no", "yes, no", "No. Yes.", "yes no yes no", "(yes) / (no)", "both yes and no", "No idea",
    "No image was provided.", "No information", "not no", "neither yes",
])
def test_open_choices_and_refusals_are_neither(text):
    assert parse_yes_no(text) is None


def test_a_yes_with_an_explanation_that_denies_something_stays_a_yes():
    assert parse_yes_no("Yes, no abnormality is seen") == "yes"
    assert parse_yes_no("Yes, and no other lesion") == "yes"
    assert parse_yes_no("No, there is not") == "no"


def test_only_plain_golds_make_a_yes_no_question():
    assert all(map(is_yes_no, ("Yes", "no.", " NO ")))
    assert not any(map(is_yes_no, ("Yes, left", "not sure", "")))


@given(st.permutations(["lung", "left kidney", "spinal cord", "lung"]), st.sampled_from([", ", ",", "; ", "\u3001"]))
def test_lists_match_in_any_order(parts, separator):
    assert match_exactly(separator.join(parts), ["Lung, Left Kidney, Spinal Cord, Lung"])
    assert not match_exactly(separator.join(parts[1:]), ["Lung, Left Kidney, Spinal Cord, Lung"])


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
    assert score_tokens("", ["..."]).f1 == 1.0


def test_the_best_fitting_reference_is_taken():
    score = score_tokens("left upper lobe", ["lung", "upper lobe", "the left lung"])
    assert (score.precision, score.recall) == (pytest.approx(2 / 3), 1.0)


@given(WORDS, WORDS)
def test_tokens_equal_counting_one_by_one(first, second):
    """Cross each word of the answer off a copy of the gold answer."""
    left, common = list(second), 0
    for word in first:
        if word in left:
            left.remove(word)
            common += 1
    score = score_tokens(" ".join(first), [" ".join(second)])
    if first and second:
        assert (score.precision, score.recall) == (common / len(first), common / len(second))
        assert score.f1 == pytest.approx(2 * common / (len(first) + len(second)))
    else:
        assert score.f1 == float(first == second)


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
    ("The image shows no fracture. The answer is yes.", "yes", True), ("normal", "no", False),
    ("yes or no", "yes", False), ("Lung, Heart", "heart, lung", True),
    ("yes", "left", False), ("Left lung", "left", False), ("No.", "no", True), ("there is no lesion", "No", False),
])
def test_closed_answers(answer, gold, expected):
    assert is_closed_correct(answer, gold) is expected

"""Faults found in other scorers, one test each: ours must not have them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvqa_cli.evaluation.answers import Aids, count_answers, summarize_answers
from medvqa_cli.records import Prediction, VQASample
from medvqa_cli.scoring.answers import is_closed_correct, match_exactly, parse_yes_no, recall_openly, score_tokens
from medvqa_cli.settings.schema import EvaluationSettings

WORDS = st.lists(st.sampled_from(["lung", "left", "ct"]), max_size=5)


def summarize(rows, aids=None):
    predictions = [Prediction(answer=answer, sample=VQASample(
        dataset="d", split="test", question_id=str(n), image_id=str(n), question="q?", answer=gold, answer_type=kind))
        for n, (gold, answer, kind) in enumerate(rows)]
    settings, aids = EvaluationSettings(resamples=20), aids or Aids()
    return summarize_answers(predictions, count_answers(predictions, settings, aids), settings, aids=aids)


@pytest.mark.parametrize(("answer", "gold"), [
    ("Yes, there is a nodule", "yes"), ("No, the image is normal", "no"), ("yes, known since 2009", "yes")])
def test_yes_and_no_are_words_and_not_letters_in_other_words(answer, gold):
    assert is_closed_correct(answer, gold)


@pytest.mark.parametrize("answer", ["The image is normal", "Normal chest x-ray", "Not sure", "I don't know",
                                    "There is a nodule", "nodule present", "Answer: Normal", "noise", ""])
def test_what_says_neither_is_right_for_neither_and_not_drawn_by_lot(answer):
    assert parse_yes_no(answer) is None
    assert not is_closed_correct(answer, "yes")
    assert not is_closed_correct(answer, "no")


@pytest.mark.parametrize(("answer", "gold"), [("a", "ct scan of abdomen"), ("not a ct; an mri", "ct"), ("", "ct"),
                                              ("ct scan", "ct"), ("\u5f02\u5e38", "no"), ("\u6b63\u5e38", "yes")])
def test_containing_a_word_is_not_being_right(answer, gold):
    assert not match_exactly(answer, [gold])


def test_a_closed_answer_need_not_be_yes_or_no():
    assert summarize([("left", "Left.", "closed")])["closed"]["accuracy@medvqa"]["value"] == 1.0


def test_precision_recall_and_f1_keep_their_names_to_the_end():
    block = summarize([("lung", "the left lung", "open")])["open"]
    found = [block[f"token_{part}@medvqa"]["value"] for part in ("precision", "recall", "f1")]
    assert found == [pytest.approx(1 / 3), 1.0, 0.5]


def test_empty_answers_are_numbers_in_every_measure():
    block = summarize([("lung", "", "open"), ("", "lung", "open")])["open"]
    assert block["token_f1@medvqa"]["value"] == block["rouge_l@medvqa"]["value"] == 0.0


def test_a_judge_changes_neither_closed_accuracy_nor_the_counts():
    rows = [("yes", "yes", "closed"), ("lung", "liver", "open")]
    plain, judged = summarize(rows), summarize(rows, Aids(verdicts=[None, True], judge="model-x"))
    assert judged["closed"]["accuracy@medvqa"] == plain["closed"]["accuracy@medvqa"]
    assert judged["open"]["exact_match@medvqa"]["value"] == 0.0
    assert judged["open"]["judged_right@model-x"]["value"] == 1.0
    assert "judged_right@model-x" not in judged["closed"]
    assert (judged["protocol"]["n_closed"], judged["protocol"]["n_open"]) == (1, 1)


def test_llava_meds_recall_rises_with_repeated_words_and_ours_does_not():
    assert recall_openly(["lung", "lung", "lung"], ["left", "lung"]) == 0.75
    assert score_tokens("lung lung lung", ["left lung"]).recall == 0.5


@given(WORDS, WORDS)
def test_llava_meds_recall_equals_counting_word_by_word(found, wanted):
    """Its published counting, over the set of all words."""
    hits = missing = 0
    for word in set(found) | set(wanted):
        if word in found and word in wanted:
            hits += found.count(word)
        elif word in wanted:
            missing += wanted.count(word)
    expected = hits / (hits + missing) if found and wanted and hits else 0.0
    assert recall_openly(found, wanted) == pytest.approx(expected)

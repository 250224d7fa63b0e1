"""Runs compared question by question: joined right, refused where they were asked different things."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medvqa_cli.errors import DataError
from medvqa_cli.evaluation.comparison import Side, compare_answers, describe_differences, find_slice
from medvqa_cli.records import Prediction, VQASample
from medvqa_cli.settings.schema import EvaluationSettings

SETTINGS = EvaluationSettings()


def predict(number, answer, gold="yes", kind="closed", **fields):
    sample = VQASample(dataset="d", split="test", question_id=str(number), image_id=str(number // 4),
                       question=f"question {number}?", answer=gold, answer_type=kind, **fields)
    return Prediction(sample=sample, answer=answer)


def side(name, answers, **fields):
    return Side(name, [predict(number, answer, **fields) for number, answer in enumerate(answers)])


def test_only_common_questions_count():
    first = side("a", ["yes"] * 12)
    second = Side("b", [predict(number, "no") for number in range(4, 20)])
    result = compare_answers([first, second], SETTINGS)
    assert (result["n"], result["images"]) == (8, 2)
    assert result["left_out"] == {"a": 4, "b": 8}
    (row,) = result["comparisons"]
    assert (row["slice"], row["measure"], row["difference"]) == ("closed", "accuracy@medvqa", -1.0)
    assert (row["mcnemar"]["only_first"], row["mcnemar"]["only_second"]) == (8, 0)
    assert row["mcnemar"]["p_value"] == pytest.approx(2 / 2**8)
    assert row["p"] == 0.5  # two images can be exchanged in four ways, two of them as extreme


def test_open_answers_are_compared_by_match_and_words():
    first = side("a", ["left lung"] * 6, gold="left lung", kind="open")
    second = side("b", ["lung"] * 6, gold="left lung", kind="open")
    rows = {row["measure"]: row for row in compare_answers([first, second], SETTINGS)["comparisons"]}
    assert rows["exact_match@medvqa"]["difference"] == -1.0
    assert rows["token_f1@medvqa"]["difference"] == pytest.approx(2 / 3 - 1)
    assert rows["token_f1@medvqa"]["mcnemar"] is None


def test_holm_counts_every_comparison():
    sides = [side("a", ["yes"] * 40), side("b", ["yes"] * 20 + ["no"] * 20), side("c", ["no", "yes"] * 20)]
    result = compare_answers(sides, SETTINGS)
    assert [(row["first"], row["second"]) for row in result["comparisons"]] == [("a", "b"), ("a", "c")]
    lowest = min(row["p"] for row in result["comparisons"])
    assert min(row["p_holm"] for row in result["comparisons"]) == pytest.approx(2 * lowest)


def test_slices_of_enough_questions_are_compared():
    def make(name, answers):
        return Side(name, [replace(p, sample=replace(p.sample, modality="CT" if number < 30 else "MRI"))
                           for number, p in enumerate(side(name, answers).predictions)])

    result = compare_answers([make("a", ["yes"] * 40), make("b", ["no"] * 40)], SETTINGS, slices=["modality"])
    assert [row["slice"] for row in result["comparisons"]] == ["closed", "closed, modality CT"]


def test_other_questions_under_the_same_id_are_refused():
    with pytest.raises(DataError, match="Question '0' has answer 'yes' in a and 'no' in b"):
        compare_answers([side("a", ["yes"]), side("b", ["yes"], gold="no")], SETTINGS)
    with pytest.raises(DataError, match="a and b have no question in common"):
        compare_answers([side("a", ["yes"]), Side("b", [predict(7, "yes")])], SETTINGS)


def test_answer_lengths():
    assert [find_slice(predict(0, "", gold=gold).sample, "answer_length") for gold in ("lung", "left lung", "a b c d")
            ] == ["1 word", "2-3 words", "4+ words"]


def test_what_else_differs_is_told():
    assert describe_differences({"prompt": 1, "decoding": 2}, {"prompt": 1, "decoding": 3}) == ["decoding differs"]

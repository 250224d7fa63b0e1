import numpy as np
import pytest

from medvqa_cli.evaluation.diagnosis import diagnose_answers
from medvqa_cli.records import Prediction, VQASample


def answer(number, text, gold, *, kind="closed", margin=None, scores=None):
    return Prediction(answer=text, margin=margin, candidate_scores=scores, sample=VQASample(
        dataset="d", split="test", question_id=str(number), image_id="i", question="?", answer=gold, answer_type=kind))


def test_yes_and_no_are_told_apart_from_what_says_neither():
    found = diagnose_answers([answer(0, "Yes.", "yes"), answer(1, "yes", "no"), answer(2, "perhaps", "no"),
                              answer(3, "liver", "liver")])["yes_no"]
    assert found["n"] == 3
    assert found["confusion"] == {"yes": {"yes": 1, "no": 0, "neither": 0}, "no": {"yes": 1, "no": 0, "neither": 1}}
    assert found["said"] == {"yes": pytest.approx(2 / 3), "no": 0.0, "neither": pytest.approx(1 / 3)}
    assert found["gold"]["no"] == pytest.approx(2 / 3)


def test_margins_of_right_and_wrong_choices():
    found = diagnose_answers([answer(n, "yes", "yes" if n < 8 else "no", margin=m) for n, m in enumerate(
        [1, 2, 3, 4, 5, 6, 7, 8, 0.01, 0.04])])
    margins = found["margins"]
    assert (margins["right"], margins["wrong"], margins["tiny"]) == (4.5, pytest.approx(0.025), 0.2)
    assert margins["p90"] == pytest.approx(np.quantile([1, 2, 3, 4, 5, 6, 7, 8, 0.01, 0.04], 0.9))
    assert found["yes_no"]["margins"] == margins
    assert diagnose_answers([answer(0, "yes", "yes")])["margins"] is None


def test_most_frequent_answers_with_how_often_they_are_right():
    rows = [answer(n, "Left lung" if n < 3 else "image", gold, kind="open") for n, gold in enumerate(
        ["left lung", "liver", "left lung", "heart"])]
    found = diagnose_answers(rows)
    assert found["top_predictions"] == {"open": [
        {"answer": "left lung", "n": 3, "share": 0.75, "right": 2, "gold": 2},
        {"answer": "image", "n": 1, "share": 0.25, "right": 0, "gold": 0}]}
    assert found["generic"] == [{"answer": "image", "n": 1}]
    assert (found["wrong"], found["yes_no"]) == ({"closed": 0, "open": 2}, None)


def test_forms_and_the_pull_of_length():
    rows = [answer(0, "yes", "yes", scores={"yes": (-2.0, 2), "Yes": (-1.0, 2), "no": (-6.0, 2)}),
            answer(1, "yes", "no", scores={"yes": (-1.0, 2), "Yes": (-3.0, 2), "not at all": (-12.0, 4)})]
    found = diagnose_answers(rows)
    assert found["forms"] == {"yes": {"Yes": 1, "yes": 1}}
    tokens, scores = [2, 2, 2, 2, 2, 4], [-1.0, -0.5, -3.0, -0.5, -1.5, -3.0]
    assert found["lengths"]["candidate_tokens_and_score"] == pytest.approx(np.corrcoef(tokens, scores)[0, 1])
    assert found["lengths"]["answer_and_right"] is None
    assert found["lengths"]["by_gold_words"] == [{"words": "0-1", "n": 2, "right": 0.5}]
    with pytest.raises(ValueError, match="nothing to diagnose"):
        diagnose_answers([])

"""Summaries: right counts, groups, warnings, and a protocol beside every number."""

from __future__ import annotations

import pytest

from medvqa_cli.evaluation.answers import score_predictions, summarize_scores
from medvqa_cli.records import Prediction, VQASample
from medvqa_cli.settings.schema import EvaluationSettings

SETTINGS = EvaluationSettings(resamples=200)


def predict(number, gold, answer, kind="closed", **fields):
    sample = VQASample(dataset="d", split="test", question_id=str(number), image_id=str(number // 2), question="q?",
                       answer=gold, answer_type=kind, **fields)
    return Prediction(sample=sample, answer=answer)


def summarize(predictions):
    return summarize_scores(score_predictions(predictions), predictions, SETTINGS)


def test_counts_by_hand():
    predictions = [predict(0, "Yes", "yes, it is", modality="CT"),
                   predict(1, "No", "the image is normal", modality="CT"),
                   predict(2, "Left", "left", modality="MRI"), predict(3, "left lung", "lung", "open", modality="MRI")]
    summary = summarize(predictions)
    assert summary["closed"]["n"] == 3
    assert summary["closed"]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert summary["open"]["accuracy"]["value"] == 0.0
    assert summary["open"]["token_f1"]["value"] == pytest.approx(2 / 3)
    assert summary["open"]["token_recall"]["value"] == 0.5
    assert summary["overall"]["accuracy"]["value"] == 0.5
    assert summary["groups"]["modality"]["CT"]["accuracy"]["value"] == 0.5
    assert summary["groups"]["modality"]["MRI"]["n"] == 2
    assert summary["checks"]["yes_no_questions"] == 2
    assert summary["checks"]["yes_no_unparsed"] == 1
    protocol = summary["protocol"]
    wanted = {"dataset": "d", "split": "test", "n": 4, "n_closed": 3, "images": 2}
    assert {key: protocol[key] for key in wanted} == wanted
    assert protocol["normalizer"] == "medvqa"


def test_a_model_that_always_says_yes_is_told():
    summary = summarize([predict(n, "yes" if n % 2 else "no", "Yes.") for n in range(20)])
    assert summary["checks"]["collapsed"] == ["closed"]
    assert summary["checks"]["top_answer"]["closed"] == {"answer": "yes", "share": 1.0}


def test_known_laws_give_the_best_possible_accuracy():
    predictions = [predict(0, "yes", "yes", answer_probabilities={"yes": 1.0}),
                   predict(1, "no", "yes", answer_probabilities={"yes": 0.7, "no": 0.3}),
                   predict(2, "no", "no", answer_probabilities={"no": 1.0}),
                   predict(3, "yes", "yes", answer_probabilities={"yes": 0.6, "no": 0.4})]
    known = summarize(predictions)["synthetic"]
    assert known["bayes_accuracy"] == pytest.approx((1 + 0.7 + 1 + 0.6) / 4)
    assert known["unambiguous"]["accuracy"]["value"] == 1.0
    assert known["ambiguous"]["accuracy"]["value"] == 0.5
    assert summarize([predict(0, "yes", "yes")])["synthetic"] is None


def test_alternatives_count():
    prediction = predict(0, "ct", "computed tomography", alternatives=("computed tomography",))
    assert score_predictions([prediction])[0].values["accuracy"] == 1.0


def test_nothing_is_not_summarized():
    with pytest.raises(ValueError, match="nothing"):
        summarize_scores([], [], SETTINGS)

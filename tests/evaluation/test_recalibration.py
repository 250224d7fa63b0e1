"""Details by every source, calibrators learnt from them, rules to abstain held against other answers."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from medvqa_cli.errors import DataError
from medvqa_cli.evaluation.abstention import check_rules, choose_rules
from medvqa_cli.evaluation.calibration import summarize_confidence
from medvqa_cli.evaluation.details import list_details, read_confidence
from medvqa_cli.evaluation.questions import classify_answered, name_kinds
from medvqa_cli.evaluation.recalibration import (
    compare_calibration,
    learn_calibrator,
    recalibrate,
    recalibrate_by_folds,
)
from medvqa_cli.records import AnswerSample, Prediction, VQASample
from medvqa_cli.settings.schema import EvaluationSettings

SETTINGS = EvaluationSettings(resamples=100)


def answered(number, gold="yes", answer="yes", image=None, kind="closed", modality="", **facts):
    sample = VQASample(dataset="d", split="test", question_id=str(number), image_id=str(image or number), question="q?",
                       answer=gold, answer_type=kind, modality=modality)
    return Prediction(sample=sample, answer=answer, **facts)


def sampled(number, gold, yes, no, **facts):
    return answered(number, gold, "", samples=(AnswerSample("yes", yes), AnswerSample("no", no)), **facts)


def draw(number, seed=0, images=None):
    """A model that is too sure: says yes with p, where the truth is nearer to a half."""
    random = np.random.default_rng(seed)
    share = random.beta(0.6, 0.6, number)
    golds = np.where(random.random(number) < 0.5 + (share - 0.5) * 0.6, "yes", "no")
    yes = random.binomial(20, share)
    return list_details([sampled(n, str(golds[n]), int(yes[n]), 20 - int(yes[n]), image=f"i{n % (images or number)}",
                                 modality=("CT", "MRI")[n % 2]) for n in range(number)], "sampling")


def test_confidence_of_every_source():
    prediction = answered(0, answer="Left", candidates={"left": 0.7, "right": 0.3}, logprob=math.log(0.25),
                          num_tokens=2, text="Left. Confidence: 80%")
    assert read_confidence(prediction, "logits") == pytest.approx(0.7)
    assert read_confidence(prediction, "likelihood") == pytest.approx(0.5)
    assert read_confidence(prediction, "verbalized") == pytest.approx(0.8)
    assert read_confidence(sampled(1, "yes", 3, 1), "sampling") == 0.75
    assert [read_confidence(answered(2), source) for source in ("logits", "likelihood", "verbalized", "sampling")] == [
        None] * 4


def test_details_of_candidates():
    rows = [answered(0, "no", "No", candidates={"Yes": 0.2, "No": 0.8}),
            answered(1, "left", "Right", candidates={"left": 0.4, "right": 0.6}),
            answered(2, "lung", "lung", kind="open", candidates={"lung": 1.0}), answered(3, "yes", "yes")]
    details = list_details(rows, "logits")
    assert [(d.predicted, d.confidence, d.p_yes, d.is_correct) for d in details] == [
        ("no", 0.8, 0.2, True), ("right", 0.6, None, False)]
    summary = summarize_confidence(details, SETTINGS, num_bins=10, num_samples=None, source="logits", asked=3)
    assert (summary["questions_without_confidence"], summary["valid_response_rate"]) == (1, pytest.approx(2 / 3))
    assert (summary["method"], summary["num_samples"]) == ("logits", None)
    assert "predicted" not in summary["protocol"]["rules"]


@pytest.mark.parametrize(("source", "hint"), [
    ("logits", "--method logits"), ("likelihood", "log-probabilities"), ("verbalized", "--max-new-tokens"),
    ("sampling", "--overwrite")])
def test_answers_without_a_confidence_are_refused(source, hint):
    with pytest.raises(DataError, match="has a confidence by|have no sampled answers") as caught:
        list_details([answered(0)], source)
    assert hint in caught.value.hint


def test_wrong_numbers_are_refused():
    with pytest.raises(DataError, match="of an answer is 'nan'"):
        list_details([answered(0, logprob=math.nan, num_tokens=1)], "likelihood")
    with pytest.raises(DataError, match="Question '0': a candidate's probability is 'nan'"):
        list_details([answered(0, candidates={"yes": math.nan, "no": 0.5})], "logits")
    with pytest.raises(DataError, match="to question '0' is 'nan'"):
        list_details([answered(0, samples=(AnswerSample("yes", 1, math.nan),))], "sampling")


def test_summary_is_plain_json_in_hard_cases():
    for rows in ([sampled(0, "yes", 20, 0)], [sampled(0, "no", 20, 0), sampled(1, "no", 20, 0)],
                 [answered(0, samples=(AnswerSample("lung", 5),))]):
        summary = summarize_confidence(list_details(rows, "sampling"), SETTINGS, num_bins=10, num_samples=20)
        assert summary["auroc"] is None
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["valid_response_rate"] == 0.0


def test_recalibration_helps_on_new_questions_and_folds_foretell_it():
    details = draw(600, images=200)
    calibrator = learn_calibrator(details, "platt", source="sampling", num_samples=20)
    found = compare_calibration(recalibrate(draw(600, seed=1), calibrator, "sampling"), SETTINGS, num_bins=10,
                                num_samples=20)
    assert found["before"]["ece"] > 0.1
    assert found["after"]["ece"] < 0.06
    assert found["after"]["intervals"]["ece"]["high"] < found["before"]["intervals"]["ece"]["low"]
    assert found["after"]["auroc"] == pytest.approx(found["before"]["auroc"])
    folds = recalibrate_by_folds(details, "platt", source="sampling", num_samples=20)
    foretold = compare_calibration(folds, SETTINGS, num_bins=10, num_samples=20)
    assert foretold["after"]["ece"] == pytest.approx(found["after"]["ece"], abs=0.03)


def test_folds_never_learn_from_an_image_they_judge():
    """Each image's answers are all right or all wrong at a confidence of its own: seen images would be foretold."""
    details = list_details([sampled(n, ("no", "yes")[n // 10 % 2], 10 + n // 10, 10 - n // 10, image=f"i{n // 10}")
                            for n in range(100)], "sampling")
    folds = recalibrate_by_folds(details, "isotonic", source="sampling", num_samples=20)
    brier = np.mean([(d.calibrated - d.is_correct) ** 2 for d in folds])
    assert brier > 0.2


def test_folds_without_right_and_wrong_answers():
    details = list_details([sampled(0, "no", 20, 0), *(sampled(n, "yes", 20, 0) for n in range(1, 9))], "sampling")
    assert recalibrate_by_folds(details, "platt", source="sampling", num_samples=20) is None


def test_groups_and_kinds_must_fit():
    details = draw(200)
    calibrator = learn_calibrator(details, "histogram", source="sampling", num_samples=20, group_by="modality")
    assert sorted(calibrator.groups) == ["CT", "MRI"]
    assert calibrator.clip == 1 / 40
    assert len(recalibrate(details, calibrator, "sampling")) == 200
    with pytest.raises(DataError, match="learnt from confidences by 'sampling', these are by 'logits'"):
        recalibrate(details, calibrator, "logits")
    with pytest.raises(DataError, match="cannot go by 'weather'"):
        learn_calibrator(details, "platt", source="sampling", num_samples=20, group_by="weather")


def test_an_invalid_answer_teaches_nothing_and_keeps_its_confidence():
    rows = [sampled(n, "yes" if n % 3 else "no", 15, 5) for n in range(30)]
    details = list_details([*rows, answered(99, samples=(AnswerSample("lung", 20),))], "sampling")
    calibrator = learn_calibrator(details, "isotonic", source="sampling", num_samples=20)
    assert calibrator.curve.n == 30
    found = recalibrate(details, calibrator, "sampling")
    assert (found[0].calibrated, found[-1].calibrated) == (pytest.approx(2 / 3), 0.5)


def test_answers_to_other_kinds_of_questions_are_not_recalibrated():
    details = draw(60)
    calibrator = learn_calibrator(details, "platt", source="sampling", num_samples=20)
    assert calibrator.kinds == ("yes_no",)
    mixed = [replace(d, kind="open" if n % 3 == 0 else "choice" if n % 3 == 1 else "yes_no", calibrated=0.123)
             for n, d in enumerate(details)]
    found = recalibrate(mixed, calibrator, "sampling")
    assert {d.kind for d in found if d.calibrated is None} == {"open", "choice"}
    assert {d.kind for d in found if d.calibrated is not None} == {"yes_no"}
    compared = compare_calibration(found, SETTINGS, num_bins=10, num_samples=20)
    alone = compare_calibration([d for d in found if d.kind == "yes_no"], SETTINGS, num_bins=10, num_samples=20)
    assert compared == alone
    assert compared["n"] == 20
    assert compare_calibration([d for d in found if d.kind == "open"], SETTINGS, num_bins=10, num_samples=20) == {}
    assert learn_calibrator(mixed, "platt", source="sampling", num_samples=20).kinds == ("yes_no", "choice", "open")


@pytest.mark.parametrize(("kinds", "name"), [
    (["yes_no"], "yes/no questions"), (["yes_no", "choice"], "closed questions"), (["open"], "open questions"),
    (["choice"], "other closed questions"), (["yes_no", "open"], "yes/no and open questions"),
    (["open", "choice", "yes_no"], "questions of all kinds")])
def test_kinds_have_names(kinds, name):
    assert name_kinds(kinds) == name


@pytest.mark.parametrize(("facts", "kind"), [
    ({"answer": "yes"}, "yes_no"), ({"answer": "no lesion", "answer_type": "open"}, "open"),
    ({"candidates": {"Yes": 0.5, "no": 0.5}, "answer": "yes", "answer_type": "closed"}, "yes_no"),
    ({"candidates": {"left": 0.5, "right": 0.5}, "answer": "left", "answer_type": "closed"}, "choice"),
    ({"answer": "left", "answer_type": "closed"}, "choice"), ({"gold": "yes", "answer_type": "open"}, "open"),
    ({"gold": "yes", "answer_type": "closed", "answer": "maybe"}, "yes_no")])
def test_kind_of_an_answer_with_and_without_a_gold_one(facts, kind):
    sample = VQASample(dataset="d", split="test", question_id="1", image_id="1", question="q?",
                       answer=facts.get("gold", ""), answer_type=facts.get("answer_type", "open"))
    row = Prediction(sample=sample, answer=facts.get("answer", ""), candidates=facts.get("candidates"))
    assert classify_answered(row) == kind


def test_rules_hold_on_new_questions():
    rules = choose_rules(draw(1500), 0.3)
    assert json.loads(json.dumps(rules, allow_nan=False)) == rules
    assert rules["risk"]["guarantee"].startswith("with a chance of at least 0.9 at most 0.3 of the answers given")
    found = check_rules(rules, draw(1500, seed=7), SETTINGS)
    assert found["risk"]["risk"]["value"] < 0.31
    assert found["risk"]["coverage"]["value"] > 0.1
    assert found["error"]["error"]["value"] == pytest.approx(0.3, abs=0.03)
    assert list(found["sets"]) == ["lac"]
    assert found["sets"]["lac"]["coverage"]["value"] >= 0.67
    assert found["sets"]["lac"]["coverage"]["low"] < found["sets"]["lac"]["coverage"]["high"]
    assert 1 <= found["sets"]["lac"]["mean_size"]["value"] < 2


def test_rules_from_too_few_questions_abstain_and_name_everything():
    few = draw(3)
    rules = choose_rules(few, 0.1)
    found = check_rules(rules, few, SETTINGS)
    assert (found["risk"]["threshold"], found["risk"]["coverage"]["value"]) == (None, 0.0)
    assert found["risk"]["risk"] == {"value": None, "low": None, "high": None, "n": 0}
    assert found["sets"]["lac"]["coverage"]["value"] == 1.0
    assert found["sets"]["lac"]["mean_size"]["value"] == 2.0

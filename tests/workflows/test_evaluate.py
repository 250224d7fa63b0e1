"""What is kept of scored answers, and what is not."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from medvqa_cli.evaluation.judging import Judge
from medvqa_cli.records import Prediction, VQASample, read_jsonl, write_json, write_jsonl
from medvqa_cli.reporting.estimates import find_metric, read_estimate
from medvqa_cli.runs import Run
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.evaluate import evaluate_answers, merge_metrics, name_encoder

SETTINGS = make_settings({"evaluation": {"resamples": 20}})


@pytest.fixture
def run(tmp_path) -> Run:
    found = Run(tmp_path / "run")
    first = Prediction(answer="lung", sample=VQASample(
        dataset="d", split="test", question_id="1", image_id="a", question="What?", answer="left lung",
        answer_type="open"))
    rows = [first, replace(first, answer="yes", sample=replace(first.sample, dataset="e", answer="yes",
                                                              answer_type="closed"))]
    write_jsonl(found.path / "predictions.jsonl", rows)
    return found


def test_ids_that_collide_between_data_sets_are_two_questions(run):
    assert evaluate_answers(run, SETTINGS)["protocol"]["n"] == 2
    rows = list(read_jsonl(run.path / "scores.jsonl"))
    assert [(row["dataset"], row["split"], row["question_id"]) for row in rows] == [("d", "test", "1"),
                                                                                  ("e", "test", "1")]


def test_a_judge_is_asked_of_open_questions_once(run):
    asked = []
    judge = Judge("model-x", lambda claims: asked.extend(claims) or [True] * len(claims))
    for _ in range(2):
        summary = evaluate_answers(run, SETTINGS, judge=judge)
    assert [tuple(claim) for claim in asked] == [("What?", "left lung", "lung")]
    assert summary["open"]["judged_right@model-x"]["value"] == 1.0
    assert summary["protocol"]["judge"]["agreement"] == {"n": 1, "share": 0.0, "kappa": 0.0, "without_verdict": 0}
    assert next(read_jsonl(run.path / "scores.jsonl"))["values"]["judged_right@model-x"] == 1.0


def test_numbers_without_a_whole_protocol_are_not_kept(run):
    with pytest.raises(ValueError, match="the numbers of 'main' do not state how they were made: .*decoding"):
        merge_metrics(run, "answers", {"main": {"protocol": {"dataset": "d"}}})
    assert not (run.path / "metrics.json").exists()


def test_metrics_of_an_older_version_are_still_read_and_kept_beside_new_ones(run):
    old = {"n": 4, "images": 2, "accuracy": {"value": 0.5, "low": 0.25, "high": 0.75}}
    assert read_estimate(old, "accuracy").value == 0.5
    block = {"closed": old, "protocol": {"normalizer": "medvqa"}}
    write_json(run.path / "metrics.json", {"answers": {"before": block}})
    evaluate_answers(run, SETTINGS)
    answers = run.read_json("metrics.json")["answers"]
    assert set(answers) == {"before", "main"}
    assert find_metric(answers["main"]["closed"], "accuracy")["value"] == 1.0


def test_encoders_are_named_with_their_layer():
    def name(**settings):
        return name_encoder(make_settings({"evaluation": settings}).evaluation)

    assert name() == ""
    assert name(encoder="org/mini-bert") == "mini-bert"
    assert name(encoder="models/mini-bert/", encoder_layer=5) == "mini-bert:5"


def test_the_encoder_of_the_settings_is_loaded_and_stated(run, monkeypatch):
    def load(checkpoint, layer):
        assert (checkpoint, layer) == ("models/mini", 2)
        return lambda texts: [(np.eye(3, 2, dtype=np.float32), np.array([True, False, True])) for _ in texts]

    monkeypatch.setitem(sys.modules, "medvqa_cli.models.text_encoders", SimpleNamespace(load_text_encoder=load))
    settings = make_settings({"evaluation": {"resamples": 20, "encoder": "models/mini", "encoder_layer": 2}})
    summary = evaluate_answers(run, settings)
    assert summary["open"]["bertscore_f1@mini:2"]["value"] == 1.0
    assert summary["protocol"]["encoder"] == "mini:2 (models/mini)"

"""A judge behind a server: asked once for each answer, its verdicts beside exact match, its faults counted."""

from __future__ import annotations

import json

import pytest

from medvqa_cli.errors import ModelError, SettingsError
from medvqa_cli.evaluation.verdicts import PROMPT
from medvqa_cli.records import Prediction, VQASample, read_jsonl, write_jsonl
from medvqa_cli.runs import create_run
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.evaluate import evaluate_answers
from tests.inference.stand_in_server import Fault, StandIn, find_question, serve

ANSWERS = [("left lung", "the left lung"), ("liver", "liver"), ("heart", "kidney"), ("spleen", "I cannot say")]


def grade(request: str) -> str:
    """Grade by the answer alone; one reply is no verdict."""
    answer = json.loads(request.rsplit("Answer: ", 1)[1])
    return {"the left lung": "Correct.", "liver": "correct", "kidney": "Incorrect"}.get(answer, "Hard to say.")


@pytest.fixture
def server():
    with serve(StandIn(reply=grade, logprobs=False)) as running:
        yield running


@pytest.fixture
def run(tmp_path):
    run = create_run(tmp_path / "runs", "a")
    rows = [Prediction(answer=answer, sample=VQASample(
        dataset="d", split="test", question_id=str(number), image_id=str(number), question="What is it?", answer=gold,
        answer_type="open")) for number, (gold, answer) in enumerate(ANSWERS)]
    rows.append(Prediction(answer="yes", sample=VQASample(
        dataset="d", split="test", question_id="9", image_id="9", question="Is it?", answer="yes",
        answer_type="closed")))
    write_jsonl(run.path / "predictions.jsonl", rows)
    return run


def configure(url, **server):
    return make_settings({"evaluation": {"judge": "large", "resamples": 20,
                                         "judge_server": {"base_url": url, "retries": 0, **server}}})


def test_open_answers_are_judged_once_and_the_judge_is_stated(server, run, listener):
    found = evaluate_answers(run, configure(server.url), progress=listener)
    key = "judged_right@large:prompt-1"
    assert (found["open"][key]["value"], found["open"][key]["n"]) == (pytest.approx(2 / 3), 3)
    assert key not in found["closed"]
    judge = found["protocol"]["judge"]
    assert (judge["name"], judge["server"], judge["prompt"]) == ("large:prompt-1", server.url, PROMPT)
    assert judge["agreement"] == {"n": 3, "share": pytest.approx(2 / 3), "kappa": pytest.approx(0.4),
                                  "without_verdict": 1}
    assert len(server.requests) == 4
    assert all(request["temperature"] == 0 and request["model"] == "large" for request in server.requests)
    assert not listener.warnings
    evaluate_answers(run, configure(server.url), progress=listener)
    assert len(server.requests) == 5, "only what had no verdict is asked again"
    assert len(list(read_jsonl(run.path / "judgements.jsonl"))) == 3


def test_an_answer_that_cannot_be_judged_is_counted_and_said(server, run, listener):
    server.fault = lambda request, number: Fault(400, {"error": {"message": "too long"}}) \
        if "messages" in request and 'Answer: "kidney"' in find_question(request) else None
    found = evaluate_answers(run, configure(server.url), progress=listener)
    assert found["protocol"]["judge"]["agreement"]["without_verdict"] == 2
    assert any("1 answers could not be judged" in line and "too long" in line for line in listener.warnings)


def test_a_judge_without_a_server_and_one_that_is_gone_are_one_error(run):
    with pytest.raises(SettingsError, match="The judge 'large' needs a server") as failure:
        evaluate_answers(run, configure(None))
    assert "--judge-base-url" in failure.value.hint
    with pytest.raises(ModelError, match="http://127.0.0.1:9/v1") as failure:
        evaluate_answers(run, configure("http://127.0.0.1:9/v1"))
    assert failure.value.hint.startswith("Start it, or correct --judge-base-url. ")


@pytest.mark.parametrize(("fault", "hint"), [
    (Fault(401, {"detail": "no"}),
     "Put a valid key into the environment variable that evaluation.judge_server.key_variable names."),
    (Fault(404, {"detail": "no such model"}), "Correct --judge or --judge-base-url."),
])
def test_what_the_judges_server_refuses_is_corrected_where_the_judge_is_named(server, run, listener, fault, hint):
    server.fault = lambda request, number: fault
    with pytest.raises(ModelError) as failure:
        evaluate_answers(run, configure(server.url), progress=listener)
    assert failure.value.hint == hint


def test_no_judge_is_no_server(run):
    found = evaluate_answers(run, make_settings({"evaluation": {"resamples": 20}}))
    assert found["protocol"]["judge"] is None

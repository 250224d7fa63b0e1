"""Confidence asked of a server, by the command line and after faults; said once how answers are drawn."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from medvqa_cli.cli.app import app
from medvqa_cli.inference.protocol import AnswerError
from medvqa_cli.models.meanings import EmbeddingMeaning
from medvqa_cli.records import read_jsonl
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.calibrate import evaluate_calibration
from medvqa_cli.workflows.elicitation.sampling import describe_sampling
from medvqa_cli.workflows.engines import open_engine
from tests.inference.stand_in_server import Fault, StandIn, find_question, serve
from tests.workflows.conftest import TREE, merge


def reply(question):
    return "Answer: yes\nConfidence: 70%" if "Confidence" in question else "yes"


@pytest.fixture
def server():
    with serve(StandIn(reply=reply)) as running:
        yield running


@pytest.fixture
def configure(server, trained, tmp_path):
    def build(**sections):
        paths = {"prepared": str(trained[0].paths.prepared), "runs": str(tmp_path / "runs")}
        sections = {"calibration": {"samples": 6}} | sections
        return make_settings(merge(
            merge(TREE, paths=paths, model={"name": "org/vl", "scratch": False}, infer={
                "engine": "openai", "server": {"retries": 0, "concurrency": 3, "base_url": server.url}}), **sections))
    return build


def test_every_method_that_writes_works_with_a_server(server, configure):
    settings = configure(calibration={"samples": 6, "method": "all"})
    run, found = evaluate_calibration(settings)
    assert set(found["own"]) == {"sampling", "entropy", "likelihood", "verbalized"}
    assert set(found["left_out"]) == {"logits", "p_true"}
    assert found["own"]["verbalized"]["mean_confidence"]["value"] == pytest.approx(0.7)
    number = found["own"]["sampling"]["n"]
    assert all("Answer: ..." in find_question(request) for request in server.requests
               if "Confidence" in find_question(request))
    assert len(server.requests) == 3 * number  # one request of six answers, one answer, one with a confidence
    assert run.read_json("samples.usage.json")["requests"] == number
    evaluate_calibration(settings)
    assert len(server.requests) == 3 * number


def test_a_server_without_log_probabilities_samples_all_the_same(server, configure):
    server.logprobs = False
    run, found = evaluate_calibration(configure(calibration={"samples": 6, "method": "all"}))
    assert set(found["own"]) == {"sampling", "entropy", "verbalized"}
    assert "tells log-probabilities" in found["left_out"]["likelihood"]
    assert all("logprob" not in answer for row in read_jsonl(run.path / "samples.jsonl") for answer in row["samples"])


def test_questions_that_a_server_fails_on_are_asked_again(server, configure):
    failing = {"on": True}
    server.fault = lambda request, number: Fault(500) if failing["on"] and number == 2 else None
    settings = configure()
    with pytest.raises(AnswerError, match="1 questions have no answer"):
        evaluate_calibration(settings)
    failing["on"] = False
    run, metrics = evaluate_calibration(settings)
    assert len(list(read_jsonl(run.path / "samples.jsonl"))) == metrics["num_questions"] == len(server.requests) - 1
    assert not (run.path / "samples.failures.jsonl").exists()


@pytest.mark.parametrize("output", [(), ("--json",)])
def test_the_command_line_asks_a_server(server, trained, tmp_path, monkeypatch, output):
    monkeypatch.setenv("MEDVQA_CONFIG_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    words = [f"--set=data.options={json.dumps(TREE['data']['options'])}",
             f"--set=paths.prepared={trained[0].paths.prepared}"]
    done = CliRunner().invoke(app, [
        "eval", "calibration", "--engine", "openai", "--base-url", server.url, "--model", "org/vl", "--dataset", "demo",
        "--question-type", "all", "--method", "all", "--samples", "4", "--resamples", "50", *words, *output])
    assert done.exit_code == 0, done.output
    if output:
        metrics = json.loads(done.stdout)["metrics"]
        assert {part["n"] for part in metrics["own"].values()} == {32}
        assert metrics["protocol"]["questions"] == "all"
        return
    assert "verbalized     32" in done.stdout
    assert "logits: left out, engine 'openai' tells no log-probabilities of given answers" in done.stdout
    assert "Questions: all. Right is, of yes/no questions: the answer parses as the gold answer; others" in done.stdout
    assert (tmp_path / "runs" / "infer-org-vl" / "calibration-all-methods" / "metrics.json").exists()


def test_a_run_and_a_server_exclude_each_other(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDVQA_CONFIG_HOME", str(tmp_path / "user"))
    done = CliRunner().invoke(app, ["eval", "calibration", "--engine", "openai", "--base-url", server.url,
                                    "--run", "r"])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: --run and --engine openai exclude each other")


def test_how_answers_are_drawn_is_said(own_run, listener):
    settings, _ = own_run
    engine = open_engine(settings, "small", listener)[1]
    assert "as one tree" in describe_sampling(engine, 5)
    engine.shared_prefix = False
    assert describe_sampling(engine, 5) == ("5 answers a question, drawn row by row in batches: this model's questions "
                                            "do not share their image.")


def test_a_named_model_says_which_open_answers_mean_the_same(own_run, monkeypatch):
    from medvqa_cli.models import meanings

    settings, _ = own_run
    loaded = []

    def load(checkpoint, threshold):
        loaded.append((checkpoint, threshold))
        meaning = EmbeddingMeaning(None, threshold)
        monkeypatch.setattr(meaning, "compare", lambda question: lambda first, second: True)
        return meaning

    monkeypatch.setattr(meanings, "load_meaning", load)
    configured = make_settings(merge(settings.model_dump(mode="json"), calibration={
        "questions": "open", "cluster_model": "org/encoder", "cluster_threshold": 0.8}))
    metrics = evaluate_calibration(configured, run="small")[1]
    assert loaded == [("org/encoder", 0.8)]
    assert metrics["mean_confidence"] == 1.0  # everything means the same
    assert metrics["protocol"]["clusters"] == "answers are the same by cosine of at least 0.8, says 'org/encoder'"
    evaluate_calibration(make_settings(merge(configured.model_dump(mode="json"), calibration={"questions": None})),
                         run="small")
    assert len(loaded) == 1  # yes and no need none

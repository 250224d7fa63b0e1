"""Files of answers scored from the command line: a run's own, bare ones, and other tools'."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from medvqa_cli.records import Prediction, VQASample, read_jsonl, write_json, write_jsonl

DEMO = ("--dataset", "demo", "--set", "data.options.train_images=3", "--set", "data.options.validation_images=2",
        "--set", "data.options.test_images=2", "--set", "data.options.size=32", "--resamples", "20")


def make_rows() -> list[Prediction]:
    first = VQASample(dataset="d", split="test", question_id="1", image_id="a", question="Is it?", answer="yes",
                      answer_type="closed")
    second = replace(first, question_id="2", question="What?", answer="the lung", answer_type="open", image_id="b")
    return [Prediction(sample=first, answer="Yes, it is."), Prediction(sample=second, answer="lung")]


@pytest.fixture
def bare(tmp_path):
    write_jsonl(tmp_path / "mine.jsonl", make_rows())
    return tmp_path / "mine.jsonl"


def answer_demo(medvqa, tmp_path, **first):
    """Answer the demo's test questions as another tool would; the first row may be changed."""
    from medvqa_cli.settings.schema import make_settings
    from medvqa_cli.workflows.data import load_samples

    settings = make_settings({"data": {"dataset": "demo", "options": {
        "train_images": 3, "validation_images": 2, "test_images": 2, "size": 32}}})
    rows = [{"question_id": sample.question_id, "answer": sample.answer} for sample in load_samples(settings, "test")]
    rows[0] |= first
    write_jsonl(tmp_path / "theirs.jsonl", rows)
    return rows


def test_a_bare_file_is_scored_without_a_model_and_says_what_it_does_not_know(medvqa, document, bare, workplace):
    answer = document("eval", "answers", "--from", bare, "--profile", "medvqa,vqa", "--resamples", "20")
    assert answer["run"] == "scored-mine"
    metrics = answer["metrics"]
    assert metrics["closed"]["accuracy@medvqa"]["value"] == 1.0
    assert metrics["open"]["exact_match@medvqa"]["value"] == 0.0
    assert metrics["open"]["exact_match@vqa"]["value"] == 1.0
    assert {key: metrics["protocol"][key] for key in ("prompt", "decoding", "candidates", "judge", "excluded")} == {
        "prompt": None, "decoding": None, "candidates": None, "judge": None, "excluded": []}
    assert document("eval", "answers", "--from", bare, "--resamples", "20")["run"] == "scored-mine"
    assert len(list((workplace / "runs").iterdir())) == 1
    result = medvqa("eval", "answers", "--from", bare, "--resamples", "20")
    assert "decoding not stated" in result.stdout
    assert medvqa("report", "scored-mine").exit_code == 0


def test_a_runs_own_file_is_scored_in_place_under_its_tag(document, make_run):
    run = make_run("a")
    write_jsonl(run.path / "predictions-blank.jsonl", make_rows())
    write_json(run.path / "predictions-blank.meta.json", {"expected": 3, "decoding": {"temperature": 0.0}})
    answer = document("eval", "answers", "--from", run.path / "predictions-blank.jsonl", "--resamples", "20")
    assert answer["run"] == "a"
    assert answer["metrics"]["protocol"]["excluded"] == [{"reason": "no answer in the file", "n": 1}]
    assert list(run.read_json("metrics.json")["answers"]) == ["blank"]
    assert len(list(read_jsonl(run.path / "scores-blank.jsonl"))) == 2


def test_a_file_joins_a_run_under_a_tag_and_never_replaces_its_answers(medvqa, document, make_run, bare):
    run = make_run("a")
    write_jsonl(run.path / "predictions.jsonl", make_rows()[:1])
    result = medvqa("eval", "answers", "--run", "a", "--from", bare)
    assert result.exit_code == 7
    assert "error: Run 'a' holds other answers as predictions.jsonl." in result.stderr
    assert "hint: Use --tag NAME to keep both." in result.stderr
    for _ in range(2):
        document("eval", "answers", "--run", "a", "--from", bare, "--tag", "other", "--resamples", "20")
    assert list(run.read_json("metrics.json")["answers"]) == ["other"]


def test_other_tools_rows_are_joined_with_the_prepared_data(medvqa, document, tmp_path):
    rows = answer_demo(medvqa, tmp_path, question_id="")
    write_jsonl(tmp_path / "theirs.jsonl", rows[1:])
    answer = document("eval", "answers", "--from", tmp_path / "theirs.jsonl", *DEMO)
    metrics = answer["metrics"]
    assert metrics["overall"]["accuracy@medvqa"]["value"] == 1.0
    assert metrics["protocol"]["n"] == len(rows) - 1
    assert metrics["protocol"]["excluded"] == [{"reason": "no answer in the file", "n": 1}]
    assert metrics["protocol"]["closed_definition"]
    assert metrics["incomplete"] is True


@pytest.mark.parametrize(("row", "code", "message", "hint"), [
    ({"question_id": "x"}, 4, "line 1: question 'x' of demo/test is not among the 16 selected ones.", "--dataset"),
    ({"answer": None}, 7, "line 1: the answer is None, not a text.", "One JSON object a line"),
    ({"candidates": {"yes": 2}}, 7, "line 1: the candidates are {'yes': 2}.", "its probability"),
])
def test_bad_rows_are_one_error(medvqa, tmp_path, row, code, message, hint):
    answer_demo(medvqa, tmp_path, **row)
    result = medvqa("eval", "answers", "--from", tmp_path / "theirs.jsonl", *DEMO)
    assert result.exit_code == code
    assert message in " ".join(result.stderr.split())
    assert hint in result.stderr


def test_doubled_rows_missing_keys_and_empty_files_are_one_error(medvqa, tmp_path):
    rows = answer_demo(medvqa, tmp_path)
    path = tmp_path / "theirs.jsonl"
    write_jsonl(path, [*rows, rows[0]])
    assert "is answered twice" in medvqa("eval", "answers", "--from", path, *DEMO).stderr
    write_jsonl(path, [{"question_id": "1"}])
    assert "there is no 'answer'" in medvqa("eval", "answers", "--from", path, *DEMO).stderr
    path.write_text("")
    assert "is empty" in medvqa("eval", "answers", "--from", path, *DEMO).stderr
    assert "does not exist" in medvqa("eval", "answers", "--from", tmp_path / "none.jsonl").stderr


def test_unknown_profiles_and_metrics_are_settings_errors(medvqa, bare):
    result = medvqa("eval", "answers", "--from", bare, "--profile", "bert")
    assert result.exit_code == 2
    assert "evaluation.profiles" in result.stderr
    assert "squad" in result.stderr
    assert medvqa("eval", "answers", "--from", bare, "--metrics", "meteor").exit_code == 2


def test_a_plan_writes_nothing(document, bare, workplace):
    plan = document("eval", "answers", "--from", bare, "--dry-run")
    assert plan["run"] == str(bare)
    assert not (workplace / "runs").exists()
    assert json.dumps(plan)

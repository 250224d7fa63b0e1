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


def test_a_file_in_another_encoding_is_told_by_its_line(medvqa, tmp_path, workplace):
    rows = answer_demo(medvqa, tmp_path)
    path = tmp_path / "theirs.jsonl"
    rows[2]["answer"] = "opacité"
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_bytes("\n".join(lines).encode("latin-1"))
    result = medvqa("eval", "answers", "--from", path, *DEMO)
    assert result.exit_code == 4
    assert "theirs.jsonl, line 3: not UTF-8 text (byte 0xe9)." in " ".join(result.stderr.split())
    assert "hint: Convert it with: iconv -f ENCODING -t UTF-8." in result.stderr
    path.write_bytes("\ufeff".encode() + "\r\n\r\n".join(lines).encode())  # no line end behind the last
    assert medvqa("eval", "answers", "--from", path, *DEMO).exit_code == 0
    path.write_text("\n".join([*lines[:2], "", '{"question_id": 5']))
    stderr = " ".join(medvqa("eval", "answers", "--from", path, *DEMO).stderr.split())
    assert "theirs.jsonl, line 4: the JSON is cut off" in stderr
    assert "delete" not in stderr


def test_answers_that_are_missing_are_to_be_added_to_the_file(medvqa, tmp_path):
    rows = answer_demo(medvqa, tmp_path)
    write_jsonl(tmp_path / "theirs.jsonl", rows[1:])
    result = " ".join(medvqa("eval", "answers", "--from", tmp_path / "theirs.jsonl", *DEMO).stderr.split())
    assert "Only 15 of 16 questions are answered: these are not the final numbers. Add the missing rows to '" in result
    assert "theirs.jsonl' and score it again." in result
    assert "again to answer" not in result


def test_a_file_that_cannot_be_scored_leaves_no_run(medvqa, bare, workplace, make_run):
    make_run("earlier")
    for _ in range(2):
        result = medvqa("eval", "answers", "--from", bare, "--encoder", "/no/encoder")
        assert result.exit_code == 5
        assert [run.name for run in (workplace / "runs").iterdir()] == ["earlier"]
    assert medvqa("eval", "answers", "--from", bare, "--resamples", "20").exit_code == 0
    medvqa("eval", "answers", "--from", bare, "--encoder", "/no/encoder")
    assert (workplace / "runs" / "scored-mine" / "metrics.json").is_file()
    medvqa("eval", "answers", "--run", "earlier", "--from", bare, "--tag", "b", "--encoder", "/no/encoder")
    assert (workplace / "runs" / "earlier" / "manifest.json").is_file()


@pytest.mark.parametrize(("tag", "option"), [
    ("", ""), ("chosen", " --tag chosen"), ("blank", " --control blank"), ("train", " --split train")])
def test_answers_that_are_not_there_are_asked_for_by_their_tag(medvqa, make_run, tag, option):
    write_jsonl(make_run("a").path / "predictions-other.jsonl", make_rows())
    calls = [["eval", "answers", "--run", "a", *(["--tag", tag] if tag else [])]]
    calls += [["report", f"a:{tag}"], ["eval", "compare", "a:other", f"a:{tag}"]] if tag else []
    for call in calls:
        result = medvqa(*call)
        assert result.exit_code == 7
        assert f"hint: Make it with `medvqa infer --run a{option}`." in " ".join(result.stderr.split())
    result = medvqa("report", "a:other")
    assert result.exit_code == 2
    assert "hint: medvqa report a, or medvqa report a a:other to compare them." in " ".join(result.stderr.split())


def test_unfinished_answers_name_the_command_that_goes_on(medvqa, make_run):
    run = make_run("a")
    write_jsonl(run.path / "predictions-chosen.jsonl", make_rows()[:1])
    write_json(run.path / "predictions-chosen.meta.json", {"expected": 2, "decoding": {"temperature": 0.0}})
    stderr = " ".join(medvqa("eval", "answers", "--run", "a", "--tag", "chosen", "--resamples", "20").stderr.split())
    assert "Answer the rest with `medvqa infer --run a --tag chosen`." in stderr


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

"""Inference resumes, refuses to mix, says what it chose; calibration likewise."""

from __future__ import annotations

import pytest

from medvqa_cli.errors import DataError, RunError
from medvqa_cli.progress import SILENT
from medvqa_cli.records import VQASample, read_jsonl
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.asking import group_samples
from medvqa_cli.workflows.calibrate import evaluate_calibration
from medvqa_cli.workflows.data import load_samples
from medvqa_cli.workflows.elicitation.inquiry import select_questions
from medvqa_cli.workflows.evaluate import evaluate_answers
from medvqa_cli.workflows.infer import infer_image, infer_split
from tests.workflows.conftest import merge


def change(settings, **sections):
    return make_settings(merge(settings.model_dump(mode="json"), **sections))


def answers_of(run, name="predictions.jsonl"):
    return [(row["sample"]["question_id"], row["answer"], row["logprob"]) for row in read_jsonl(run.path / name)]


def test_every_question_is_answered_once_in_order(own_run):
    settings, run = own_run
    assert infer_split(settings, run="small") == run
    samples = load_samples(settings, "test", SILENT)
    assert [question for question, _, _ in answers_of(run)] == [sample.question_id for sample in samples]
    meta = run.read_json("predictions.meta.json")
    assert (meta["expected"], meta["split"], meta["dataset"]) == (len(samples), "test", "demo")
    assert meta["baselines"]["train_questions"] == 80
    assert "yes or no" in meta["closed_definition"]


def test_a_killed_inference_resumes_with_nothing_lost_and_nothing_twice(own_run):
    settings, run = own_run
    infer_split(settings, run="small")
    path = run.path / "predictions.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:11]) + lines[11][:40])
    infer_split(settings, run="small")
    assert path.read_bytes() == whole


def test_batches_over_images_go_on_after_a_kill_as_they_were(own_run):
    settings, run = own_run
    plain = change(settings, infer={"shared_prefix": "off", "batch_size": 16})
    infer_split(plain, run="small")
    path = run.path / "predictions.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    kept = [line for number, line in enumerate(lines) if number not in (3, 20)]
    path.write_bytes(b"".join(kept))
    infer_split(plain, run="small")
    assert path.read_bytes() == whole


def test_answers_made_in_another_way_are_not_mixed(own_run):
    settings, run = own_run
    infer_split(settings, run="small")
    before = (run.path / "predictions.jsonl").read_bytes()
    other = change(settings, infer={"max_new_tokens": 2})
    with pytest.raises(RunError, match="another decoding") as failure:
        infer_split(other, run="small")
    assert "--overwrite" in failure.value.hint
    assert (run.path / "predictions.jsonl").read_bytes() == before
    infer_split(other, run="small", tag="short")
    assert all(row["num_tokens"] <= 2 for row in read_jsonl(run.path / "predictions-short.jsonl"))
    infer_split(other, run="small", overwrite=True)
    assert answers_of(run) == answers_of(run, "predictions-short.jsonl")


def test_blank_images_and_other_splits_get_files_of_their_own(own_run):
    settings, run = own_run
    infer_split(change(settings, infer={"blank_images": True}), run="small")
    infer_split(settings, run="small", split="validation")
    assert {path.name for path in run.path.glob("predictions*.jsonl")} == {
        "predictions-blank.jsonl", "predictions-validation.jsonl"}
    blank = {}
    for row in read_jsonl(run.path / "predictions-blank.jsonl"):
        blank.setdefault(row["sample"]["question"], set()).add(row["logprob"])
    assert any(len(values) > 0 for values in blank.values())
    assert all(max(values) - min(values) < 1e-4 for values in blank.values()), "grey pictures must all look alike"


def test_shared_prefix_and_plain_batches_answer_alike(own_run):
    settings, run = own_run
    infer_split(settings, run="small")
    infer_split(change(settings, infer={"shared_prefix": "off", "batch_size": 5}), run="small", tag="plain")
    for first, second in zip(answers_of(run), answers_of(run, "predictions-plain.jsonl"), strict=True):
        assert first[:2] == second[:2]
        assert first[2] == pytest.approx(second[2], abs=1e-3)


def test_the_latest_run_is_taken_and_said(own_run, listener):
    settings, run = own_run
    unnamed = change(settings, model={"name": None, "scratch": False})
    assert infer_split(unnamed, progress=listener) == run
    assert any("latest run, 'small'" in line for line in listener.said)


def test_without_any_run_one_error_says_what_to_do(own_run, tmp_path):
    settings, _ = own_run
    empty = change(settings, model={"name": None}, paths={"runs": str(tmp_path / "none")})
    with pytest.raises(RunError, match="no trained run") as failure:
        infer_split(empty)
    assert "medvqa quickstart" in failure.value.hint


def test_a_named_model_answers_in_a_run_of_its_own(own_run):
    settings, run = own_run
    named = change(settings, model={"name": str(run.weights), "scratch": False})
    first = infer_split(named)
    assert first.name.startswith("infer-")
    assert infer_split(named) == first, "the same model goes on in the same run"
    infer_split(settings, run="small")
    assert answers_of(first) == answers_of(run)


def test_an_unknown_split_names_those_there_are(own_run):
    settings, _ = own_run
    with pytest.raises(DataError, match="no split 'dev'") as failure:
        infer_split(settings, run="small", split="dev")
    assert "train" in failure.value.hint


def test_questions_about_one_picture(own_run):
    settings, _ = own_run
    sample = load_samples(settings, "test", SILENT)[0]
    from pathlib import Path

    found = infer_image(settings, Path(sample.images[0]), [sample.question, "Is it normal?"], run="small")
    infer_split(settings, run="small")
    expected = next(row for row in read_jsonl(settings.paths.runs / "small" / "predictions.jsonl"))
    assert found[0].answer == expected["answer"]
    assert len(found) == 2
    with pytest.raises(DataError, match="no question"):
        infer_image(settings, Path(sample.images[0]), [], run="small")
    with pytest.raises(DataError, match=r"nowhere\.png"):
        infer_image(settings, Path("nowhere.png"), ["Is it normal?"], run="small")


def test_calibration_is_resumable_and_complete(own_run):
    settings, run = own_run
    target, metrics = evaluate_calibration(settings, run="small")
    assert target == run
    expected = select_questions(load_samples(settings, "test", SILENT), "yes_no", "test")
    rows = list(read_jsonl(run.path / "samples.jsonl"))
    assert [row["sample"]["question_id"] for row in rows] == [sample.question_id for sample in expected]
    assert all(sum(answer["count"] for answer in row["samples"]) == 12 for row in rows)
    assert metrics["num_questions"] == len(expected)
    assert metrics["num_samples"] == 12
    assert {path.name for path in (run.path / "calibration").iterdir()} == {
        "metrics.json", "detailed_results.json", "summary.txt"}
    path = run.path / "samples.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:30])
    evaluate_calibration(settings, run="small")
    assert path.read_bytes() == whole


def test_incomplete_answers_are_scored_but_flagged(own_run, listener):
    settings, run = own_run
    infer_split(settings, run="small")
    path = run.path / "predictions.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:9]))
    summary = evaluate_answers(run, settings, progress=listener)
    assert summary["incomplete"] is True
    assert "Only 9 of 32 questions" in listener.said[-1]
    assert run.read_json("metrics.json")["answers"]["main"]["protocol"]["n"] == 9


def test_scores_are_merged_by_tag_and_kept_beside_calibration(own_run):
    settings, run = own_run
    infer_split(settings, run="small")
    infer_split(change(settings, infer={"blank_images": True}), run="small")
    evaluate_calibration(settings, run="small")
    evaluate_answers(run, settings)
    evaluate_answers(run, settings, tag="blank")
    metrics = run.read_json("metrics.json")
    assert set(metrics) == {"answers", "calibration"}
    assert set(metrics["answers"]) == {"main", "blank"}
    assert metrics["answers"]["blank"]["protocol"]["inference"]["blank_images"] is True
    assert len(list(read_jsonl(run.path / "scores.jsonl"))) == 32


@pytest.mark.parametrize(("content", "message"), [
    (None, "has no predictions.jsonl"), (b"", "is empty"), (b'{"answer": 1}\n', "line 1: not a prediction"),
    (b"not json\n", "line 1: not valid JSON"),
])
def test_bad_prediction_files_are_one_error(own_run, content, message):
    settings, run = own_run
    if content is not None:
        (run.path / "predictions.jsonl").write_bytes(content)
    with pytest.raises(RunError, match=message):
        evaluate_answers(run, settings)


def test_a_question_answered_twice_is_an_error(own_run):
    settings, run = own_run
    infer_split(settings, run="small")
    path = run.path / "predictions.jsonl"
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(RunError, match="twice"):
        evaluate_answers(run, settings)


def test_questions_without_an_image_are_answered_one_by_one():
    samples = [VQASample(dataset="d", split="test", question_id=str(n), image_id="", question="Is it?", answer="yes",
                         answer_type="closed", images=("/a.png",) if n % 2 else ()) for n in range(4)]
    assert [[sample.question_id for sample in group] for group in group_samples(samples)] == [["0"], ["1", "3"], ["2"]]

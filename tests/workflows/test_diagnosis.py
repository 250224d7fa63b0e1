"""The diagnosis of a run: wrong answers with their pictures, prompts as the model reads them, numbers."""

from __future__ import annotations

import dataclasses
import json

import pytest
from PIL import Image

from medvqa_cli.evaluation.diagnosis import is_right
from medvqa_cli.records import read_jsonl, write_json, write_jsonl
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.diagnosis import diagnose_run
from medvqa_cli.workflows.evaluate import read_predictions
from medvqa_cli.workflows.infer import infer_split
from tests.workflows.conftest import merge


@pytest.fixture
def answered(own_run):
    settings, run = own_run
    infer_split(settings, run="small")
    return settings, run


def test_wrong_answers_are_drawn_and_prompts_are_what_the_model_reads(answered, listener):
    settings, run = answered
    folder, found = diagnose_run(run, settings, examples=6, progress=listener)
    predictions = {p.sample.question_id: p for p in read_predictions(run.path / "predictions.jsonl")}
    rows = list(read_jsonl(folder / "errors.jsonl"))
    assert [is_right(predictions[row["question_id"]]) for row in rows] == [False] * 6
    assert {row["answer_type"] for row in rows} == {"closed", "open"}
    for row in rows:
        with Image.open(folder / row["picture"]) as picture:
            assert picture.height > picture.width / 2 > 200
    prompts = (folder / "prompts.txt").read_text(encoding="utf-8")
    question = next(iter(predictions.values())).sample.question
    assert prompts.count("=== question ") == 8
    assert "[<image> x 4]" in prompts
    assert f"{question} ASSISTANT:" in prompts
    assert json.loads((folder / "diagnosis.json").read_text(encoding="utf-8"))["wrong"] == found["wrong"]
    assert sum(found["wrong"].values()) == sum(not is_right(p) for p in predictions.values())
    (folder / "errors" / "old.jpg").touch()
    assert diagnose_run(run, settings, examples=6, progress=listener)[1] == found
    assert len(list((folder / "errors").iterdir())) == 6


def test_a_masked_run_shows_the_image_before_and_after(answered, listener):
    settings, run = answered
    masked = make_settings(merge(settings.model_dump(mode="json"), mask={"mode": "crop"}))
    infer_split(masked, run="small")
    folder, _ = diagnose_run(run, settings, tag="mask-crop", examples=4, progress=listener)
    assert folder.name == "diagnosis-mask-crop"
    pairs = [row["images"] for row in read_jsonl(folder / "errors.jsonl")]
    assert any(len(pair) == 2 and "masked" in pair[1] and "masked" not in pair[0] for pair in pairs)
    ways = diagnose_run(run, settings, progress=listener)[1]["other_ways"]
    assert ways["mask-crop"]["n"] == 32


def test_rows_that_tell_nothing_have_no_prompts_and_lost_pictures_are_said(answered, listener, tmp_path):
    settings, run = answered
    lost = (str(tmp_path / "x.png"),)
    rows = [dataclasses.replace(p, answer="wrong", sample=dataclasses.replace(p.sample, images=lost))
            for p in read_predictions(run.path / "predictions.jsonl")]
    write_jsonl(run.path / "predictions.jsonl", rows)
    (run.path / "predictions.meta.json").unlink()
    folder, found = diagnose_run(run, settings, examples=2, progress=listener)
    assert not (folder / "prompts.txt").exists()
    assert found["errors"] == {"shown": 2, "without_picture": 2}
    assert any("there is no prompts.txt" in line for line in listener.warnings)
    assert any("is shown without its picture" in line and "x.png" in line for line in listener.warnings)


def test_a_server_shows_no_tokens(answered, listener):
    settings, run = answered
    write_json(run.path / "predictions.meta.json", run.read_json("predictions.meta.json") | {"engine": "openai"})
    folder, _ = diagnose_run(run, settings, examples=1, progress=listener)
    assert "the server applies a template of its own" in (folder / "prompts.txt").read_text(encoding="utf-8")
    assert any("the server applies a template" in line for line in listener.warnings)

"""A run's folder that was moved, copied or renamed is gone on with as if it had not been."""

from __future__ import annotations

import json
import shutil

import pytest

from medvqa_cli.errors import RunError
from medvqa_cli.records import read_jsonl, write_json
from medvqa_cli.runs import open_run
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.calibrate import evaluate_calibration
from medvqa_cli.workflows.controls import answer_controls
from medvqa_cli.workflows.evaluate import evaluate_answers
from medvqa_cli.workflows.infer import infer_split
from medvqa_cli.workflows.models import choose_trained
from medvqa_cli.workflows.own_weights import find_base, name_own_weights, place_own_weights
from medvqa_cli.workflows.rescoring import adopt_predictions
from medvqa_cli.workflows.row_files import hold_row_file
from medvqa_cli.workflows.train import train_sft
from tests.workflows.conftest import merge


def change(settings, **sections):
    return make_settings(merge(settings.model_dump(mode="json"), **sections))


def move(settings, run, tmp_path, name="renamed"):
    """Move a run to another folder of runs, under another name."""
    runs = tmp_path / "elsewhere"
    runs.mkdir()
    shutil.move(run.path, runs / name)
    return change(settings, paths={"runs": str(runs)}), open_run(runs, name)


def write_as_before(run, name, old):
    """Let a side file tell its model as older versions did: by an absolute path."""
    side = run.path / f"{name}.meta.json"
    meta = json.loads(side.read_text(encoding="utf-8"))
    assert meta["model"]["checkpoint"] == "./model"
    meta["model"]["checkpoint"] = str(old / "model")
    side.write_text(json.dumps(meta), encoding="utf-8")


@pytest.mark.parametrize("before", [False, True], ids=["relative", "absolute"])
def test_a_moved_run_goes_on(own_run, tmp_path, listener, before):
    settings, run = own_run
    infer_split(settings, run="small")
    evaluate_calibration(settings, run="small")
    evaluate_answers(run, settings)
    if before:
        for name in ("predictions", "samples"):
            write_as_before(run, name, run.path)
    settings, run = move(settings, run, tmp_path)
    rows = {name: (run.path / f"{name}.jsonl").read_bytes() for name in ("predictions", "samples")}
    cut = rows["samples"].splitlines(keepends=True)[:-3]
    (run.path / "samples.jsonl").write_bytes(b"".join(cut))
    infer_split(settings, run="renamed")
    evaluate_calibration(settings, run="renamed")
    assert {name: (run.path / f"{name}.jsonl").read_bytes() for name in rows} == rows
    block = evaluate_answers(run, settings)
    assert block["protocol"]["inference"]["model"]["checkpoint"] == "./model"
    answer_controls(run, settings, ["blank"], progress=listener)
    assert "blank" in str(evaluate_answers(run, settings, progress=listener)["controls"])
    assert not any("made in another way" in line for line in listener.warnings)


def test_rows_of_other_weights_are_still_refused(own_run, tmp_path):
    _, run = own_run
    (run.path / "predictions.jsonl").touch()
    own = {"checkpoint": str(run.path / "model"), "adapter": "", "dtype": "float32"}
    for known in ({"model": own}, {"model": own | {"checkpoint": "/moved/since/model"}}):
        write_json(run.path / "predictions.meta.json", known)
        with hold_row_file(run, "predictions", {"model": own}, overwrite=False):
            assert run.read_json("predictions.meta.json")["model"] == own | {"checkpoint": "./model"}
    for known in ({"model": own | {"checkpoint": "/data/other"}}, {"model": own | {"adapter": "./adapter"}},
                  {"model": own | {"dtype": "bfloat16"}}, {"model": own | {"checkpoint": "llava-hf/model"}},
                  {"model": own | {"checkpoint": "/x/model"}, "source": "/x/predictions.jsonl"}):
        write_json(run.path / "predictions.meta.json", known)
        with (pytest.raises(RunError, match="holds rows made with another model"),
              hold_row_file(run, "predictions", {"model": own}, overwrite=False)):
            pass


@pytest.mark.slow
def test_an_adapter_finds_the_random_weights_it_was_trained_on(trained, tmp_path, listener):
    settings = change(trained[0], paths={"runs": str(tmp_path / "runs")},
                      train={"max_steps": 2, "tuning": "lora"})
    run = train_sft(settings, name="adapted")
    old = run.path
    settings, run = move(settings, run, tmp_path, "adapted")
    infer_split(settings, run="adapted", progress=listener)
    assert list(read_jsonl(run.path / "predictions.jsonl"))
    meta = run.read_json("predictions.meta.json")["model"]
    assert (meta["checkpoint"], meta["adapter"]) == ("./initial", "./adapter")
    assert not any("the same weights" in line for line in listener.warnings)
    later = train_sft(change(settings, train={"max_steps": 1}), init_from="adapted", name="later")
    assert choose_trained(later).checkpoint == str(run.path / "initial")
    shutil.move(run.path.parent, tmp_path / "third")
    again = open_run(tmp_path / "third", "later")
    assert choose_trained(again).checkpoint == str(tmp_path / "third" / "adapted" / "initial")
    assert not old.exists()


def test_weights_that_are_not_the_runs_own_are_left_as_they_are(own_run, tmp_path):
    _, run = own_run
    for value in ("llava-hf/llava-1.5-7b-hf", "/data/model-7b", "adapter", "", "/data/adapter"):
        facts = {"model": {"checkpoint": value, "dtype": "float32"}}
        assert name_own_weights(facts, run) == facts
        assert find_base(facts["model"], run) == facts["model"]
    here = {"model": {"checkpoint": "./model", "adapter": "", "dtype": "float32"}}
    assert place_own_weights(here, run.path)["model"]["checkpoint"] == str(run.path / "model")
    assert name_own_weights(place_own_weights(here, run.path), run) == here
    assert name_own_weights({"model": "server"}, run) == {"model": "server"}


def test_answers_brought_from_another_run_tell_whose_weights_gave_them(own_run, tmp_path):
    settings, run = own_run
    infer_split(settings, run="small")
    file = tmp_path / "answers.jsonl"
    shutil.copy(run.path / "predictions.jsonl", file)
    adopted, tag = adopt_predictions(run.path / "predictions.jsonl", settings, run="small", tag="again")
    assert (adopted.path, tag) == (run.path, "again")
    meta = run.read_json("predictions-again.meta.json")
    assert meta["model"]["checkpoint"] == str(run.path / "model")
    assert evaluate_answers(run, settings, tag="again")["protocol"]["inference"]["model"] == meta["model"]

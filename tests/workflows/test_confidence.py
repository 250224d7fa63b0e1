"""Calibration of a run's rows: by split and method, learnt on validation, applied on test; no model is needed."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from medvqa_cli.cli.app import app
from medvqa_cli.errors import DataError, RunError, SettingsError
from medvqa_cli.records import AnswerSample, Prediction, write_json, write_jsonl
from medvqa_cli.runs import create_run, open_run
from medvqa_cli.settings.schema import make_settings, to_tree
from medvqa_cli.workflows.calibrate import evaluate_calibration
from medvqa_cli.workflows.confidence import measure_confidence
from medvqa_cli.workflows.data import load_samples
from medvqa_cli.workflows.recalibrating import Recalibration, read_wanted
from tests.data.builders import Notes

DATA = {"dataset": "demo", "question_type": "closed",
        "options": {"train_images": 1, "validation_images": 30, "test_images": 30, "size": 32}}


def answer(number, sample):
    """A model that is much too sure: right in 3 of 5 questions, whatever it says."""
    sure = (0.6, 0.8, 0.9, 1.0)[number % 4]
    p_yes = sure if (sample.answer.lower() == "yes") == (number // 4 % 5 < 3) else 1 - sure
    yes = round(20 * p_yes)
    return Prediction(sample=sample, answer="yes" if p_yes >= 0.5 else "no", candidates={"yes": p_yes, "no": 1 - p_yes},
                      samples=(AnswerSample("yes", yes), AnswerSample("no", 20 - yes)))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A run with answers and samples of both splits, and its settings."""
    home = tmp_path_factory.mktemp("stored")
    settings = make_settings({"data": DATA, "evaluation": {"resamples": 60},
                              "paths": {"prepared": str(home / "prepared"), "runs": str(home / "runs")}})
    run = create_run(home / "runs", "r")
    write_json(run.settings, to_tree(settings))
    for split, tag in (("validation", "-validation"), ("test", "")):
        chosen = [sample for sample in load_samples(settings, split) if sample.answer.lower() in ("yes", "no")]
        rows = [answer(number, sample) for number, sample in enumerate(chosen)]
        for name in ("samples", "predictions"):
            write_jsonl(run.path / f"{name}{tag}.jsonl", rows)
            write_json(run.path / f"{name}{tag}.meta.json", {"expected": len(rows), "samples": 20})
    return settings, run


@pytest.fixture
def own(stored, tmp_path):
    """A copy of the run, to write to."""
    settings, run = stored
    shutil.copytree(run.path, tmp_path / "runs" / "r")
    paths = {"prepared": str(settings.paths.prepared), "runs": str(tmp_path / "runs")}

    def configure(**calibration):
        return make_settings({"data": DATA, "evaluation": {"resamples": 60}, "paths": paths,
                              "calibration": calibration})

    return configure, open_run(tmp_path / "runs", "r")


def read(path):
    return json.loads(path.read_text())


def test_a_calibrator_is_learnt_on_validation_and_helps_on_test(own):
    configure, run = own
    settings = configure()
    learnt = measure_confidence(run, settings, split="validation", wanted=Recalibration(fit="platt"))
    file = read(run.path / "calibrator.json")
    assert (file["source"], file["provenance"]["split"], file["provenance"]["shared_images"]) == (
        "sampling", "validation", 0)
    assert file["clip"] == 1 / 40
    change = learnt["recalibration"]
    assert (change["role"], change["folds"]) == ("learnt", True)
    assert learnt["abstention"]["wanted"] == 0.1
    assert not (run.path / "calibration").exists()

    found = measure_confidence(run, settings, wanted=Recalibration(calibrator=run.path / "calibrator.json"))
    change = found["recalibration"]
    assert change["role"] == "applied"
    assert change["before"]["ece"] == found["ece"] > 0.08
    assert change["after"]["ece"] < 0.6 * change["before"]["ece"]
    assert change["after"]["intervals"]["ece"]["low"] is not None
    assert "abstention" not in found
    assert found["abstention_check"]["chosen_on"] == "validation"
    assert found["abstention_check"]["sets"]["lac"]["coverage"]["value"] >= 0.85
    rows = read(run.path / "calibration" / "detailed_results.json")
    assert {"question", "ground_truth", "predicted", "confidence", "p_yes", "p_no", "is_correct", "yes_count",
            "no_count", "unknown_count"} <= set(rows[0])
    assert {round(row["calibrated"], 1) for row in rows} == {0.6}
    metrics = read(run.path / "calibration" / "metrics.json")
    assert {"ece", "mce", "overconfidence", "accuracy", "mean_confidence", "num_samples", "bin_data"} <= set(metrics)
    assert {"bin_lower", "bin_upper", "bin_size", "accuracy", "confidence", "gap"} <= set(metrics["bin_data"][0])
    words = (run.path / "calibration" / "summary.txt").read_text()
    assert words.startswith("Calibration on demo, split test\naccuracy: 0.")
    assert "ece after recalibration (platt): 0." in words
    assert "\nmethod: sampling\n" in words
    assert "\nquestions: yes_no\nconfidence: share of the majority" in words
    assert {"calibration", "calibration-validation"} <= set(read(run.path / "metrics.json"))


def test_stored_answers_are_measured_by_candidates(own):
    configure, run = own
    settings = configure(method="logits", calibrate_by="modality")
    target, learnt = evaluate_calibration(settings, run="r", wanted=Recalibration(fit="histogram"))
    assert (target.name, learnt["protocol"]["split"], learnt["num_samples"]) == ("r", "validation", None)
    assert (run.path / "calibration-validation-logits" / "metrics.json").exists()
    assert read(run.path / "calibrator-logits.json")["group_by"] == "modality"
    wanted = read_wanted(None, str(run.path / "calibrator-logits.json"))
    found = evaluate_calibration(settings, run="r", wanted=wanted)[1]
    assert found["recalibration"]["after"]["ece"] < found["recalibration"]["before"]["ece"]
    with pytest.raises(DataError, match="learnt from confidences by 'logits', these are by 'sampling'"):
        measure_confidence(run, configure(), wanted=Recalibration(calibrator=run.path / "calibrator-logits.json"))


def test_the_test_split_teaches_nothing(own):
    configure, _ = own
    with pytest.raises(SettingsError, match="must not be learnt on the test split 'test'") as caught:
        evaluate_calibration(configure(), run="r", split="test", wanted=Recalibration(fit="platt"))
    assert caught.value.hint == "Use --split validation."


def test_without_a_validation_split(own):
    configure, _ = own
    settings = configure()
    data = settings.data.model_copy(update={"validation_split": "dev"})
    with pytest.raises(DataError, match="The data set 'demo' has no split 'dev' to learn a calibrator from"):
        evaluate_calibration(settings.model_copy(update={"data": data}), run="r", wanted=Recalibration(fit="platt"))


def test_shared_images_are_said(own, monkeypatch):
    from medvqa_cli.data.prepared import store

    configure, _ = own
    settings = configure(method="logits")
    read_split = store.read_split
    monkeypatch.setattr(store, "read_split", lambda path, name: read_split(path, "validation"))
    notes = Notes()
    learnt = evaluate_calibration(settings, run="r", wanted=Recalibration(fit="platt"), progress=notes)[1]
    assert any("30 images of split 'validation' are in the test split too" in text for text in notes.warnings)
    assert learnt["recalibration"]["calibrator"]["provenance"]["shared_images"] == 30


def test_bad_input_has_one_clear_error(own):
    configure, run = own
    with pytest.raises(SettingsError, match="--fit-calibrator is 'magic'"):
        read_wanted("magic", None)
    with pytest.raises(SettingsError, match="exclude each other"):
        read_wanted("platt", "c.json")
    shutil.copy(run.path / "samples-validation.jsonl", run.path / "samples.jsonl")
    with pytest.raises(RunError, match=r"samples\.jsonl' holds answers to split 'validation', not to 'test'"):
        measure_confidence(run, configure())
    (run.path / "samples.jsonl").write_text("")
    with pytest.raises(RunError, match="is empty"):
        measure_confidence(run, configure())


def test_the_command_line_learns_applies_and_says_what_comes_next(own, monkeypatch, tmp_path):
    configure, run = own
    monkeypatch.setenv("MEDVQA_CONFIG_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words):
        return CliRunner().invoke(app, ["eval", "calibration", "--run", str(run.path), "--method", "logits", *words])

    learnt = call("--fit-calibrator", "isotonic", "--risk", "0.3", "--resamples", "60")
    assert learnt.exit_code == 0, learnt.output
    assert "isotonic calibrator, learnt from" in learnt.stdout
    assert "After: each image by a calibrator learnt from the other images." in learnt.stdout
    assert "To have at most 0.3 of the answers given wrong: " in learnt.stdout
    assert f"--method logits --calibrator {run.path / 'calibrator-logits.json'}" in learnt.stderr.replace("\n", "")
    applied = call("--calibrator", str(run.path / "calibrator-logits.json"), "--resamples", "60")
    assert applied.exit_code == 0, applied.output
    assert "Rules chosen on validation, tried here" in applied.stdout
    assert "LAC answer sets (at least 0.7 covered)" in applied.stdout
    wrong = call("--fit-calibrator", "isotonic", "--split", "test")
    assert wrong.exit_code == 2
    assert wrong.stderr.startswith("error: A calibrator must not be learnt on the test split 'test'")
    both = call("--fit-calibrator", "isotonic", "--calibrator", "x.json")
    assert both.stderr.startswith("error: --fit-calibrator and --calibrator exclude each other.")


def test_samples_of_another_split_stand_beside(own_run):
    settings, run = own_run
    evaluate_calibration(settings, run=run.name)
    first = (run.path / "samples.jsonl").read_bytes()
    metrics = read(run.path / "metrics.json")["calibration"]
    _, learnt = evaluate_calibration(settings, run=run.name, split="validation")
    assert (learnt["num_samples"], learnt["protocol"]["split"]) == (12, "validation")
    assert (run.path / "samples-validation.jsonl").exists()
    assert (run.path / "samples.jsonl").read_bytes() == first
    assert read(run.path / "metrics.json")["calibration"] == metrics

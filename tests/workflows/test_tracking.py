"""Tracking in a whole training: what is missing is told first, warnings stay with the run."""

from __future__ import annotations

import importlib.util

import pytest

from medvqa_cli.errors import MissingDependencyError
from medvqa_cli.records import read_jsonl
from medvqa_cli.runs import create_run
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.tracking import keep_warning, wants_validation
from medvqa_cli.workflows.train import train_sft
from tests.workflows.conftest import merge


def change(settings, **sections):
    return make_settings(merge(settings.model_dump(mode="json"), **sections))


def test_a_missing_tracker_leaves_no_run(trained, tmp_path, monkeypatch):
    settings, _ = trained
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name, *rest: None if name == "tensorboard" else real(name, *rest))
    wanted = change(settings, paths={"runs": str(tmp_path / "runs")}, tracking={"report_to": ["tensorboard"]})
    with pytest.raises(MissingDependencyError, match="Tracking with TensorBoard needs the package 'tensorboard'"):
        train_sft(wanted)
    assert not (tmp_path / "runs").exists()


def test_probes_stand_in_the_events_of_every_training(trained):
    _, run = trained
    probes = [event for event in read_jsonl(run.events) if event["event"] == "probe"]
    assert [probe["step"] for probe in probes] == [3, 6, 9, 12]
    assert 0 < probes[0]["questions"] <= 32
    assert not (run.path / "tensorboard").exists()


def test_weights_are_those_of_a_training_without_probes(trained, tmp_path):
    settings, run = trained
    plain = train_sft(change(settings, paths={"runs": str(tmp_path)}, tracking={"probe_questions": 0}), name="plain")
    assert [event for event in read_jsonl(plain.events) if event["event"] == "probe"] == []
    first, second = ((item.weights / "model.safetensors").read_bytes() for item in (run, plain))
    assert first == second


def test_a_warning_is_kept_once(tmp_path):
    run = create_run(tmp_path, "mine")
    for text in ("first", "second", "first"):
        keep_warning(run, text)
    assert run.read_json("manifest.json")["warnings"] == ["first", "second"]


def test_validation_questions_are_read_for_their_loss_or_for_probes():
    for loss, probes, wanted in [(0.25, 0, True), (0.0, 8, True), (0.0, 0, False)]:
        settings = make_settings({"train": {"eval_fraction": loss}, "tracking": {"probe_questions": probes}})
        assert wants_validation(settings) is wanted

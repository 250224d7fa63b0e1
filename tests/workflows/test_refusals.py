"""A training that is refused leaves no run behind; one that has made a step, or was resumed, keeps its folder."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from medvqa_cli.errors import DataError, ModelError, RunError, SettingsError
from medvqa_cli.settings.schema import to_tree
from medvqa_cli.training.grpo import GroupTrainer
from medvqa_cli.workflows import sharding
from medvqa_cli.workflows.grpo import train_grpo
from medvqa_cli.workflows.locks import hold_run
from medvqa_cli.workflows.settings_digest import KEY, digest_settings
from medvqa_cli.workflows.train import train_sft
from tests.workflows.conftest import held_elsewhere
from tests.workflows.test_train import change

EXAMPLES = Path(__file__).parents[2] / "examples"
BLIP2 = {"name": "blip2", "options": {}}


@pytest.mark.parametrize(("sections", "error", "message"), [
    ({"train": {"pack_length": 8}}, DataError, r"tokens long, .* of them for its pictures; a pack holds 8"),
    pytest.param({"train": {"pack_length": 8}, "model": {"too_long": "skip"}}, DataError,
                 "All 80 questions are too long", marks=pytest.mark.slow),
    ({"train": {"vision_cache": "memory"}}, SettingsError, r"train.vision_cache is 'memory', but '.*' is trained"),
    ({"train": {"packing": "on"}, "model": BLIP2}, SettingsError, "train.packing is 'on', but the family 'blip2'"),
    ({"train": {"closed_objective": "mc"}, "data": {"question_type": "open"}}, DataError,
     "no training question is closed"),
], ids=["too-long", "all-too-long", "vision-cache", "packing", "closed-objective"])
def test_a_refused_training_leaves_no_run(trained, tmp_path, sections, error, message):
    settings, _ = trained
    wanted = change(settings, **{**sections, "paths": {"runs": str(tmp_path)}})
    with pytest.raises(error, match=message):
        train_sft(wanted)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("engine", [{"deepspeed": "deepspeed/zero2.json"}, {"fsdp": "fsdp/fsdp2.json"}])
@pytest.mark.parametrize("train", [{"ema": 0.9}, {"keep": "best"}, {"early_stopping": 2}])
def test_averages_and_best_weights_of_an_engine_are_refused_in_a_dry_run(trained, tmp_path, monkeypatch, engine, train):
    settings, _ = trained
    monkeypatch.setattr(sharding, "find_spec", lambda name: object())
    monkeypatch.setenv("WORLD_SIZE", "2")
    files = {name: str(EXAMPLES / file) for name, file in engine.items()}
    wanted = change(settings, paths={"runs": str(tmp_path)}, train={**train, **files})
    with pytest.raises(SettingsError, match=r"An average of weights \(train.ema\) and the best ones \(train.keep\)"):
        train_sft(wanted, dry_run=True)


def test_a_model_that_grpo_cannot_train_leaves_no_run(trained, tmp_path, monkeypatch):
    settings, _ = trained
    grpo = {"rewards": ["length"], "num_generations": 2, "batch_size": 2, "max_completion_length": 2}
    wanted = change(settings, paths={"runs": str(tmp_path)}, train={"eval_fraction": 0.0, "max_steps": 1}, grpo=grpo)
    with pytest.raises(ModelError, match="TRL cannot train the family 'blip2' by GRPO"):
        train_grpo(change(wanted, model=BLIP2))

    def refuse(trainer, drawn):
        raise ModelError("The first batch is refused.")

    monkeypatch.setattr(GroupTrainer, "_check", refuse)
    with pytest.raises(ModelError, match="The first batch is refused"):
        train_grpo(wanted)
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_that_is_refused_stays(own_run):
    settings, run = own_run
    run.weights.rename(run.path / "gone")
    stored, manifest = run.read_json("settings.json"), run.read_json("manifest.json")
    stored["train"]["pack_length"] = 8
    run.settings.write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(RunError, match="The settings of run 'small' have changed since it began"):
        train_sft(settings, resume="small")
    del manifest[KEY]  # as older runs
    run.manifest.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(DataError, match="a pack holds 8"):
        train_sft(settings, resume="small")
    assert (run.checkpoints / "checkpoint-12").is_dir()


def test_what_depends_on_the_machine_may_change(trained):
    settings, run = trained
    digest = run.read_json("manifest.json")[KEY]
    moved = change(settings, paths={"runs": "/elsewhere"}, data={"root": "/there"}, model={"device": "cuda"},
                   train={"workers": 4}, tracking={"probe_questions": 1})
    assert digest_settings(to_tree(moved)) == digest_settings(run.read_json("settings.json")) == digest
    for section, values in {"train": {"max_steps": 13}, "data": {"limit": 70}, "model": {"dtype": "bfloat16"}}.items():
        assert digest_settings(to_tree(change(settings, **{section: values}))) != digest
    assert digest_settings({"seed": 1}) != digest_settings({"seed": 2})


@pytest.mark.parametrize("reason", [errno.ENOSPC, pytest.param(errno.EDQUOT, marks=pytest.mark.slow)])
def test_a_disk_that_fills_up_leaves_a_run_to_resume(trained, tmp_path, monkeypatch, reason):
    settings, _ = trained
    real, calls = torch.save, iter(range(9))

    def save(*args, **kwargs):
        if next(calls) == 5:
            raise OSError(reason, os.strerror(reason))
        return real(*args, **kwargs)

    wanted = change(settings, paths={"runs": str(tmp_path)}, train={"max_steps": 4, "save_fraction": 0.5})
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        with pytest.raises(RunError, match="The disk is full: run 'full' could not be written on") as caught:
            train_sft(wanted, name="full")
    assert caught.value.hint == "Free some space, then: medvqa train sft --resume full"
    assert train_sft(wanted, resume="full").weights


def test_a_run_is_trained_by_one_process_at_a_time(own_run):
    settings, run = own_run
    run.weights.rename(run.path / "gone")
    with (held_elsewhere(hold_run, run),
          pytest.raises(RunError, match="Run 'small' is being trained by another process") as caught):
        train_sft(settings, resume="small")
    assert "medvqa train watch small" in caught.value.hint
    with hold_run(run):
        pass
    assert (run.checkpoints / "checkpoint-12").is_dir()

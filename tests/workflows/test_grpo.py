"""GRPO writes a run like any other; what cannot work is refused before anything is written."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import re
import tomllib
from pathlib import Path

import pytest

from medvqa_cli import plugins
from medvqa_cli.errors import DataError, MissingDependencyError, PluginError, RunError, SettingsError
from medvqa_cli.records import read_jsonl
from medvqa_cli.runs import open_run
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.training.attempts import RewardCard
from medvqa_cli.workflows.grpo import TRL, train_grpo
from medvqa_cli.workflows.infer import infer_split
from medvqa_cli.workflows.train import train_sft
from tests.workflows.conftest import merge

STEPS = {"max_steps": 4, "log_steps": 1, "save_fraction": 0.25}
GROUPS = {"rewards": ["accuracy", "token_f1=0.5"], "num_generations": 4, "batch_size": 16, "max_completion_length": 4,
          "learning_rate": 1e-3}


def prepare(trained, tmp_path, grpo=None, **sections):
    """Settings of a short GRPO training that starts from the trained run, and a folder for its runs."""
    settings, run = trained
    tree = merge(settings.model_dump(mode="json"), paths={"runs": str(tmp_path / "runs")}, grpo=GROUPS | (grpo or {}),
                 train=STEPS, model={"name": str(run.weights), "scratch": False, "options": {}})
    return make_settings(merge(tree, **sections))


def read_weights(run):
    return (run.weights / "adapter_model.safetensors").read_bytes()


class Fails:
    """A reward that works, until it does not."""

    card = RewardCard("Counts down.")

    def __init__(self, left):
        self.left = left

    def rate(self, attempts):
        self.left -= 1
        return [float(len(attempt.answer)) if self.left >= 0 else math.nan for attempt in attempts]


@pytest.fixture
def fails(monkeypatch):
    """The reward called fails, which works twice: in the trial, and in the first steps."""
    monkeypatch.setattr(plugins.rewards, "_loose", {"fails": Fails(10**6)})
    monkeypatch.setattr(plugins.rewards, "_files", {"fails": None})
    return plugins.rewards.get("fails")


def test_a_run_that_a_bad_reward_stops_goes_on_as_if_nothing_had_happened(trained, tmp_path, fails):
    settings = prepare(trained, tmp_path, grpo={"rewards": ["fails"]})
    whole = train_grpo(settings, name="whole")
    fails.left = 3
    with pytest.raises(PluginError, match="The reward 'fails' rated question '.*' with 'nan'"):
        train_grpo(settings, name="stopped")
    stopped = open_run(settings.paths.runs, "stopped")
    assert stopped.weights is None
    assert sorted(path.name for path in stopped.checkpoints.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    fails.left = 10**6
    with pytest.raises(RunError, match="was begun by `medvqa train grpo`, and this is `medvqa train sft`") as caught:
        train_sft(settings, resume="stopped")
    assert caught.value.hint == "medvqa train grpo --resume stopped"
    resumed = train_grpo(settings, resume="stopped")
    assert read_weights(resumed) == read_weights(whole)
    losses = [[row["loss"] for row in read_jsonl(run.events) if row["event"] == "log"] for run in (whole, resumed)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4
    manifest = whole.read_json("manifest.json")
    assert (manifest["method"], manifest["packed"], manifest["steps"]) == ("grpo", True, 4)
    answered = infer_split(settings, run="whole")
    assert len(list(read_jsonl(answered.path / "predictions.jsonl"))) > 0


@pytest.mark.slow
def test_full_training_with_a_reference_model_and_probes(trained, tmp_path):
    settings = prepare(trained, tmp_path, grpo={"beta": 0.05}, train={**STEPS, "tuning": "full"},
                       tracking={"probe_questions": 4, "probe_steps": 2})
    run = train_grpo(settings, name="full")
    assert run.weights.name == "model"
    rows = list(read_jsonl(run.events))
    assert all(row["kl"] >= 0 for row in rows if row["event"] == "rewards")
    assert any(row["event"] == "probe" for row in rows)


@pytest.mark.slow
def test_an_adapter_goes_on_from_an_adapter(trained, tmp_path):
    settings = prepare(trained, tmp_path, grpo={"beta": 0.05})
    train_grpo(settings, name="first")
    run = train_grpo(settings, name="second", init_from="first")
    assert sorted(path.name for path in run.weights.iterdir() if path.is_dir()) == []
    assert read_weights(run) != read_weights(open_run(settings.paths.runs, "first"))
    assert run.read_json("manifest.json")["init_from"] == "first"


@pytest.mark.parametrize(("sections", "error", "message"), [
    ({"grpo": {**GROUPS, "batch_size": 6}}, SettingsError, "not whole groups of 4"),
    ({"grpo": {**GROUPS, "rewards": ["acuracy"]}}, PluginError, "Unknown reward 'acuracy'. Did you mean 'accuracy'"),
    ({"grpo": {**GROUPS, "rewards": ["format"]}}, DataError, "None of the rewards format applies to any"),
    ({"grpo": {**GROUPS, "options": {"nothing": 1}}}, SettingsError, "'nothing', which is no argument"),
    ({"train": {**STEPS, "closed_share": 0.5}}, SettingsError, "GRPO does not heed train.closed_share"),
    ({"train": {**STEPS, "augment": {"mode": "light"}}}, SettingsError, "GRPO does not heed train.augment"),
    ({"train": {**STEPS, "early_stopping": 2}}, SettingsError, "no validation loss that could choose"),
])
def test_what_cannot_work_is_refused_before_a_model_is_loaded(trained, tmp_path, sections, error, message):
    settings = prepare(trained, tmp_path, **sections)
    with pytest.raises(error, match=re.escape(message)):
        train_grpo(settings, dry_run="options" in sections.get("grpo", {}))
    assert not (tmp_path / "runs").exists() or list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(("rewards", "message"), [
    (["accuracy=-1"], "rewards names 'accuracy=-1', which is no NAME=WEIGHT"),
    (["accuracy=x"], "rewards names 'accuracy=x', which is no NAME=WEIGHT"),
    (["accuracy=nan"], "rewards names 'accuracy=nan', which is no NAME=WEIGHT"),
    (["=1"], "rewards names '=1', which is no NAME=WEIGHT"),
    (["accuracy=1", "accuracy"], "rewards names 'accuracy' twice")])
def test_rewards_have_weights(rewards, message):
    with pytest.raises(SettingsError, match=message):
        make_settings({"grpo": {"rewards": rewards}})


def test_without_trl_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="needs the package 'trl', which is not installed") as caught:
        train_grpo(make_settings())
    assert caught.value.exit_code == 6
    assert "medvqa-cli[grpo]" in caught.value.hint


@pytest.mark.parametrize("version", ["1.15.3", "2.0.0", "0.9"])
def test_another_trl_is_refused(monkeypatch, version):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    with pytest.raises(MissingDependencyError, match=re.escape(f"'trl>=1.16,<2 (found: {version})'")):
        train_grpo(make_settings())


def test_the_range_of_trl_is_that_of_the_extra():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    low, high = (".".join(map(str, numbers)) for numbers in TRL)
    assert project["optional-dependencies"]["grpo"] == [f"trl>={low},<{high}"]

"""Which weights a run keeps, what it says of them, and which ones another run starts from."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from medvqa_cli.errors import DataError, RunError, SettingsError
from medvqa_cli.records import read_jsonl
from medvqa_cli.runs import Run
from medvqa_cli.training.diagnostics import callback
from medvqa_cli.workflows.objective import check_objective
from medvqa_cli.workflows.train import train_sft
from medvqa_cli.workflows.training_data import TrainingData
from medvqa_cli.workflows.weights import find_weights
from tests.workflows.test_train import change

STOPPING = {"max_steps": 20, "eval_fraction": 0.1, "save_fraction": 0.5, "early_stopping": 2, "min_delta": 100.0,
            "ema": 0.5, "balance": "answer_type", "closed_share": 0.5}


@pytest.fixture(scope="module")
def stopped(trained, tmp_path_factory):
    """Settings and run of a training that gains nothing after the first of its evaluations, one at every other step."""
    settings, _ = trained
    own = change(settings, paths={"runs": str(tmp_path_factory.mktemp("stopped"))}, train=STOPPING,
                 tracking={"probe_questions": 6, "probe_steps": 2})
    real = callback.ask_probes

    def ask(engine, *arguments):
        PROBED.append(engine.loaded.model.state_dict()[NORM].clone())
        return real(engine, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callback, "ask_probes", ask)
        return own, train_sft(own, name="early")


NORM = "model.language_model.norm.weight"
PROBED: list[torch.Tensor] = []


def read_weights(folder):
    return load_file(folder / "model.safetensors")


def test_it_stopped_and_kept_the_average_of_the_best_step(stopped):
    _, run = stopped
    manifest = run.read_json("manifest.json")
    assert manifest["steps"] == 6
    evaluated = [row["eval_loss"] for row in read_jsonl(run.events) if row["event"] == "eval"]
    assert manifest["weights"] == {"keep": "best", "step": 2, "metric": "eval_loss", "best_step": 2,
                                   "best_value": evaluated[0], "ema": 0.5}
    assert manifest["closed_share"]["wanted"] == 0.5
    assert set(manifest["loss_weights"]["most_frequent"]) == {"open", "closed"}
    note = next(row for row in read_jsonl(run.events) if row["event"] == "note")
    assert (note["step"], note["kind"]) == (6, "early_stopping")
    assert {path.name for path in run.checkpoints.iterdir()} >= {"checkpoint-2", "checkpoint-6"}
    kept, average = read_weights(run.weights), load_file(run.checkpoints / "checkpoint-2" / "average.safetensors")
    raw, saved = read_weights(run.path / "raw" / "model"), read_weights(run.checkpoints / "checkpoint-2")
    stored = next(name for name in kept if name.endswith("model.norm.weight"))
    assert torch.equal(kept[stored], average[NORM])
    assert all(torch.equal(raw[name], saved[name]) for name in raw)
    assert not torch.equal(raw[stored], kept[stored])


def test_probes_are_answered_by_the_average(stopped):
    _, run = stopped
    assert [row["step"] for row in read_jsonl(run.events) if row["event"] == "probe"] == [2, 4, 6]
    for step in (2, 6):
        average = load_file(run.checkpoints / f"checkpoint-{step}" / "average.safetensors")
        assert torch.equal(PROBED[step // 2 - 1], average[NORM])


@pytest.fixture
def again(stopped, tmp_path):
    """A copy of that run, its weights not yet written."""
    settings, run = stopped
    shutil.copytree(run.path, tmp_path / "early")
    shutil.rmtree(tmp_path / "early" / "model")
    return change(settings, paths={"runs": str(tmp_path)}), Run(tmp_path / "early")


def test_resumed_after_it_had_stopped_it_goes_no_further(stopped, again):
    (_, whole), (settings, run) = stopped, again
    shutil.rmtree(run.path / "raw")
    events = [row for row in read_jsonl(run.events) if row["event"] in {"eval", "log"}]
    assert train_sft(settings, resume="early") == run
    for part in ("model", "raw/model"):
        assert (run.path / part / "model.safetensors").read_bytes() == (
            whole.path / part / "model.safetensors").read_bytes()
    assert run.read_json("manifest.json")["weights"] == whole.read_json("manifest.json")["weights"]
    assert [row for row in read_jsonl(run.events) if row["event"] in {"eval", "log"}] == events


def test_a_damaged_best_checkpoint_is_said_aloud(again, listener):
    settings, run = again
    (run.checkpoints / "checkpoint-2" / "average.safetensors").write_bytes(b"")
    train_sft(settings, resume="early", progress=listener)
    warning = "The last weights are kept, not the best ones of step 2: average.safetensors has 0 bytes"
    assert any(warning in message for message in listener.warnings)
    manifest = run.read_json("manifest.json")
    assert (manifest["weights"]["keep"], manifest["weights"]["step"]) == ("last", 6)
    assert any(warning in message for message in manifest["warnings"])


def test_another_run_starts_from_the_average_or_the_raw_weights(stopped):
    settings, run = stopped
    short = change(settings, model={"scratch": False, "options": {}},
                   train={**STOPPING, "max_steps": 1, "tuning": "full", "learning_rate": 1e-12, "ema": 0.0,
                          "early_stopping": 0, "balance": "none", "closed_share": None})
    for kind, folder in (("kept", run.weights), ("raw", run.path / "raw" / "model")):
        second = train_sft(short, name=kind, init_from="early", init_weights=kind)
        manifest = second.read_json("manifest.json")
        assert (manifest["init_from"], manifest["init_weights"]) == ("early", kind)
        first, now = read_weights(folder), read_weights(second.weights)
        assert all(torch.allclose(first[name], now[name], atol=1e-7) for name in first)
    assert find_weights(run, "average") == run.weights
    second.update_manifest(weights={"keep": "last"})
    assert find_weights(second, "raw") == second.weights
    with pytest.raises(RunError, match="Run 'raw' has no average of its weights: it was trained without --ema") as seen:
        train_sft(short, init_from="raw", init_weights="average", dry_run=True)
    assert seen.value.hint == "Start from the weights it has: --init-from raw."


def test_weights_of_no_run_or_no_kind_are_refused(stopped):
    settings, _ = stopped
    with pytest.raises(SettingsError, match="--init-weights is 'ema'"):
        train_sft(settings, init_from="early", init_weights="ema", dry_run=True)
    with pytest.raises(SettingsError, match="--init-weights raw names no run"):
        train_sft(settings, init_weights="raw", dry_run=True)


@pytest.mark.parametrize(("train", "probes", "error", "message"), [
    ({"early_stopping": 2}, 4, DataError, "best_metric is 'eval_loss', but there are no validation questions"),
    ({"keep": "best", "best_metric": "probe_accuracy"}, 0, SettingsError, "but tracking.probe_questions is 0"),
    ({"closed_share": 0.5}, 4, SettingsError, "does not go with a mixture that has mandatory groups"),
])
def test_what_cannot_be_aimed_at_is_refused(trained, train, probes, error, message):
    settings = change(trained[0], train=train, tracking={"probe_questions": probes})
    with pytest.raises(error, match=message):
        check_objective(settings, TrainingData([], [], block=4))


def test_a_wrong_group_names_the_fields(trained):
    with pytest.raises(SettingsError, match="loss_weights names 'colour=red', which is no FIELD=VALUE"):
        change(trained[0], train={"loss_weights": {"colour=red": 2.0}})
    with pytest.raises(SettingsError, match=r"'train.loss_weights.answer_type=open' is 0"):
        change(trained[0], train=json.loads('{"loss_weights": {"answer_type=open": 0}}'))

"""Training writes a run that can be reopened, resumed and continued; what cannot work leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from medvqa_cli.errors import DataError, ModelError, RunError, SettingsError
from medvqa_cli.records import read_jsonl
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.train import train_sft
from tests.models.original_llava_med import write_original
from tests.workflows.conftest import merge


def change(settings, **sections):
    return make_settings(merge(settings.model_dump(mode="json"), **sections))


def test_the_run_folder(trained):
    settings, run = trained
    assert make_settings(run.read_json("settings.json")) == settings
    manifest = run.read_json("manifest.json")
    assert manifest["model"]["family"] == "llava"
    assert manifest["packed"] is True
    assert manifest["steps"] == 12
    assert manifest["data"]["train_questions"] == 80
    assert manifest["packages"]["torch"] == torch.__version__
    assert run.weights.name == "model"
    losses = [event["loss"] for event in read_jsonl(run.events) if event["event"] == "log"]
    assert len(losses) == 3
    assert losses[-1] < losses[0]


def test_equal_seeds_train_equal_weights(trained, tmp_path):
    settings, run = trained
    again = train_sft(change(settings, paths={"runs": str(tmp_path)}), name="again")
    assert (again.weights / "model.safetensors").read_bytes() == (run.weights / "model.safetensors").read_bytes()


def test_lora_on_a_checkpoint_and_going_on_from_it(trained, tmp_path):
    from medvqa_cli.progress import SILENT
    from medvqa_cli.workflows.models import open_run_model

    settings, run = trained
    tuned = change(settings, paths={"runs": str(tmp_path)}, train={"max_steps": 3, "eval_fraction": 0.0},
                   model={"name": str(run.weights), "scratch": False, "options": {}})
    first = train_sft(tuned, name="lora")
    assert first.weights.name == "adapter"
    second = train_sft(tuned, name="more", init_from="lora")
    assert second.weights.name == "adapter"
    assert second.read_json("manifest.json")["init_from"] == "lora"
    models = [open_run_model(item, tuned, SILENT).model for item in (first, second)]
    weights = [{n: p for n, p in model.named_parameters() if "lora_B" in n} for model in models]
    assert all(value.abs().max() > 0 for value in weights[0].values())
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_an_unreachable_model_leaves_no_run(trained, tmp_path):
    settings, _ = trained
    wanted = change(settings, paths={"runs": str(tmp_path)},
                    model={"name": "llava-med", "scratch": False, "options": {}})
    with pytest.raises(ModelError, match="microsoft/llava-med-v1.5-mistral-7b"):
        train_sft(wanted)
    assert list(tmp_path.iterdir()) == []


def test_a_run_keeps_no_weights_that_are_not_finite(trained, tmp_path):
    settings, _ = trained
    wanted = change(settings, paths={"runs": str(tmp_path)},
                    train={"max_steps": 3, "learning_rate": 1e30, "warmup": 0.0, "eval_fraction": 0.0,
                           "save_fraction": 0.0})
    with pytest.raises(ModelError, match="The training has diverged at step 2 of 3"):
        train_sft(wanted, name="lost")
    assert {path.name for path in (tmp_path / "lost").iterdir()} & {"model", "adapter"} == set()


def test_adapters_of_a_model_that_is_trained_in_full_are_refused(trained, tmp_path, listener):
    settings, _ = trained
    asked = {"lora": {"r": 8, "targets": ["attention"]}, "max_steps": 1, "eval_fraction": 0.0}
    wanted = change(settings, paths={"runs": str(tmp_path)}, tracking={"probe_questions": 0}, train=asked)
    for dry_run in (True, False):
        with pytest.raises(SettingsError, match=r"train.lora.r, train.lora.targets shapes adapters, but a model from "
                                                "scratch is trained in full") as caught:
            train_sft(wanted, dry_run=dry_run)
    assert caught.value.hint.startswith("Add --tuning lora")
    assert list(tmp_path.iterdir()) == []
    assert train_sft(change(wanted, train={"tuning": "lora"})).weights.name == "adapter"
    assert train_sft(change(wanted, train={"tuning": "full"}), progress=listener).weights.name == "model"
    assert "Everything is trained (train.tuning 'full'), so train.lora.r, train.lora.targets idles." in listener.said


@pytest.mark.parametrize(("recorded", "rates"), [
    pytest.param(True, [0.0, 0.5, 1.0], marks=pytest.mark.slow), (False, [1.0, 1.0, 1.0])])
def test_a_constant_rate_warms_up_unless_the_run_began_before_it_did(trained, tmp_path, recorded, rates):
    settings, _ = trained
    wanted = change(settings, paths={"runs": str(tmp_path)}, tracking={"probe_questions": 0},
                    train={"scheduler": "constant", "warmup": 0.6, "max_steps": 3, "log_steps": 1,
                           "eval_fraction": 0.0})
    run = train_sft(wanted, name="constant")
    manifest = run.read_json("manifest.json")
    assert manifest["schedule"] == "constant_with_warmup"
    run.weights.rename(run.path / "gone")
    run.checkpoints.rename(run.path / "lost")
    if not recorded:
        del manifest["schedule"]
        run.manifest.write_text(json.dumps(manifest), encoding="utf-8")
    train_sft(wanted, resume="constant")
    found = [event["learning_rate"] for event in read_jsonl(run.events) if event["event"] == "log"]
    assert found == pytest.approx([rate * wanted.train.learning_rate for rate in rates])


@pytest.mark.parametrize("tuning", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_16_bit_model_is_trained_in_float32_and_saved_as_it_was(trained, tmp_path, tuning):
    """Stopped and resumed, it ends with the same weights: checkpoints hold the masters."""
    settings, run = trained
    tuned = change(settings, paths={"runs": str(tmp_path)},
                   model={"name": str(run.weights), "scratch": False, "options": {}, "dtype": "bfloat16"},
                   train={"tuning": tuning, "tune_projector": tuning == "lora", "max_steps": 4, "save_fraction": 0.5,
                          "eval_fraction": 0.5, "learning_rate": 1e-4, "ema": 0.5 if tuning == "full" else 0.0})
    first = train_sft(tuned, name="first")
    manifest = first.read_json("manifest.json")
    assert (manifest["model"]["dtype"], manifest["packed"]) == ("bfloat16", True)
    name = "model.safetensors" if tuning == "full" else "adapter_model.safetensors"
    kept = load_file(first.weights / name)
    masters = load_file(first.checkpoints / "checkpoint-2" / name)
    halves = {weight: tensor for weight, tensor in kept.items() if "lora_" not in weight}
    assert halves
    assert {tensor.dtype for tensor in halves.values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in masters.values()} == {torch.float32}
    if tuning == "full":
        assert json.loads((first.weights / "config.json").read_text())["dtype"] == "bfloat16"
    first.weights.rename(first.path / "gone")
    shutil.rmtree(first.checkpoints / "checkpoint-4")
    again = load_file(train_sft(tuned, resume="first").weights / name)
    assert all(tensor.equal(again[weight]) for weight, tensor in kept.items())


def test_a_dry_run_writes_nothing(trained, tmp_path):
    settings, _ = trained
    train_sft(change(settings, paths={"runs": str(tmp_path / "runs")}), dry_run=True)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("model", "error", "message"), [
    ({"name": None, "scratch": False, "options": {}}, ModelError, "No model is named"),
    ({"name": "lava", "scratch": False, "options": {}}, ModelError, "Did you mean 'llava'"),
    ({"options": {"depth": 3}}, SettingsError, "Unknown setting 'model.options.depth'"),
    ({"options": {"image_size": 25, "patch_size": 12}}, SettingsError, "do not fit together"),
])
def test_a_wrong_model_is_one_error(trained, tmp_path, model, error, message):
    settings, _ = trained
    tree = settings.model_dump(mode="json")
    tree["model"] = {**tree["model"], **model}
    tree["paths"]["runs"] = str(tmp_path)
    with pytest.raises(error, match=message):
        train_sft(make_settings(tree))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_an_original_llava_med_checkpoint_is_trained_as_it_is(trained, tmp_path, tuning):
    from medvqa_cli.progress import SILENT
    from medvqa_cli.workflows.models import open_run_model

    settings, _ = trained
    folder = tmp_path / "llava-med-v1.5"
    write_original(folder)
    wanted = change(settings, aliases={"models": {"llava-med": str(folder)}}, paths={"runs": str(tmp_path / "runs")},
                    model={"name": "llava-med", "scratch": False, "options": {}},
                    train={"tuning": tuning, "max_steps": 2})
    run = train_sft(wanted)
    model = run.read_json("manifest.json")["model"]
    assert (model["family"], model["checkpoint"]) == ("llava_med", str(folder))
    loaded = open_run_model(run, wanted, SILENT)
    assert loaded.family_name == ("llava_med" if tuning == "lora" else "llava"), "a saved model has the new layout"
    assert loaded.tokenizer.convert_tokens_to_ids("<image>") == loaded.model.config.image_token_index
    assert "model.safetensors" in {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_the_line_of_the_card_trains_a_remapped_checkpoint(real_data, trained, tmp_path, dtype):
    """`medvqa train sft --model llava-med --dataset slake`, the alias pointing at a tiny checkpoint."""
    _, run = trained
    config = tmp_path / "config.toml"
    config.write_text(f'[aliases.models]\nllava-med = "{run.weights}"\n[aliases.roots]\nslake = "{real_data}/slake"\n',
                      encoding="utf-8")
    process = start(["train", "sft", "--model", "llava-med", "--dataset", "slake", "--config", str(config), "--limit",
                     "12", "--max-steps", "2", "--device", "cpu", "--dtype", dtype], tmp_path)
    _, messages = process.communicate(timeout=120)
    assert process.returncode == 0, messages
    made = tmp_path / "runs" / "slake-llava-med"
    assert (made / "adapter" / "adapter_model.safetensors").is_file()
    manifest = json.loads((made / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["model"]["dtype"] == dtype
    assert manifest["packed"] is True
    assert manifest["parameters"]["language model"][0] > 0


def test_resume_of_unknown_finished_and_changed_runs(own_run, listener):
    settings, run = own_run
    with pytest.raises(RunError, match="no run 'none'"):
        train_sft(settings, resume="none")
    assert train_sft(settings, resume="small", progress=listener) == run
    assert "nothing to resume" in listener.said[-1]
    run.update_manifest(data={"fingerprint": "other"})
    run.weights.rename(run.path / "gone")
    with pytest.raises(DataError, match="have changed since"):
        train_sft(settings, resume="small")


def start(arguments, home):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen([sys.executable, "-m", "medvqa_cli", *arguments], cwd=home, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(path, event, process, seconds=90):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and f'"event": "{event}"' in path.read_text(encoding="utf-8"):
            return
        time.sleep(0.05)
    pytest.fail(f"no {event!r} event: {process.communicate(timeout=10)}")


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_stopped_or_killed_training_resumes_to_the_same_weights(trained, tmp_path, number):
    """Ctrl-C writes a checkpoint and exits with 130; a kill leaves the last one. Both end where the whole run ends."""
    settings, _ = trained
    steps = 60
    whole = change(settings, paths={"runs": str(tmp_path / "runs")},
                   train={"max_steps": steps, "save_fraction": 0.2, "log_steps": 10, "eval_fraction": 0.0})
    config = tmp_path / "config.json"
    config.write_text(whole.model_dump_json(), encoding="utf-8")
    process = start(["train", "sft", "--config", str(config), "--name", "stopped"], tmp_path)
    events = tmp_path / "runs" / "stopped" / "events.jsonl"
    wait_for(events, "checkpoint", process)
    process.send_signal(number)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -9), messages
    assert "Traceback" not in messages
    if number == signal.SIGINT:
        assert "--resume stopped" in messages
    assert not (tmp_path / "runs" / "stopped" / "model").exists()
    resumed = train_sft(whole, resume="stopped")
    uninterrupted = train_sft(whole, name="whole")
    assert resumed.read_json("manifest.json")["steps"] == steps
    first, second = ((run.weights / "model.safetensors").read_bytes() for run in (resumed, uninterrupted))
    assert first == second

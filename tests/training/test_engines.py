"""FSDP and DeepSpeed for real, in two gloo processes on a CPU: the losses of a plain training, and exact resume."""

from __future__ import annotations

import json
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from safetensors.torch import load

from tests.training.processes import list_losses, read_events, read_weights, start_team, write_config

EXAMPLES = Path(__file__).parents[2] / "examples"
LORA = {"max_steps": 8, "log_steps": 1, "eval_fraction": 0.5, "save_fraction": 0.25, "tuning": "lora",
        "lora": {"dropout": 0.1}, "batch_size": 1}
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs the extra [deepspeed]")
ENGINES = [pytest.param({"fsdp": "fsdp/fsdp2.json"}, id="fsdp"),
           pytest.param({"deepspeed": "deepspeed/zero2.json"}, id="zero2", marks=needs_deepspeed),
           pytest.param({"deepspeed": "deepspeed/zero3.json"}, id="zero3", marks=needs_deepspeed)]


def train(home, name, kill_after=0, **settings):
    config = write_config(home, **{**LORA, **settings})
    words = ["--config", str(config), "--name", name]
    team, run = start_team(home, "train", "sft", *words), home / "runs" / name
    while kill_after and team[0].is_alive() and not any(row.get("step", 0) >= kill_after for row in read_events(run)):
        time.sleep(0.005)
    for process in team:
        if kill_after:
            process.kill()
        process.join(400)  # DeepSpeed compiles an operator at first
    messages = (home / "messages").read_text(encoding="utf-8")
    assert [process.exitcode for process in team] == ([-9, -9] if kill_after else [0, 0]), messages
    return messages


def resume(home, name):
    team = start_team(home, "train", "sft", "--resume", name, "--runs-dir", "runs", "--prepared-dir", "prepared")
    for process in team:
        process.join(400)  # DeepSpeed compiles an operator at first
    messages = (home / "messages").read_text(encoding="utf-8")
    assert [process.exitcode for process in team] == [0, 0], messages
    return messages


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_trains_as_plain_processes_do_and_resumes(tmp_path, engine, tuning):
    if tuning == "full" and "zero3" in str(engine):
        pytest.skip("refused: see test_sharding.py")
    chosen = {key: str(EXAMPLES / name) for key, name in engine.items()}
    train(tmp_path, "plain", tuning=tuning)
    train(tmp_path, "whole", tuning=tuning, **chosen)
    train(tmp_path, "killed", kill_after=5, tuning=tuning, **chosen)
    assert "Resuming from checkpoint-4" in resume(tmp_path, "killed")
    runs = [tmp_path / "runs" / name for name in ("plain", "whole", "killed")]
    plain, whole, killed = (list_losses(run) for run in runs)
    assert [row[:2] for row in plain] == [row[:2] for row in whole]
    assert [row[2] for row in whole] == pytest.approx([row[2] for row in plain], rel=1e-6)
    assert killed == whole
    first, second, third = (load(read_weights(run)) for run in runs)
    assert first.keys() == second.keys() == third.keys()
    for name, weight in second.items():
        assert (weight - first[name]).abs().max() < 1e-5, name
        assert weight.equal(third[name]), name
    asked = [[(row["step"], row["metrics"]) for row in read_events(run) if row["event"] == "probe"] for run in runs]
    assert asked[0]
    assert asked[1:] == [asked[0] if engine.get("deepspeed") == "deepspeed/zero2.json" else []] * 2
    kept = json.loads((runs[1] / f"{next(iter(engine))}.json").read_text(encoding="utf-8"))
    assert kept == json.loads(Path(next(iter(chosen.values()))).read_text(encoding="utf-8"))

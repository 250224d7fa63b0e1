"""A training killed at any moment, by SIGKILL, goes on to the very losses and weights of the uninterrupted one."""

from __future__ import annotations

import json
import random

import pytest

from medvqa_cli.records import read_jsonl, write_jsonl
from medvqa_cli.training.checkpoints import (
    drop_events,
    find_last_checkpoint,
    list_checkpoints,
    publish_checkpoint,
    rotate_checkpoints,
)
from tests.training.processes import finish, kill_at_step, list_losses, read_events, read_weights, start, write_config
from tests.training.test_sft import Recorder

WAYS = {
    "full": {"max_steps": 40, "log_steps": 3, "save_fraction": 0.125, "eval_fraction": 0.25},
    "lora": {"max_steps": 40, "log_steps": 3, "save_fraction": 0.125, "eval_fraction": 0.25, "tuning": "lora",
             "lora": {"dropout": 0.2}, "gradient_accumulation": 2, "workers": 1, "ema": 0.9, "keep": "best",
             "balance": "answer_type", "closed_share": 0.5},
}
SHORT = {"max_steps": 6, "log_steps": 1, "save_fraction": 0.34, "eval_fraction": 0.0}


def train(home, name, fault=None, code=0):
    process = start(home, "train", "sft", "--config", str(home / "config.json"), "--name", name, fault=fault)
    return finish(process, home, code)


def resume(home, name, code=0):
    return finish(start(home, "train", "sft", "--resume", name, "--runs-dir", "runs", "--prepared-dir", "prepared"),
                  home, code)


def check_equal(home, name, *, others="whole"):
    runs = home / "runs"
    assert list_losses(runs / name) == list_losses(runs / others)
    steps = [row["step"] for row in read_events(runs / name) if row["event"] == "log"]
    assert len(steps) == len(set(steps))
    assert read_weights(runs / name) == read_weights(runs / others)
    kept, wanted = (json.loads((runs / run / "manifest.json").read_text())["weights"] for run in (name, others))
    assert kept == wanted
    assert [path.read_bytes() for path in sorted((runs / name / "raw").rglob("*.safetensors"))] == [
        path.read_bytes() for path in sorted((runs / others / "raw").rglob("*.safetensors"))]
    assert (runs / name / "raw").exists() == ("ema" in kept)


@pytest.fixture(scope="module", params=list(WAYS))
def way(request, tmp_path_factory):
    """A folder with an uninterrupted run."""
    home = tmp_path_factory.mktemp(request.param)
    write_config(home, **WAYS[request.param])
    train(home, "whole")
    return home


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A folder with an uninterrupted run of few steps."""
    home = tmp_path_factory.mktemp("short")
    write_config(home, **SHORT)
    train(home, "whole")
    return home


def kill_and_resume(home, name, seed, kills):
    draw = random.Random(seed)
    process = start(home, "train", "sft", "--config", str(home / "config.json"), "--name", name)
    for step in sorted(draw.sample(range(3, 39), kills)):
        kill_at_step(process, home / "runs" / name, step, draw)
        assert process.exitcode == -9
        process = start(home, "train", "sft", "--resume", name, "--runs-dir", "runs", "--prepared-dir", "prepared")
    finish(process, home)
    check_equal(home, name)


def test_killed_at_a_random_step(way):
    kill_and_resume(way, "killed", seed=1, kills=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_ten_random_steps_of_each_way(way, seed):
    kill_and_resume(way, f"killed-{seed}", seed=100 + seed, kills=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_again_and_again(way, seed):
    kill_and_resume(way, f"often-{seed}", seed=200 + seed, kills=4)


@pytest.mark.parametrize(("fault", "start_step"), [
    pytest.param(("write", 2), 0, marks=pytest.mark.slow),  # the first checkpoint's schedule is not there yet
    pytest.param(("rename", 1), 0, marks=pytest.mark.slow),  # the first checkpoint is whole, but has no name yet
    (("write", 5), 2),  # in the second checkpoint
    pytest.param(("sync", 14), 0, marks=pytest.mark.slow),
    pytest.param(("delete", 3), 4, marks=pytest.mark.slow),
])
def test_killed_while_writing_a_checkpoint(short, fault, start_step):
    name = "-".join(map(str, fault))
    train(short, name, fault, code=-9)
    messages = resume(short, name)
    assert ("Resuming" in messages) == (f"Resuming from checkpoint-{start_step}\n" in messages) == (start_step > 0)
    assert "Skipping" not in messages, "what is not whole has no name"
    check_equal(short, name)


def test_killed_while_writing_the_final_model(short):
    train(short, "unnamed", ("rename", 5), code=-9)
    assert not (short / "runs" / "unnamed" / "model").exists()
    assert (short / "runs" / "unnamed" / "model.part").exists()
    assert "Resuming from checkpoint-6" in resume(short, "unnamed")
    check_equal(short, "unnamed")
    assert "nothing to resume" in resume(short, "unnamed")
    check_equal(short, "unnamed")


@pytest.fixture
def checkpoints(tmp_path):
    """Three checkpoints as a training writes them, their contents made up."""
    for step in (2, 4, 6):
        part = tmp_path / ".part" / f"checkpoint-{step}"
        part.mkdir(parents=True)
        for name in ("optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth", "adapter.safetensors"):
            (part / name).write_bytes(bytes(100))
        publish_checkpoint(part, tmp_path / part.name)
    return tmp_path


@pytest.mark.parametrize(("name", "content", "message"), [
    ("optimizer.pt", bytes(60), "optimizer.pt has 60 bytes, 100 were written"),
    ("adapter.safetensors", bytes(101), "adapter.safetensors has 101 bytes, 100 were written"),
    ("adapter.safetensors", bytes(99) + b"x",
     "adapter.safetensors holds something else than was written (its checksum differs)"),
    ("rng_state.pth", None, "rng_state.pth is missing"),
    ("files.json", None, "it was not written to the end (files.json is missing or damaged)"),
    ("files.json", b"{", "it was not written to the end (files.json is missing or damaged)"),
    ("files.json", b"{}", "optimizer.pt is missing"),
    ("files.json", b"[1]", "it was not written to the end (files.json is missing or damaged)"),
])
def test_a_damaged_checkpoint_is_put_aside_with_a_message(checkpoints, name, content, message):
    path = checkpoints / "checkpoint-6" / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    watch = Recorder()
    assert find_last_checkpoint(checkpoints, watch).name == "checkpoint-4"
    assert watch.lines == [f"Skipping checkpoint-6: {message}.", "Resuming from checkpoint-4"]
    assert (checkpoints / "checkpoint-6.damaged").is_dir()
    rotate_checkpoints(checkpoints, 2)
    assert [path.name for path in list_checkpoints(checkpoints)] == ["checkpoint-4", "checkpoint-2"]
    assert not (checkpoints / "checkpoint-6.damaged").exists()


def test_a_checkpoint_of_a_version_that_knew_no_checksums_is_whole(checkpoints):
    listing = checkpoints / "checkpoint-6" / "files.json"
    sizes = {name: size for name, (size, _) in json.loads(listing.read_text()).items()}
    listing.write_text(json.dumps(sizes))
    assert find_last_checkpoint(checkpoints, Recorder()).name == "checkpoint-6"
    (checkpoints / "checkpoint-6" / "scheduler.pt").write_bytes(bytes(99))
    assert find_last_checkpoint(checkpoints, Recorder()).name == "checkpoint-4"


def test_no_checkpoint_is_whole(checkpoints):
    for step in (2, 4, 6):
        (checkpoints / f"checkpoint-{step}" / "scheduler.pt").unlink()
    assert find_last_checkpoint(checkpoints, Recorder()) is None
    assert find_last_checkpoint(checkpoints / "none", Recorder()) is None


def test_only_the_newest_checkpoints_are_kept(checkpoints):
    rotate_checkpoints(checkpoints, 1)
    assert [path.name for path in list_checkpoints(checkpoints)] == ["checkpoint-6"]


def test_events_of_steps_to_be_done_again_are_dropped(tmp_path):
    path = tmp_path / "events.jsonl"
    drop_events(path, after=0)
    assert not path.exists()
    rows = [{"event": "start", "step": 0}, {"event": "note"}, {"event": "log", "step": 4}, {"event": "log", "step": 5}]
    write_jsonl(path, rows)
    drop_events(path, after=4)
    assert list(read_jsonl(path)) == rows[:3]

"""Two processes train as one does with twice the accumulation; one of them writes and speaks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load

from medvqa_cli.cli.terminal import Terminal
from medvqa_cli.errors import DataError, RunError, SettingsError
from medvqa_cli.training import processes
from medvqa_cli.workflows.launch import _explain_failure, count_wanted
from tests.training.processes import (
    TREE,
    finish,
    list_losses,
    read_events,
    read_weights,
    start,
    start_team,
    write_config,
)

LORA = {"max_steps": 8, "log_steps": 1, "eval_fraction": 0.5, "save_fraction": 0.25, "tuning": "lora",
        "lora": {"dropout": 0.0}, "batch_size": 1}
FULL = {**LORA, "tuning": "full", "gradient_checkpointing": True}


def train_alone(home, name, **settings):
    config = write_config(home, **settings)
    finish(start(home, "train", "sft", "--config", str(config), "--name", name), home)


def finish_team(team, home, code=0):
    for process in reversed(team):
        process.join(120)
    quiet = (home / "messages-1").read_text(encoding="utf-8")
    print(quiet)  # shown if the test fails
    return finish(team[0], home, code), quiet


def train_together(home, name, **settings):
    config = write_config(home, **settings)
    team = start_team(home, "train", "sft", "--config", str(config), "--name", name)
    return finish_team(team, home)


def compare(home, first, second):
    runs = home / "runs"
    left, right = list_losses(runs / first), list_losses(runs / second)
    assert [row[:2] for row in left] == [row[:2] for row in right]
    assert [row[2] for row in left] == pytest.approx([row[2] for row in right], rel=1e-6)
    left, right = load(read_weights(runs / first)), load(read_weights(runs / second))
    assert left.keys() == right.keys()
    return max((left[name] - right[name]).abs().max().item() for name in left)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.mark.parametrize("settings", [LORA, pytest.param(FULL, marks=pytest.mark.slow)], ids=["lora", "full"])
def test_two_processes_equal_one_with_twice_the_accumulation(home, settings):
    name = settings["tuning"]
    train_alone(home, f"{name}-alone", **settings, gradient_accumulation=2)
    messages, quiet = train_together(home, f"{name}-two", **settings, gradient_accumulation=1)
    assert f"Trained: {home}/runs/{name}-two" in messages
    assert quiet == ""
    assert [path.name for path in (home / "runs").glob(f"{name}-two*")] == [f"{name}-two"]
    assert compare(home, f"{name}-alone", f"{name}-two") < 1e-6
    adapter = load(read_weights(home / "runs" / f"{name}-two"))
    assert all(torch.isfinite(value).all() for value in adapter.values())
    assert json.loads((home / "runs" / f"{name}-two" / "manifest.json").read_text())["processes"] == 2


@pytest.mark.slow
def test_two_processes_keep_the_weights_that_one_keeps(home):
    """Averaged, weighted, drawn and chosen by what only the main process measures."""
    settings = {**LORA, "ema": 0.8, "balance": "answer_type", "closed_share": 0.5, "best_metric": "probe_accuracy",
                "early_stopping": 3, "min_delta": 0.01, "max_steps": 16}
    train_alone(home, "one-kept", **settings, gradient_accumulation=2)
    train_together(home, "two-kept", **settings, gradient_accumulation=1)
    assert compare(home, "one-kept", "two-kept") < 1e-6
    kept = [json.loads((home / "runs" / name / "manifest.json").read_text())["weights"] for name in (
        "one-kept", "two-kept")]
    assert kept[0] == kept[1]
    assert kept[0]["keep"] == "best"


def resume_together(home, name):
    return start_team(home, "train", "sft", "--resume", name, "--runs-dir", "runs", "--prepared-dir", "prepared")


@pytest.mark.slow
def test_two_processes_stop_together_and_resume(home):
    """Ctrl-C reaches only the second one: both stop after the same step, and both go on."""
    settings = {**LORA, "max_steps": 30, "lora": {"dropout": 0.1}, "save_fraction": 0.0, "log_steps": 4}
    train_together(home, "unstopped", **settings)
    team = start_team(home, "train", "sft", "--config", str(write_config(home, **settings)), "--name", "stopped")
    run = home / "runs" / "stopped"
    while team[0].is_alive() and not any(row["event"] == "log" for row in read_events(run)):
        time.sleep(0.01)
    os.kill(team[1].pid, signal.SIGINT)
    messages, quiet = finish_team(team, home, 130)
    assert "Continue with: medvqa train sft --resume stopped" in messages
    assert quiet == ""
    alone = finish(start(home, "train", "sft", "--resume", "stopped", "--runs-dir", "runs", "--prepared-dir",
                         "prepared"), home, 7)
    assert "was begun with 2 processes, and this is 1" in alone
    assert "--resume stopped --num-processes 2" in alone
    finish_team(resume_together(home, "stopped"), home)
    assert list_losses(run) == list_losses(home / "runs" / "unstopped")
    assert read_weights(run) == read_weights(home / "runs" / "unstopped")


def test_what_is_wrong_is_said_once(home):
    messages, quiet = finish_team(resume_together(home, "none"), home, 7)
    assert messages.startswith("error: There is no run 'none'")
    assert quiet == ""


@pytest.mark.slow
def test_a_killed_process_ends_the_others_with_a_word(home):
    config = write_config(home, **{**LORA, "save_fraction": 0.0})
    team = start_team(home, "train", "sft", "--config", str(config), "--name", "parted")
    run = home / "runs" / "parted"
    while team[0].is_alive() and not read_events(run):
        time.sleep(0.01)
    team[1].kill()
    messages, _ = finish_team(team, home, 7)
    assert "error: Another process of this training has ended; its message says why." in messages
    assert "medvqa train sft --resume parted --num-processes 2" in messages


def run_command(home, *arguments, module=("medvqa_cli",)):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", *module, *arguments], cwd=home, env=environment, text=True,
                          capture_output=True, timeout=240, check=False)


@pytest.mark.parametrize("module", [("medvqa_cli",), pytest.param(
    ("torch.distributed.run", "--nproc-per-node", "2", "-m", "medvqa_cli"), marks=pytest.mark.slow)],
    ids=["medvqa", "torchrun"])
def test_a_launcher_starts_them(home, module):
    """Accelerate starts several processes on GPUs through the same torchrun; on a CPU it starts one."""
    name = module[0].split(".")[0]
    config = write_config(home, **{**LORA, "max_steps": 2})
    count = ["--num-processes", "2"] if module == ("medvqa_cli",) else []
    done = run_command(home, "train", "sft", "--config", str(config), "--name", name, *count, "--json", module=module)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == name
    assert done.stderr.count("Run: ") == 1
    assert json.loads((home / "runs" / name / "manifest.json").read_text())["processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(("train", "code", "message"), [
    ({"pack_length": 8}, 4, "a pack holds 8 (train.pack_length)"),
    ({"vision_cache": "memory"}, 2, "is trained: what the vision tower")], ids=["too-long", "vision-cache"])
def test_what_is_refused_is_said_once_and_leaves_no_run(home, train, code, message):
    team = start_team(home, "train", "sft", "--config", str(write_config(home, **train)), "--name", "refused")
    messages, quiet = finish_team(team, home, code)
    assert message in messages
    assert quiet == ""
    assert not list((home / "runs").glob("refused*"))


@pytest.mark.parametrize(("main", "refused", "end"), [
    (True, (True, True), DataError), (True, (True, False), DataError), (True, (False, True), SystemExit),
    (False, (True, True), SystemExit), (False, (True, False), SystemExit), (False, (False, True), DataError)])
def test_what_is_refused_anywhere_ends_all_and_one_says_why(monkeypatch, main, refused, end):
    def act():
        if refused[0 if main else 1]:
            raise DataError("It is refused.")

    monkeypatch.setattr(processes, "is_main", lambda: main)
    monkeypatch.setattr(processes, "tell", lambda value: refused[0])
    monkeypatch.setattr(processes, "agree", lambda wish: any(refused))
    with pytest.raises(end):
        processes.together(act)
    refused = (False, False)
    assert processes.together(lambda: 7) == 7


@pytest.mark.slow
def test_an_error_of_all_ends_with_its_code(home):
    config = home / "wrong.json"
    config.write_text(json.dumps({**TREE, "data": {"dataset": "no-such-set"}}), encoding="utf-8")
    done = run_command(home, "train", "sft", "--config", str(config), "--num-processes", "2")
    assert done.returncode == 3
    assert done.stderr.count("error: ") == 1


def test_how_many_processes_are_wanted(monkeypatch):
    assert count_wanted(0, None) == count_wanted(1, "0,1") == count_wanted(0, "3") == 1
    assert count_wanted(4, None) == 4
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(SettingsError, match="--gpu 0,1,2,3 starts 4 processes, one a GPU, but"):
        count_wanted(0, "0,1,2,3")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert count_wanted(0, "0,1,2,3") == 4
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert count_wanted(0, "0,1,2,3") == 1


def test_the_error_of_another_process_bears_its_number(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    terminal = Terminal()
    terminal.configure(quiet=False, verbose=True, json_output=True, log_file=None)
    terminal.say("one")
    terminal.say_always("two")
    terminal.warn("three")
    terminal.fail(RunError("The picture is gone.", "Look for it."))
    terminal.close()
    assert not terminal.json
    assert capsys.readouterr().err == "process 1: error: The picture is gone.\nhint: Look for it.\n"


def test_a_failure_gets_the_code_of_who_said_why():
    assert _explain_failure({1: -15, 0: 4}).code == 4
    killed = _explain_failure({1: -9})
    assert isinstance(killed, RunError)
    assert killed.message == "Process 1 was ended by signal 9; it could not say why."


VARIETY = """
from medvqa_cli.training.attempts import RewardCard


class Variety:
    card = RewardCard("Letters of a completion, each counted once.")

    def rate(self, attempts):
        return [float(len(set(attempt.text))) for attempt in attempts]


PLUGIN = Variety()
"""


def start_grpo(home, name):
    return start_team(home, "train", "grpo", "--config", str(home / "grpo.json"), "--name", name)


@pytest.mark.slow
def test_two_processes_train_by_grpo_and_go_on_after_a_kill(home):
    """Groups are drawn in both, rewards are gathered; killed and resumed they end with the very same adapter."""
    config = json.loads(write_config(home, max_steps=8, log_steps=1, save_fraction=0.25, tuning="lora").read_text())
    config["grpo"] = {"rewards": ["variety"], "num_generations": 4, "batch_size": 6, "max_completion_length": 4,
                      "learning_rate": 1e-2}
    (home / "variety.py").write_text(VARIETY)
    config["plugins"] = [str(home / "variety.py")]
    (home / "grpo.json").write_text(json.dumps(config))
    messages, quiet = finish_team(start_grpo(home, "grpo-two"), home)
    assert quiet == ""
    assert f"Trained: {home}/runs/grpo-two/adapter" in messages
    whole, killed = home / "runs" / "grpo-two", home / "runs" / "grpo-killed"
    assert json.loads((whole / "manifest.json").read_text())["processes"] == 2
    team = start_grpo(home, "grpo-killed")
    while team[0].is_alive() and not any(row.get("step", 0) >= 5 for row in read_events(killed)):
        time.sleep(0.005)
    for process in team:
        process.kill()
        process.join(60)
    assert not (killed / "adapter").exists()
    messages, quiet = finish_team(start_team(home, "train", "grpo", "--resume", "grpo-killed", "--runs-dir", "runs",
                                             "--prepared-dir", "prepared"), home)
    assert "Resuming from checkpoint-" in messages
    assert quiet == ""
    rewards = [[{key: row[key] for key in row if not key.startswith("step_time")} for row in read_events(run)
                if row["event"] == "rewards"] for run in (whole, killed)]
    assert [row["step"] for row in rewards[0]] == list(range(1, 9))
    assert all(row["reward_std"] > 0 and row["grad_norm"] > 0 for row in rewards[0])
    assert rewards[0] == rewards[1]
    assert list_losses(whole) == list_losses(killed)
    assert read_weights(whole) == read_weights(killed)

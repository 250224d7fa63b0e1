"""`medvqa train grpo`: its options become settings, and what it lacks is told with its exit code."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from medvqa_cli.runs import Run


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Replace the workflow by one that notes how it was called."""
    found = []

    def train(settings, **keywords):
        found.append((settings, keywords))
        return run

    run = Run(tmp_path / "elsewhere" / "fake")
    run.path.mkdir(parents=True)
    run.update_manifest(created="2000-01-01")
    fake = SimpleNamespace(check_trl=lambda: None, train_grpo=train)
    monkeypatch.setitem(sys.modules, "medvqa_cli.workflows.grpo", fake)
    return found


def test_options_become_settings(medvqa, calls, make_run):
    make_run("weak")
    result = medvqa("train", "grpo", "--adapter", "weak", "--dataset", "slake", "--rewards", "accuracy=3,format=1",
                    "--num-generations", "4", "--batch-size", "16", "--grad-accum", "2", "--temperature", "0.8",
                    "--beta", "0.01", "--loss-type", "grpo", "--max-completion-length", "64", "--learning-rate", "1e-5",
                    "--lora-r", "8", "--use-vllm")
    assert result.exit_code == 0, result.stderr
    settings, keywords = calls[0]
    assert keywords["init_from"] == "weak"
    group = settings.grpo
    assert group.weights == {"accuracy": 3.0, "format": 1.0}
    assert (group.num_generations, group.batch_size, group.gradient_accumulation) == (4, 16, 2)
    assert (group.temperature, group.beta, group.loss_type) == (0.8, 0.01, "grpo")
    assert (group.max_completion_length, group.learning_rate, group.use_vllm) == (64, 1e-5, True)
    assert (settings.train.lora.r, settings.train.learning_rate) == (8, 1e-4)


def test_a_resumed_run_takes_no_adapter(medvqa, calls, make_run):
    make_run("begun", trained=False)
    result = medvqa("train", "grpo", "--resume", "begun", "--adapter", "weak", "--batch-size", "8")
    assert result.exit_code == 2
    assert "--resume goes on with the run's own settings" in result.stderr
    assert "--adapter" in result.stderr
    assert calls == []


def test_without_trl_the_exit_code_is_6(medvqa, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "trl" else found(name, *rest))
    result = medvqa("train", "grpo", "--model", "llava")
    assert result.exit_code == 6
    assert "needs the package 'trl', which is not installed" in result.stderr
    assert "medvqa-cli[grpo]" in result.stderr


def test_options_of_fine_tuning_alone_are_not_offered(medvqa):
    result = medvqa("train", "grpo", "--closed-share", "0.5")
    assert result.exit_code == 2
    assert "--closed-share" in result.stderr


def test_the_commands_of_the_guide_are_there(medvqa, monkeypatch):
    from medvqa_cli import plugins

    monkeypatch.setenv("COLUMNS", "200")
    page = (Path(__file__).parents[2] / "examples" / "grpo_slake.md").read_text(encoding="utf-8")
    lines = [shlex.split(line) for fence in re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
             for line in fence.splitlines()]
    assert len(lines) == 9
    for line in lines:
        words = list(itertools.takewhile(lambda word: not word.startswith("--"), line[1:]))
        shown = medvqa(*words[:2 if words[0] in {"train", "eval", "data"} else 1], "--help").stdout
        assert [word for word in line if word.startswith("--") and word not in shown] == []
        if "--rewards" in line:
            names = [one.partition("=")[0] for one in line[line.index("--rewards") + 1].split(",")]
            assert set(names) <= set(plugins.rewards.names())
        if "train" in line and "--model" in line:
            assert plugins.models.resolve(line[line.index("--model") + 1])

"""Completion, asked for the way a shell asks."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest


@pytest.fixture
def complete(medvqa, monkeypatch):
    """Return what bash would offer for a line whose last word is being typed."""
    def ask(line: str) -> list[str]:
        words = line.split(" ")
        monkeypatch.setenv("_MEDVQA_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        result = medvqa()
        assert result.exit_code == 0, result.output
        return result.stdout.split()

    return ask


@pytest.mark.parametrize(("line", "offered"), [
    ("medvqa qu", ["quickstart"]),
    ("medvqa data ", ["list", "prepare", "analyze", "show"]),
    ("medvqa train sft --question-type ", ["all", "closed", "open"]),
    ("medvqa train sft --learning-r", ["--learning-rate"]),
    ("medvqa infer --split v", ["validation"]),
    ("medvqa models info ll", ["llava", "llava_med", "llava_next", "llava_onevision"]),
    ("medvqa train sft --model ll", ["llava", "llava_mine"]),
    ("medvqa train sft --dataset st", ["stand_in"]),
    ("medvqa data analyze st", ["stand_in"]),
    ("medvqa train sft --dataset stand-i", ["stand-in"]),
])
def test_candidates(complete, line, offered, monkeypatch, tmp_path):
    from medvqa_cli.plugins import datasets

    monkeypatch.setattr(datasets, "_loose", {"stand_in": object()})
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "config.toml").write_text('[aliases.models]\nllava_mine = "/m"\n')
    found = complete(line)
    assert [name for name in found if name in offered] == offered
    assert all(name.startswith(line.split(" ")[-1]) for name in found)


def test_runs_of_the_chosen_folder_are_offered(complete, make_run, tmp_path):
    make_run("first")
    make_run("second")
    assert complete("medvqa infer --run ") == ["second", "first"]
    assert complete("medvqa train sft --resume f") == ["first"]
    assert complete("medvqa runs show s") == ["second"]
    assert complete("medvqa infer --runs-dir nowhere --run ") == []
    (tmp_path / "runs").rename(tmp_path / "others")
    (tmp_path / "c.toml").write_text('[paths]\nruns = "others"\n')
    assert complete("medvqa infer --config c.toml --run s") == ["second"]


def test_a_broken_settings_file_does_not_break_the_tab_key(complete, tmp_path):
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "config.toml").write_text("not toml")
    assert complete("medvqa train sft --model llava_n")[0] == "llava_next"


def test_a_model_is_a_short_name_or_a_finished_run(complete, make_run):
    make_run("llava-done")
    make_run("llava-begun", trained=False)
    found = complete("medvqa infer --model llava")
    assert {"llava_next", "llava_1.5_7b", "llava-done"} <= set(found)
    assert "llava-begun" not in found


def test_the_tags_of_a_runs_answers_are_offered(complete, make_run):
    for run, tags in {"a": ("", "-blank", "-mine"), "b": ("-other",)}.items():
        path = make_run(run).path
        for tag in tags:
            (path / f"predictions{tag}.jsonl").write_text("")
            (path / f"predictions{tag}.failures.jsonl").write_text("")
    assert complete("medvqa eval answers --run a --tag ") == ["blank", "mine"]
    assert complete("medvqa infer --run a --tag m") == ["mine"]
    assert complete("medvqa infer --tag ") == ["blank", "mine", "other"]


def test_data_set_names_are_offered_to_a_real_shell(repository, tmp_path):
    """The script of --show-completion, run by bash, calls us back and offers the demo."""
    program = tmp_path / "medvqa"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m medvqa_cli "$@"\n')
    program.chmod(0o755)
    lines = ["source <(medvqa --show-completion bash)", "COMP_WORDS=(medvqa train sft --dataset de)", "COMP_CWORD=4",
             "_medvqa_completion medvqa", 'echo "${COMPREPLY[@]}"']
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(repository),
                   "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["demo"], done.stderr

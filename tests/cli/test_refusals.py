"""What would have no effect is refused, and no command offers it."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("typed", [
    ("infer", "--run", "q", "--model", "llava"), ("infer", "--run", "q", "--set", "model.name=llava"),
    ("eval", "calibration", "--run", "q", "--model", "llava"),
])
def test_a_run_and_another_model_exclude_each_other(medvqa, workflows, make_run, typed):
    make_run("q")
    result = medvqa(*typed)
    assert result.exit_code == 2
    assert result.stderr == ("error: --run q and --model llava exclude each other: the run's own model answers.\n"
                             "hint: Leave one out.\n")
    assert not workflows


@pytest.mark.parametrize("named", [("--run", "q"), ("--model", "q"), ()])
def test_what_chooses_another_model_than_the_runs_is_refused(medvqa, workflows, make_run, named):
    make_run("q")
    result = medvqa("infer", *named, "--family", "llava", "--set", "model.revision=main")
    assert result.exit_code == 2
    assert ("error: The model of run 'q' answers: --set model.revision, --family would have no effect."
            in result.stderr)
    assert not workflows


@pytest.mark.parametrize("flag", ["--init-from", "--resume-from-ema"])
def test_a_run_to_start_from_and_a_model_exclude_each_other(medvqa, workflows, make_run, flag):
    make_run("q")
    result = medvqa("train", "sft", flag, "q", "--model", "llava")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {flag} q and --model llava exclude each other: the run's own model is")
    assert not workflows


def test_two_names_of_one_thing_are_not_both_given(medvqa, make_run, monkeypatch):
    from medvqa_cli.workflows import grpo

    monkeypatch.setattr(grpo, "check_trl", lambda: None)
    result = medvqa("train", "grpo", "--adapter", "q", "--init-from", "r")
    assert result.stderr == ("error: --adapter and --init-from are two names of one thing.\nhint: Leave one out.\n")


def test_a_mixture_names_its_data_sets_itself(medvqa, workflows, tmp_path):
    (tmp_path / "m.yaml").write_text("groups: []\n")
    result = medvqa("train", "sft", "--model", "llava", "--mixture", "m.yaml", "--dataset", "slake", "--subsample", "9")
    assert result.exit_code == 2
    assert result.stderr == ("error: A mixture names its data sets itself: --dataset, --subsample would have no "
                             "effect.\nhint: Leave it out, or write it into 'm.yaml'.\n")
    assert not workflows


@pytest.mark.parametrize(("command", "flags"), [
    (("data", "prepare", "demo"), ("--language", "--question-type", "--subsample", "--limit", "--seed")),
    (("data", "mix", "m.yaml"), ("--root", "--source", "--subsample")),
    (("infer",), ("--subsample",)),
])
def test_a_command_offers_nothing_that_it_would_not_heed(medvqa, command, flags):
    shown = medvqa(*[word for word in command if "." not in word and word != "demo"], "--help").stdout.split()
    for flag in flags:
        assert flag not in shown
        result = medvqa(*command, flag, "1")
        assert result.exit_code == 2
        assert f"error: No such option: {flag}" in result.stderr

"""`medvqa train watch`: the picture, the JSON, and how a look ends."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import subprocess
import sys

import pytest

from medvqa_cli.cli import watch as command
from medvqa_cli.cli.chart import draw_chart
from medvqa_cli.cli.terminal import Terminal
from medvqa_cli.cli.watch import describe_status
from medvqa_cli.workflows.watch import TrainingStatus

PROBE = {"event": "probe", "seconds": 9.0, "step": 20, "questions": 8, "top_answer": "yes",
         "metrics": {"closed/accuracy": 0.75, "open/exact_match": 0.25, "closed/top_share": 0.5},
         "examples": [{"question": "Is there a lesion?", "answer": "yes", "gold": "yes", "correct": True},
                      {"question": "Where [bold] is it?", "answer": "left", "gold": "right", "correct": False}]}


def write_events(run, *more, steps=20):
    time = dt.datetime.now(dt.UTC).isoformat()
    events = [{"event": "start", "seconds": 0.0, "step": 0, "steps": steps, "pid": os.getpid(),
               "host": platform.node(), "time": time},
              *({"event": "log", "seconds": step / 2, "step": step, "loss": 4.0 / step, "learning_rate": 1e-4,
                 "grad_norm": 1.5} for step in range(2, 21, 2)),
              {"event": "eval", "seconds": 10.0, "step": 20, "eval_loss": 0.75},
              {"event": "checkpoint", "seconds": 10.0, "step": 20}, PROBE, *more]
    run.events.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")


def test_one_plain_picture_in_a_pipe(medvqa, make_run):
    write_events(make_run("first"))
    for arguments in (("first",), ("first", "--once"), ()):
        result = medvqa("train", "watch", *arguments)
        assert result.exit_code == 0, result.stderr
        lines = result.stdout.splitlines()
        assert lines[0] == "first: finished"
        assert lines[1] == "█" * 30 + " 20/20 steps (100%)"
        assert lines[2] == "9.0 s since the start, 2.22 steps/s"
        assert lines[3] == ("loss 0.2, validation loss 0.75 (best 0.75 at step 20), learning rate 0.0001, "
                            "gradient norm 1.5")
        assert "loss by step (• training, o validation)" in lines
        assert ("probes at step 20 (8 questions): closed right 75%, open exact 25%, most frequent closed answer 'yes' "
                "50%") in lines
        assert "  + Is there a lesion? -> 'yes' (gold 'yes')" in lines
        assert "  - Where [bold] is it? -> 'left' (gold 'right')" in lines
        assert "last checkpoint: step 20" in lines
        assert "\x1b" not in result.stdout


def test_json(document, make_run):
    write_events(make_run("first"), {"event": "log", "seconds": 11.0, "step": 20, "loss": float("nan")})
    status = document("train", "watch", "first")
    assert (status["state"], status["step"], status["steps"], status["checkpoint"]) == ("finished", 20, 20, 20)
    assert status["losses"][0] == [2, 2.0]
    assert status["losses"][-1] == [20, None]
    assert status["probe"]["metrics"]["closed/accuracy"] == 0.75


def test_warnings_and_how_to_go_on(medvqa, make_run):
    run = make_run("first", trained=False)
    write_events(run, {"event": "warning", "seconds": 9.0, "step": 20, "message": "The model has collapsed."},
                 {"event": "end", "seconds": 9.5, "step": 20}, steps=40)
    run.update_manifest(method="grpo", processes=2)
    output = medvqa("train", "watch", "first").stdout
    assert output.startswith("first: stopped before its last step\n" + "█" * 15 + "░" * 15 + " 20/40 steps (50%)")
    assert "warning: The model has collapsed." in output
    assert "Continue with: medvqa train grpo --resume first --num-processes 2" in output


def test_runs_without_a_training(medvqa, make_run):
    make_run("answers", trained=False).manifest.write_text("{}", encoding="utf-8")
    result = medvqa("train", "watch", "answers")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["answers: no training",
                                          "It has no events of a training: it may hold answers alone."]
    make_run("young", trained=False)
    assert medvqa("train", "watch", "young").stdout == "young: loading; training has not begun\n"
    unknown = medvqa("train", "watch", "nothing")
    assert unknown.exit_code == 7
    assert "There is no run 'nothing'" in unknown.stderr


@pytest.fixture
def drawn(monkeypatch):
    """A terminal that draws, and no waiting."""
    monkeypatch.setattr(Terminal, "draws", property(lambda self: True))
    monkeypatch.setattr(command, "SECONDS", 0.0)


def test_it_follows_until_the_run_ends(medvqa, make_run, drawn, monkeypatch):
    run = make_run("first", trained=False)
    write_events(run, steps=40)
    with run.events.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"event": "warning", "step": 20, "message": "Beware. " * 30 + "The end."}) + "\n")
    waited = []

    def wait(seconds):
        waited.append(seconds)
        if len(waited) == 3:
            (run.path / "adapter").mkdir()

    monkeypatch.setattr(command.time, "sleep", wait)
    result = medvqa("train", "watch", "first")
    assert result.exit_code == 0
    assert len(waited) == 3
    assert "first: finished" in result.stdout
    assert "The end." in result.stdout, "a long line is wrapped, not cut"


def test_ctrl_c_ends_the_look_and_not_in_error(medvqa, make_run, drawn, monkeypatch):
    write_events(make_run("first", trained=False), steps=40)

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", interrupt)
    result = medvqa("train", "watch", "first")
    assert result.exit_code == 0
    assert "first: running" in result.stdout


def test_it_imports_no_framework(make_run):
    write_events(make_run("first"))
    code = ("import sys\nfrom medvqa_cli.__main__ import main\nsys.argv = ['medvqa', 'train', 'watch', 'first']\n"
            "try:\n    main()\nexcept SystemExit:\n    pass\n"
            "print(sorted({'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[0] == "first: finished"
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_chart_by_hand():
    assert draw_chart([("•", [(0, 3.0), (1, 2.0), (2, 1.0)])], 8, 3) == ["3 │•", "  │  •", "1 │    •"]
    assert draw_chart([("•", [(5, 2.0)])], 10, 2) == ["2 │", "2 │•"]
    assert draw_chart([("•", [])], 10, 3) == []
    assert draw_chart([("•", [(0, 0.0), (1, 1.0)]), ("o", [(1, 1.0)])], 5, 2) == ["1 │ o", "0 │•"]


def test_long_lines_are_cut_to_the_width():
    probe = PROBE | {"examples": [{"question": "Why? " * 50, "answer": "a", "gold": "b", "correct": False}]}
    lines = describe_status(TrainingStatus("first", "running", 5, 10, losses=[(1, 2.0), (5, 1.0)], probe=probe), 60)
    assert all(len(line) <= 60 for line in lines if line.startswith(("  -", "2", "1", " ")))

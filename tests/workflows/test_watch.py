"""Watching a training: what its events and its manifest say, however they end."""

from __future__ import annotations

import datetime as dt
import json
import platform
import subprocess
import sys

import pytest

from medvqa_cli.runs import create_run
from medvqa_cli.workflows.watch import EventReader, TrainingWatch


def ago(seconds):
    return (dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds)).isoformat()


def start(step=0, steps=20, seconds=1.0, pid=None, host=None, passed=11.0):
    return {"event": "start", "seconds": seconds, "step": step, "steps": steps, "pid": pid or 1,
            "host": host or platform.node(), "time": ago(passed)}


def log(step, loss, seconds):
    return {"event": "log", "seconds": seconds, "step": step, "loss": loss, "learning_rate": 1e-4, "grad_norm": 2.0}


@pytest.fixture
def make(tmp_path):
    def build(*events, weights=False, tail="", **manifest):
        run = create_run(tmp_path, "mine")
        run.update_manifest(**{"data": {"dataset": "demo"}, **manifest})
        if events or tail:
            run.events.write_text("".join(json.dumps(event) + "\n" for event in events) + tail, encoding="utf-8")
        if weights:
            (run.path / "adapter").mkdir()
        return run

    return build


def look(run):
    return TrainingWatch(run).look()


def test_a_running_training(make):
    status = look(make(start(), log(5, 2.0, 3.5), {"event": "checkpoint", "seconds": 5.0, "step": 10},
                       log(10, 1.0, 6.0), {"event": "eval", "seconds": 6.0, "step": 10, "eval_loss": 1.5},
                       {"event": "probe", "seconds": 6.0, "step": 10, "metrics": {"closed/accuracy": 0.5}}))
    assert status.state == "running"
    assert not status.is_over
    assert (status.step, status.steps, status.checkpoint) == (10, 20, 10)
    assert status.losses == [(5, 2.0), (10, 1.0)]
    assert status.validation == [(10, 1.5)]
    assert status.probe["metrics"] == {"closed/accuracy": 0.5}
    assert status.rate == pytest.approx(2.0), "10 steps in the 5 seconds since the start"
    assert status.quiet_seconds == pytest.approx(6.0, abs=1.0)
    assert status.seconds_left == 0.0, "10 steps take 5 seconds, which have passed"
    assert (status.learning_rate, status.grad_norm) == (1e-4, 2.0)


def test_time_left_counts_down_between_events(make):
    status = look(make(start(steps=110, passed=11.0), log(10, 1.0, 11.0)))
    assert status.seconds_left == pytest.approx(99.0, abs=1.0), "100 steps at one a second, less the second of silence"


@pytest.mark.parametrize(("events", "weights", "state"), [
    ([start(), log(20, 1.0, 9.0), {"event": "end", "seconds": 9.0, "step": 20}], True, "finished"),
    ([start(), log(20, 1.0, 9.0), {"event": "end", "seconds": 9.0, "step": 20}], False, "running"),
    ([start(), log(5, 1.0, 9.0), {"event": "end", "seconds": 9.0, "step": 5}], False, "stopped"),
    ([start(host="another-machine", pid=2**22 - 7), log(5, 1.0, 9.0)], False, "running"),
    ([], False, "loading"),
])
def test_states(make, events, weights, state):
    status = look(make(*events, weights=weights))
    assert status.state == state
    assert status.is_over == (state in {"finished", "stopped"})


def test_a_killed_training_is_gone(make):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert look(make(start(pid=process.pid), log(5, 1.0, 9.0))).state == "gone"


def test_a_process_that_took_over_the_number_is_another_one(make):
    assert look(make(start(passed=10**8), log(5, 1.0, 9.0))).state == "gone", "this process is not three years old"


def test_a_run_that_does_not_train(tmp_path):
    run = create_run(tmp_path, "infer-llava")
    assert look(run).state == "untrained"
    run.manifest.write_text("{", encoding="utf-8")
    assert look(run).state == "untrained"


@pytest.mark.parametrize("tail", ['{"event": "log", "step": 9, "lo', '{"event": "log", "step": 9, "loss": 3.0}',
                                  "not json\n", "[1]\n", '{"event": "log", "step": 9}\n', '{"event": 3}\n',
                                  '{"step": 9}\n'])
def test_a_torn_or_damaged_line_is_passed_over(make, tail):
    status = look(make(start(), log(5, 2.0, 3.0), tail=tail))
    assert status.losses == [(5, 2.0)]
    assert status.step == 5


def test_an_empty_file(make):
    run = make()
    run.events.touch()
    assert look(run).state == "loading"


def test_a_torn_line_counts_once_it_is_whole(make):
    run = make(start(), tail='{"event": "log", "step": 4, ')
    watch = TrainingWatch(run)
    assert watch.look().losses == []
    with run.events.open("a", encoding="utf-8") as stream:
        stream.write('"loss": 0.5, "seconds": 3}\n')
    assert watch.look().losses == [(4, 0.5)]
    assert watch.look().losses == [(4, 0.5)], "nothing is read twice"


def test_a_file_cut_by_a_resumed_run_is_read_anew(make):
    run = make(start(), log(5, 2.0, 3.0), log(10, 1.0, 6.0))
    reader = EventReader(run.events)
    assert len(reader.read()) == 3
    run.events.write_text(json.dumps(start()) + "\n", encoding="utf-8")
    assert [event["event"] for event in reader.read()] == ["start"]


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(make):
    status = look(make(start(), log(5, 2.0, 3.0), log(10, 1.0, 6.0),
                       {"event": "eval", "seconds": 6.0, "step": 10, "eval_loss": 1.5},
                       {"event": "probe", "seconds": 6.0, "step": 10, "metrics": {}},
                       start(step=5), log(10, 0.9, 11.0)))
    assert status.losses == [(5, 2.0), (10, 0.9)]
    assert status.validation == []
    assert status.probe is None
    assert status.rate == pytest.approx(0.5), "5 steps in 10 seconds since it went on"


def test_warnings_of_events_and_manifest_are_one(make):
    event = {"event": "warning", "seconds": 2.0, "step": 5, "message": "The model has collapsed."}
    assert look(make(start(), event, warnings=["The model has collapsed."])).warnings == ["The model has collapsed."]


def test_a_real_training_is_understood(trained):
    _, run = trained
    status = look(run)
    assert (status.state, status.step, status.steps) == ("finished", 12, 12)
    assert [step for step, _ in status.losses] == [4, 8, 12]
    assert len(status.validation) == 4
    assert status.probe["step"] == 12
    assert status.checkpoint == 12

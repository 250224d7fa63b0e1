"""Small Python children stand for trainings: slots, failures, logs, environment, Ctrl-C, submitit's local mode."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from medvqa_cli.errors import MissingDependencyError, SettingsError
from medvqa_cli.progress import SILENT
from medvqa_cli.workflows.experiments import executors
from medvqa_cli.workflows.experiments.cluster import RemoteTask, SubmititExecutor
from medvqa_cli.workflows.experiments.executors import LocalExecutor, Slot, Step, Task, make_slots


def say(code):
    """A command that runs Python code."""
    return [sys.executable, "-c", code]


def make_task(tmp_path, name, *codes):
    steps = tuple(Step(f"step{number}", functools.partial(say, code)) for number, code in enumerate(codes))
    return Task(name, tmp_path / "logs" / f"{name}.log", steps)


def run(tasks, slots, listen=lambda outcome: None, **options):
    return LocalExecutor(slots, **options).run(tasks, listen, SILENT)


def test_a_failed_task_is_reported_and_the_others_go_on(tmp_path):
    tasks = [make_task(tmp_path, "bad", "print('fine')", "import sys; print('a'); print('no such file'); sys.exit(4)",
                       "print('never')"),
             make_task(tmp_path, "good", "print('one')", "print('two')")]
    seen = []
    outcomes = {outcome.name: outcome for outcome in run(tasks, [Slot("only")], seen.append)}
    assert [outcome.name for outcome in seen] == ["bad", "good"]
    assert (outcomes["bad"].failed, outcomes["bad"].code, outcomes["bad"].tail) == ("step1", 4, ("a", "no such file"))
    assert (outcomes["good"].failed, outcomes["good"].code, outcomes["good"].tail) == ("", 0, ())
    log = (tmp_path / "logs" / "good.log").read_text()
    assert log.index("one") < log.index("two")
    assert log.count(f"$ {sys.executable} -c") == 2
    assert "never" not in (tmp_path / "logs" / "bad.log").read_text()


def test_slots_work_side_by_side_each_with_its_gpu(tmp_path):
    """Each child waits for the file of the other: one after another they would never end."""
    code = ("import os, pathlib, time; gpu = os.environ['CUDA_VISIBLE_DEVICES']; home = pathlib.Path({home!r});"
            "(home / gpu).touch()\nwhile len(list(home.iterdir())) < 2: time.sleep(0.02)")
    home = tmp_path / "met"
    home.mkdir()
    tasks = [make_task(tmp_path, name, code.format(home=str(home))) for name in "ab"]
    outcomes = run(tasks, make_slots("0,3", None, {}))
    assert sorted(path.name for path in home.iterdir()) == ["0", "3"]
    assert [outcome.code for outcome in outcomes] == [0, 0]


def test_settings_of_the_environment_do_not_reach_a_child(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDVQA_SEED", "7")
    monkeypatch.setenv("MEDVQA_CONFIG_HOME", "kept")
    code = "import os; print(os.environ.get('MEDVQA_SEED'), os.environ['MEDVQA_CONFIG_HOME'])"
    run([make_task(tmp_path, "a", code)], [Slot("only")])
    assert "None kept" in (tmp_path / "logs" / "a.log").read_text()


def test_a_killed_task_says_so(tmp_path):
    codes = ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
             "import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "raise SystemExit(5)")
    outcomes = run([make_task(tmp_path, str(number), code) for number, code in enumerate(codes)], [Slot("only")])
    assert [outcome.ending for outcome in outcomes] == ["ended by SIGKILL, as where memory runs out",
                                                        "ended by SIGTERM", "exit code 5"]


def test_a_command_is_made_when_its_turn_comes(tmp_path):
    mark = tmp_path / "mark"
    first = Step("write", lambda: say(f"open({str(mark)!r}, 'w').write('x')"))
    second = Step("look", lambda: say(f"raise SystemExit({3 if mark.exists() else 5})"))
    (outcome,) = run([Task("a", tmp_path / "a.log", (first, second))], [Slot("only")])
    assert outcome.code == 3


WAITING = """
import pathlib, signal, sys, time
def stop(*_):
    {answer}
signal.signal(signal.SIGINT, stop)
pathlib.Path({mark!r}).touch()
time.sleep(60)
"""


def interrupt_when(path: Path, number: int) -> threading.Thread:
    def wait():
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.fixture
def heeds_ctrl_c():
    """Ctrl-C as on a terminal: a process started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_reaches_the_children_as_ctrl_c_and_waits_for_them(tmp_path, heeds_ctrl_c, number):
    mark, saved = tmp_path / "mark", tmp_path / "checkpoint"
    answer = f"time.sleep(0.3); pathlib.Path({str(saved)!r}).touch(); sys.exit(130)"
    tasks = [make_task(tmp_path, "a", WAITING.format(mark=str(mark), answer=answer)),
             make_task(tmp_path, "b", "open('never', 'w')")]
    thread = interrupt_when(mark, number)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run(tasks, [Slot("only")])
    thread.join()
    assert saved.exists()
    assert not (tmp_path / "logs" / "b.log").exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_child_that_does_not_heed_it_is_killed_with_its_own_children(tmp_path):
    mark = tmp_path / "mark"
    start = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    code = start + WAITING.format(mark=str(mark), answer=f"open({str(tmp_path / 'heard')!r}, 'w')")
    thread = interrupt_when(mark, signal.SIGINT)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run([make_task(tmp_path, "a", code)], [Slot("only")], grace=1.0)
    thread.join()
    assert (tmp_path / "heard").exists()
    assert time.monotonic() - began < 20


def test_another_thread_may_run_tasks(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.extend(run([make_task(tmp_path, "a", "pass")], [Slot("only")])))
    thread.start()
    thread.join()
    assert [outcome.code for outcome in found] == [0]


def test_slots():
    assert [slot.name for slot in make_slots(None, None, {})] == ["slot 1"]
    assert dict(make_slots(None, None, {})[0].variables) == {}
    two = make_slots(None, 2, {})
    assert [slot.name for slot in two] == ["slot 1", "slot 2"]
    assert int(two[0].variables["OMP_NUM_THREADS"]) == max(1, (os.cpu_count() or 1) // 2)
    assert dict(make_slots(None, 2, {"OMP_NUM_THREADS": "4"})[0].variables) == {}
    within = make_slots("1", None, {"CUDA_VISIBLE_DEVICES": "4,6"})
    assert dict(within[0].variables) == {"CUDA_VISIBLE_DEVICES": "6"}, "counted within what this process sees"


@pytest.mark.parametrize(("gpus", "jobs", "message"), [
    ("0,x", None, "'0,x' is no list of GPU numbers"), ("0,0", None, "'0,0' is no list of GPU numbers, each once"),
    ("0", 2, "exclude each other"), ("2", None, "names GPU 2, but this process sees 2"),
])
def test_wrong_slots_are_one_error(gpus, jobs, message):
    with pytest.raises(SettingsError, match=message):
        make_slots(gpus, jobs, {"CUDA_VISIBLE_DEVICES": "0,1"})


def test_a_tail_is_that_of_the_last_command(tmp_path):
    log = tmp_path / "log"
    with executors.open_log(log) as stream:
        executors.write_header(stream, ["first"])
        stream.write(b"old\n")
        executors.write_header(stream, ["second"])
        stream.write(b"".join(b"line %d\n\n" % number for number in range(20)) + b"caf\xe9 $ x\n")
    tail = executors.read_tail(log)
    assert len(tail) == 8
    assert tail[-1].endswith("$ x")
    assert tail[0] == "line 13"


def test_a_task_on_a_node_stops_at_its_first_failure(tmp_path):
    outcome = RemoteTask(make_task(tmp_path, "a", "print('x')", "raise SystemExit(3)", "print('y')"))()
    assert (outcome.name, outcome.failed, outcome.code) == ("a", "step1", 3)
    assert RemoteTask(make_task(tmp_path, "b", "print('x')"))().failed == ""


def test_without_submitit_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(MissingDependencyError) as caught:
        SubmititExecutor(tmp_path, {})
    assert caught.value.hint == "Install it with: pip install 'medvqa-cli[slurm]'"


def test_submitit_runs_tasks_and_reports_failures(tmp_path):
    pytest.importorskip("submitit")
    tasks = [make_task(tmp_path, "bad", "raise SystemExit(3)"), make_task(tmp_path, "good", "print('hello')")]
    outcomes = SubmititExecutor(tmp_path / "submitted", {"timeout_min": 2}, "local").run(
        tasks, lambda outcome: None, SILENT)
    assert {outcome.name: (outcome.failed, outcome.code) for outcome in outcomes} == {"bad": ("step0", 3),
                                                                                      "good": ("", 0)}
    assert "hello" in (tmp_path / "logs" / "good.log").read_text()


def test_a_task_that_the_cluster_stops_is_queued_again(tmp_path):
    pytest.importorskip("submitit")
    task = RemoteTask(make_task(tmp_path, "a", "print('again')"))
    queued = task.checkpoint()
    assert queued.result().name == "a"
    assert "again" in (tmp_path / "logs" / "a.log").read_text()


@pytest.mark.parametrize(("parameters", "cluster"), [({"no_such_parameter": 1}, "local"), ({}, "no_such_cluster"),
                                                     ({}, "slurm")])
def test_what_submitit_refuses_is_one_error(tmp_path, monkeypatch, parameters, cluster):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match=f"submitit cannot submit to '{cluster}'"):
        SubmititExecutor(tmp_path, parameters, cluster)

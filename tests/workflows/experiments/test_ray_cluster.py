"""A stand-in for Ray runs tasks in threads of this process; with Ray installed, the slow tests start a real one."""

from __future__ import annotations

import functools
import signal
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from types import SimpleNamespace

import pytest

from medvqa_cli.errors import MissingDependencyError, SettingsError
from medvqa_cli.progress import SILENT
from medvqa_cli.workflows.experiments.executors import Step, Task
from medvqa_cli.workflows.experiments.ray_cluster import RayExecutor


class RayError(Exception):
    pass


class PlayedRay:
    """What RayExecutor asks of Ray."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self):
        self.pool = ThreadPoolExecutor(2)
        self.asked, self.started, self.cancelled, self.lost = {}, None, [], set()

    def remote(self, function):
        def submit(task):
            return self.pool.submit(self._lose if task.task.name in self.lost else function, task)

        def options(**asked):
            if "no_such_option" in asked:
                raise ValueError("Invalid option keyword no_such_option for remote functions.")
            self.asked = asked
            return SimpleNamespace(remote=submit)

        return SimpleNamespace(options=options)

    def _lose(self, task):
        raise RayError("The worker died unexpectedly.\nThe node ran out of memory.")

    def is_initialized(self):
        return self.started is not None

    def init(self, address=None, **_):
        if address == "nowhere:1":
            raise ConnectionError("Could not find any running Ray instance at nowhere:1.\nmore")
        self.started = address or "here"

    def wait(self, references, num_returns, timeout):
        done, rest = wait(references, timeout=timeout, return_when=FIRST_COMPLETED)
        return list(done)[:num_returns], list(rest)

    def get(self, reference):
        return reference.result()

    def cancel(self, reference, force):
        self.cancelled.append(force)

    def shutdown(self):
        self.started = None


@pytest.fixture
def ray(monkeypatch):
    played = PlayedRay()
    monkeypatch.setitem(sys.modules, "ray", played)
    yield played
    played.pool.shutdown()


def make_task(tmp_path, name, code):
    return Task(name, tmp_path / "logs" / f"{name}.log",
                (Step("train", functools.partial(list, [sys.executable, "-c", code])),))


def test_tasks_run_and_failures_are_reported(ray, tmp_path):
    ray.lost.add("lost")
    seen = []
    tasks = [make_task(tmp_path, "bad", "print('why'); raise SystemExit(3)"),
             make_task(tmp_path, "good", "print('hello')"), make_task(tmp_path, "lost", "")]
    executor = RayExecutor({"num_gpus": 1, "address": "head:6379"})
    assert (ray.started, ray.asked) == ("head:6379", {"num_gpus": 1})
    outcomes = {outcome.name: outcome for outcome in executor.run(tasks, seen.append, SILENT)}
    assert len(seen) == 3
    assert (outcomes["bad"].failed, outcomes["bad"].code, outcomes["bad"].tail) == ("train", 3, ("why",))
    assert (outcomes["good"].failed, outcomes["good"].code) == ("", 0)
    assert outcomes["lost"].failed == "its Ray task"
    assert outcomes["lost"].tail[-1] == "The node ran out of memory."
    assert "hello" in (tmp_path / "logs" / "good.log").read_text()
    assert ray.started is None


def test_ctrl_c_cancels_what_still_runs(ray, tmp_path):
    def interrupt(outcome):
        raise KeyboardInterrupt

    tasks = [make_task(tmp_path, "quick", ""), make_task(tmp_path, "slow", "import time; time.sleep(1.5)")]
    with pytest.raises(KeyboardInterrupt):
        RayExecutor({}).run(tasks, interrupt, SILENT)
    assert ray.cancelled == [False]
    assert ray.started is None


@pytest.mark.parametrize(("options", "message"), [
    ({"address": "nowhere:1"}, "Ray cannot be submitted to: Could not find any running Ray instance at nowhere:1."),
    ({"no_such_option": 1}, "Invalid option keyword no_such_option")])
def test_what_ray_refuses_is_one_error(ray, options, message):
    with pytest.raises(SettingsError) as caught:
        RayExecutor(options)
    assert message in caught.value.message
    assert "more" not in caught.value.message


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError) as caught:
        RayExecutor({})
    assert caught.value.hint == "Install it with: pip install 'medvqa-cli[ray]'"


@pytest.mark.slow
def test_a_real_ray_runs_tasks(tmp_path):
    pytest.importorskip("ray")
    tasks = [make_task(tmp_path, "bad", "raise SystemExit(3)"), make_task(tmp_path, "good", "print('hello')")]
    outcomes = RayExecutor({"num_cpus": 1}).run(tasks, lambda outcome: None, SILENT)
    assert {outcome.name: (outcome.failed, outcome.code) for outcome in outcomes} == {"bad": ("train", 3),
                                                                                      "good": ("", 0)}
    assert "hello" in (tmp_path / "logs" / "good.log").read_text()


@pytest.mark.slow
def test_a_real_ray_ends_what_runs_after_ctrl_c(tmp_path):
    pytest.importorskip("ray")
    beat = tmp_path / "beat"
    code = f"import time\nwhile True: open({str(beat)!r}, 'w').write(str(time.time())); time.sleep(0.1)"
    executor = RayExecutor({"num_cpus": 1})

    def interrupt():
        while not beat.exists():
            time.sleep(0.1)
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        executor.run([make_task(tmp_path, "endless", code)], lambda outcome: None, SILENT)
    last = beat.read_text()
    time.sleep(1)
    assert beat.read_text() == last

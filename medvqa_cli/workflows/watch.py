"""`medvqa train watch`: how a training stands, from its events and its manifest alone."""

from __future__ import annotations

import datetime as dt
import importlib
import json
import platform
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from medvqa_cli.errors import RunError
from medvqa_cli.runs import name_resume

if TYPE_CHECKING:
    from pathlib import Path

    from medvqa_cli.runs import Run

State = Literal["finished", "running", "stopped", "gone", "loading", "untrained"]
Points = list[tuple[int, float]]
PID_REUSE_SECONDS = 5.0


@dataclass(slots=True)
class TrainingStatus:
    """How a training stands.

    Attributes:
        run: The run's name.
        state: finished: its weights are written. running. stopped: ended before its last step by Ctrl-C or a signal.
            gone: its process no longer exists, and it said no end. loading: training has not begun. untrained: the run
            is none of a training.
        step: Optimiser steps done, as far as events tell.
        steps: All of them; None before training begins.
        seconds: Since training began, or went on, up to the last event.
        rate: Optimiser steps a second since then; None before the first event of a step.
        seconds_left: To the last step, at this rate; None unless it runs.
        quiet_seconds: Since the last event, of a running one.
        losses: (step, mean loss in nats a token) of the training.
        validation: The same of the validation questions.
        learning_rate: The last one.
        grad_norm: The last one.
        probe: The last probe event.
        checkpoint: Step of the last checkpoint.
        warnings: What should not be missed.
        resume: The command by which it goes on.
    """

    run: str
    state: State = "untrained"
    step: int = 0
    steps: int | None = None
    seconds: float = 0.0
    rate: float | None = None
    seconds_left: float | None = None
    quiet_seconds: float | None = None
    losses: Points = field(default_factory=list)
    validation: Points = field(default_factory=list)
    learning_rate: float | None = None
    grad_norm: float | None = None
    probe: dict[str, Any] | None = None
    checkpoint: int | None = None
    warnings: list[str] = field(default_factory=list)
    resume: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to come."""
        return self.state not in {"running", "loading"}

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


class EventReader:
    """Reads a growing events.jsonl: each call only what is new, and whole lines alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._events: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        """Return all events so far; none without the file. A line that is no event is passed over."""
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            return []
        if size < self._offset:  # a resumed run has dropped what came after its checkpoint
            self._offset, self._events = 0, []
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            content = stream.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        self._events += [event for line in whole.splitlines() if (event := _parse(line)) is not None]
        return self._events


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and _is_whole(event) else None


def _is_whole(event: dict[str, Any]) -> bool:
    numbers = {"start": ("step", "steps"), "log": ("step", "loss"), "eval": ("step", "eval_loss")}
    kind = event.get("event")
    needed = numbers.get(kind, ()) if isinstance(kind, str) else ("event",)
    return all(isinstance(event.get(name), int | float) for name in needed)


class TrainingWatch:
    """Looks at a run again and again.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._reader = EventReader(run.events)

    def look(self) -> TrainingStatus:
        """Return how the training stands now."""
        manifest = _read_manifest(self.run)
        status = TrainingStatus(self.run.name, resume=name_resume(self.run.name, manifest))
        status.warnings = list(manifest.get("warnings", []))
        start: dict[str, Any] = {}
        last: dict[str, Any] = {}
        for event in self._reader.read():
            start = event if event["event"] == "start" else start
            last = event
            _take(status, event)
        _judge(status, self.run, manifest, start, last)
        _time(status, start, last)
        return status


def _read_manifest(run: Run) -> dict[str, Any]:
    try:
        return run.read_json("manifest.json")
    except RunError:
        return {}


def _take(status: TrainingStatus, event: dict[str, Any]) -> None:
    """Add one event."""
    kind, step = event["event"], int(event.get("step") or 0)
    if kind == "start":
        _go_back(status, step)
        status.steps = event.get("steps")
    status.step = step if kind == "start" else max(status.step, step)
    if kind == "log":
        status.losses.append((step, float(event["loss"])))
        status.learning_rate, status.grad_norm = event.get("learning_rate"), event.get("grad_norm")
    elif kind == "eval":
        status.validation.append((step, float(event["eval_loss"])))
    elif kind == "probe":
        status.probe = event
    elif kind == "checkpoint":
        status.checkpoint = step
    elif kind == "warning" and event.get("message") not in status.warnings:
        status.warnings.append(str(event.get("message")))


def _go_back(status: TrainingStatus, step: int) -> None:
    """Forget what came after the checkpoint that a run goes on from."""
    status.losses = [point for point in status.losses if point[0] <= step]
    status.validation = [point for point in status.validation if point[0] <= step]
    if status.probe and status.probe.get("step", 0) > step:
        status.probe = None


def _judge(status: TrainingStatus, run: Run, manifest: dict[str, Any], start: dict[str, Any],
           last: dict[str, Any]) -> None:
    if run.weights:
        status.state = "finished" if last or "finished" in manifest else "untrained"
    elif not last:
        status.state = "loading" if "data" in manifest else "untrained"
    elif last["event"] == "end" and status.steps and status.step < status.steps:
        status.state = "stopped"
    else:
        status.state = "gone" if _is_gone(start) else "running"


def _is_gone(start: dict[str, Any]) -> bool:
    """Return whether the process of a start event is known to have ended: only its own machine can tell."""
    pid = start.get("pid")
    if pid is None or start.get("host") != platform.node():
        return False
    psutil = importlib.import_module("psutil")
    try:
        born: float = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
    return born > dt.datetime.fromisoformat(start["time"]).timestamp() + PID_REUSE_SECONDS


def _time(status: TrainingStatus, start: dict[str, Any], last: dict[str, Any]) -> None:
    """Fill in seconds, rate and what is left, counted from the last start."""
    status.seconds = max(0.0, float(last.get("seconds", 0.0)) - float(start.get("seconds", 0.0)))
    done = status.step - int(start.get("step") or 0)
    if done > 0 and status.seconds > 0:
        status.rate = done / status.seconds
    if status.state != "running" or "time" not in start:
        return
    passed = (dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(start["time"])).total_seconds()
    status.quiet_seconds = max(0.0, passed - status.seconds)
    if status.rate and status.steps:
        status.seconds_left = max(0.0, (status.steps - status.step) / status.rate - status.quiet_seconds)

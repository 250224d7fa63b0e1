"""Steps that may fail: each has an outcome, and one that fails hides only those that need it."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medvqa_cli.errors import MedVQAError
from medvqa_cli.workflows.checks.advice import advise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from medvqa_cli.progress import Progress

State = Literal["passed", "failed", "skipped", "not run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The outcome of one step.

    Attributes:
        name: The step, such as "load".
        state: "skipped": it does not apply here; "not run": something it needs has failed.
        detail: What was found, or what is wrong.
        hint: What to do where it failed.
        model: Whose step it is; empty for those that need no model.
        warnings: What was noticed on the way.
        seconds: How long it took.
    """

    name: str
    state: State
    detail: str = ""
    hint: str = ""
    model: str = ""
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether it was run and found everything well."""
        return self.state == "passed"

    @property
    def title(self) -> str:
        """The step and whose it is."""
        return f"{self.model}: {self.name}" if self.model else self.name


@dataclass(frozen=True, slots=True)
class Step:
    """A step: its name, what it does (it returns what it found), and the steps that must not have failed before it."""

    name: str
    run: Callable[[], str]
    needs: tuple[str, ...] = ()


class FaultError(Exception):
    """A step found something wrong: the message says what, the hint what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NotApplicableError(Exception):
    """A step does not apply here: the message says why."""


@dataclass(slots=True)
class Listener:
    """Keeps a step's warnings for its outcome; the rest of what it says goes to `inner`."""

    inner: Progress
    warnings: list[str] = field(default_factory=list)

    def start(self, stage: str, total: int | None, unit: str = "it") -> None:
        """Pass it on."""
        self.inner.start(stage, total, unit)

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Pass it on."""
        self.inner.advance(steps, note)

    def finish(self) -> None:
        """Pass it on."""
        self.inner.finish()

    def say(self, message: str) -> None:
        """Pass it on."""
        self.inner.say(message)

    def warn(self, message: str) -> None:
        """Keep it."""
        if message not in self.warnings:
            self.warnings.append(message)


def run_step(step: Step, done: Mapping[str, Check], listener: Listener, model: str = "") -> Check:
    """Return the outcome of a step: whatever goes wrong in it, except that the user stops it, is a failure of its own.

    Args:
        step: What to do.
        done: Outcomes of earlier steps by name.
        listener: Holds the warnings of this step afterwards.
        model: Whose step it is.
    """
    if cause := find_cause(step, done):
        return Check(name=step.name, state="not run", detail=f"{cause} failed", model=model)
    listener.warnings.clear()
    start = time.perf_counter()
    outcome = _attempt(step)
    return Check(name=step.name, model=model, warnings=tuple(listener.warnings),
                 seconds=round(time.perf_counter() - start, 2), **outcome)


def find_cause(step: Step, done: Mapping[str, Check]) -> str:
    """Return the failed step that keeps this one from running, empty if none does."""
    for need in step.needs:
        check = done.get(need)
        if check and check.state == "failed":
            return need
        if check and check.state == "not run":
            return check.detail.removesuffix(" failed")
    return ""


def _attempt(step: Step) -> dict[str, Any]:
    try:
        return {"state": "passed", "detail": step.run()}
    except NotApplicableError as reason:
        return {"state": "skipped", "detail": str(reason)}
    except FaultError as error:
        return {"state": "failed", "detail": error.message, "hint": error.hint}
    except MedVQAError as error:
        return {"state": "failed", "detail": error.message, "hint": " ".join(filter(None, (error.hint, advise(error))))}
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a model may fail in any way, and hides no other
        return {"state": "failed", "detail": describe(error), "hint": advise(error)}


def describe(error: BaseException) -> str:
    """Return an unexpected error in one line: its type, what it says, and the line of code, above torch, it is from."""
    said = " ".join(str(error).split())[:300] or "no message"
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    file, line = next((place for place in reversed(frames) if "torch" not in place[0].parts), frames[-1])
    return f"{type(error).__name__}: {said} ({file.parent.name}/{file.name}, line {line})"

"""What becomes of a step that fails, and of those that need it."""

from __future__ import annotations

import pytest

from medvqa_cli.errors import ModelError
from medvqa_cli.progress import SILENT
from medvqa_cli.workflows.checks.outcome import Check, FaultError, Listener, NotApplicableError, Step, run_step


def fail(error: BaseException):
    def run() -> str:
        raise error

    return run


def run_all(*steps: Step) -> dict[str, Check]:
    done: dict[str, Check] = {}
    for step in steps:
        done[step.name] = run_step(step, done, Listener(SILENT), "m")
    return done


def test_a_failed_step_keeps_only_those_that_need_it_from_running():
    done = run_all(Step("load", fail(ModelError("It is gone.", "Fetch it."))), Step("answer", lambda: "42", ("load",)),
                   Step("score", lambda: "1.0", ("answer",)), Step("other", lambda: "fine", ("absent",)))
    assert [(check.state, check.detail) for check in done.values()] == [
        ("failed", "It is gone."), ("not run", "load failed"), ("not run", "load failed"), ("passed", "fine")]
    assert (done["load"].hint, done["load"].title, done["other"].passed) == ("Fetch it.", "m: load", True)


def test_a_step_that_does_not_apply_keeps_none_from_running():
    done = run_all(Step("packing", fail(NotApplicableError("not shared"))), Step("next", lambda: "ok", ("packing",)))
    assert [(check.state, check.detail) for check in done.values()] == [("skipped", "not shared"), ("passed", "ok")]


def test_a_fault_brings_its_own_advice_and_an_unknown_error_its_place():
    done = run_all(Step("a", fail(FaultError("It is nan.", "Lower it."))), Step("b", fail(KeyError("who"))),
                   Step("c", fail(SystemExit("no more"))), Step("d", fail(RuntimeError())))
    assert (done["a"].detail, done["a"].hint) == ("It is nan.", "Lower it.")
    assert done["b"].detail.startswith("KeyError: 'who' (checks/test_outcome.py, line ")
    assert done["c"].detail.startswith("SystemExit: no more (")
    assert done["d"].detail.startswith("RuntimeError: no message (")


def test_what_the_user_stops_is_no_failed_step():
    with pytest.raises(KeyboardInterrupt):
        run_all(Step("long", fail(KeyboardInterrupt())))


def test_warnings_belong_to_the_step_that_gave_them():
    listener = Listener(SILENT)

    def warn(text: str):
        def run() -> str:
            listener.warn(text)
            listener.warn(text)
            return ""

        return run

    found = [run_step(Step(text, warn(text)), {}, listener).warnings for text in ("first", "second")]
    assert found == [("first",), ("second",)]

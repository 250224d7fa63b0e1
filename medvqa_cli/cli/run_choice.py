"""Which run a command is about, when none is named or a model is named instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medvqa_cli.errors import RunError, SettingsError
from medvqa_cli.runs import Run, latest_run, list_runs, open_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from medvqa_cli.cli.command import Call

OF_ANOTHER_MODEL = ("model.family", "model.revision", "model.scratch")
START = "Start with `medvqa quickstart` or `medvqa train sft`."


def choose_run(call: Call) -> str | None:
    """Return the run whose model answers; None where a model is named, as that of a server always is.

    Raises:
        SettingsError: If both a run and a server are named.
        RunError: If the run is unknown, or there is no trained run.
    """
    named = [assignment.value for assignment in call.assignments if assignment.key == "infer.engine"]
    if named[-1:] != ["openai"]:
        return continue_from(call)
    if call.text("run"):
        raise SettingsError("--run and --engine openai exclude each other: the server's model answers, not the run's.",
                            "Name the server's model with --model, or leave --engine out.")
    return None


def continue_from(call: Call) -> str | None:
    """Return the run whose model answers, its settings put below what was typed; None if a model was typed.

    A run named with --model counts as a run; with neither, the latest trained run is taken, and said.

    Raises:
        SettingsError: If a run is named and another model too.
        RunError: If the run is unknown, or there is no trained run.
    """
    typed = call.text("run")
    model = typed_model(call)
    if typed is None and model is not None and not is_run(call.runs, model):
        return None
    name = typed or model
    run = open_run(call.runs, name) if name else latest_run(call.runs)
    _check_model(call, run, typed)
    call.continue_run(run.read_json("settings.json"))
    if name is None:
        call.progress.say(f"No run or model is named: taking the latest trained run, '{run.name}' "
                          f"(data set '{call.settings.data.dataset}').")
    return str(run.path)


def _check_model(call: Call, run: Run, typed: str | None) -> None:
    """Refuse what would choose another model than the run's: it would have no effect."""
    if typed and (model := typed_model(call)):
        raise SettingsError(f"--run {typed} and --model {model} exclude each other: the run's own model answers.",
                            "Leave one out.")
    others = [assignment.origin for assignment in call.typed if assignment.key in OF_ANOTHER_MODEL]
    if others:
        raise SettingsError(f"The model of run '{run.name}' answers: {', '.join(others)} would have no effect.",
                            "Leave it out, or name another model with --model.")


def open_answered(call: Call, pattern: str = "predictions*.jsonl") -> Run:
    """Return the named run, or the latest that holds files of a pattern; its settings are put below what was typed.

    Raises:
        RunError: If the run is unknown, or no run holds such a file.
    """
    typed = call.text("run")
    run = open_run(call.runs, typed) if typed else newest_run(call.runs, lambda run: any(run.path.glob(pattern)))
    if typed is None:
        call.progress.say(f"No run is named: taking the latest with answers, '{run.name}'.")
    call.continue_run(run.read_json("settings.json"))
    return run


def newest_run(runs: Path, has: Callable[[Run], bool] = lambda _run: True) -> Run:
    """Return the run created last of those that have something.

    Raises:
        RunError: If there is none.
    """
    found = list_runs(runs)
    if not found:
        raise RunError(f"There are no runs in '{runs}'.", START)
    for run in found:
        if has(run):
            return run
    raise RunError(f"No run in '{runs}' holds answers yet.", "Run `medvqa infer` first.")


def typed_model(call: Call) -> str | None:
    """Return the model named on this command line, by --model or --set; a settings file names one to train."""
    named = [assignment.value for assignment in call.typed if assignment.key == "model.name"]
    return str(named[-1]) if named else None


def is_run(runs: Path, name: str) -> bool:
    """Return whether a name is that of a run."""
    return (runs / name / "manifest.json").is_file()

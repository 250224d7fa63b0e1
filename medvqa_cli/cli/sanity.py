"""`medvqa sanity-check`: does everything from settings to a trained model's answers work here?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from medvqa_cli.cli.command import command
from medvqa_cli.cli.completion import complete_choice, complete_family
from medvqa_cli.cli.options import CHECKS, DATA, MODEL, PRESENTATION, SEED, TRAINING, Option
from medvqa_cli.cli.progress import format_seconds
from medvqa_cli.cli.run_choice import is_run, typed_model
from medvqa_cli.errors import RunError, SettingsError
from medvqa_cli.runs import open_run

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from medvqa_cli.cli.command import Call
    from medvqa_cli.cli.terminal import Terminal
    from medvqa_cli.workflows.sanity import Check, SanityReport, SanityScope

app = typer.Typer(add_completion=False)
WHAT = "What is checked"
HOW_MUCH = "How much"
OPTIONS = (
    Option("--tiny", "Check a small random checkpoint: offline, on a CPU.", kind="switch", panel=WHAT),
    Option("--all-families", "Check every registered family; with --tiny.", kind="switch", panel=WHAT),
    Option("--families", "Check these families, with commas between.", metavar="NAMES", complete=complete_family,
           panel=WHAT),
    Option("--preset", "Check a choice of models: seeds.", metavar="NAME", complete=complete_choice(["seeds"]),
           panel=WHAT),
    Option("--inference-only", "Do not train.", kind="switch", panel=WHAT),
    Option("--skip-calibration", "Do not measure calibration.", kind="switch", panel=WHAT),
    Option("--basic", "Check plugins, settings, metrics and data; load no model.", kind="switch", panel=WHAT),
    Option("--only", "With --basic: some of plugins, configs, metrics, data.", metavar="NAMES",
           complete=complete_choice(["plugins", "configs", "metrics", "data"]), panel=WHAT),
    Option("--train-samples", "Questions to train on; 5.", metavar="N", panel=HOW_MUCH),
    Option("--test-samples", "Questions to answer; 5.", metavar="N", panel=HOW_MUCH),
    Option("--calibration-samples", "Answers drawn for each question; 10.", metavar="N", panel=HOW_MUCH),
    Option("--output-dir", "New or empty folder that keeps answers, runs and report.json.", metavar="DIR",
           panel=HOW_MUCH),
    Option("--keep-outputs", "Keep the temporary folder.", kind="switch", panel=HOW_MUCH),
)
FIXED = {"--mixture", "--scratch", "--epochs", "--max-steps", "--grad-accum", "--warmup", "--scheduler", "--workers",
         "--save-total-limit"}
"""Options of a training that a short one sets itself."""
LEARNING = tuple(option for option in (*CHECKS, *TRAINING) if option.flag not in FIXED)
SHORT = {"image tokens": "tokens", "packing": "pack", "inference": "infer", "parameters": "params",
         "training": "train", "calibration": "calib"}
"""Names of steps where the terminal is narrow."""
CELLS = {"passed": ("ok", "green"), "failed": ("FAIL", "bold red"), "skipped": ("-", "dim"), "not run": ("-", "dim")}


@command(app, "sanity-check", *OPTIONS, *DATA, *PRESENTATION, *MODEL, *LEARNING, SEED)
def check_sanity(call: Call) -> None:
    """Check a model in a minute, before hours of training: loading, image tokens, answers, training, calibration.

    Without a model, a tiny one is checked on the demo. Options are those of train sft.
    """
    from medvqa_cli.workflows.sanity import check_sanity as check

    scope = make_scope(call)
    _name_weights(call)
    report = check(call.settings, scope, progress=call.progress)
    if not call.answer_json(report.to_json()):
        print_report(call.terminal, report)
    if report.folder:
        call.progress.say(f"Kept: {report.folder}")
    report.raise_failures()


def make_scope(call: Call) -> SanityScope:
    """Return what was typed as a scope.

    Raises:
        SettingsError: If a number or a list of names is none, or a model is named twice over.
    """
    from medvqa_cli.workflows.sanity import SanityScope

    named = next((f"--{name}" for name in ("families", "all-families", "preset")
                  if call.text(name.replace("-", "_"))), "")
    if named and call.text("model"):
        raise SettingsError(f"{named} and --model both say which models to check.", "Leave one of them out.")
    output = call.text("output_dir")
    switches = ("tiny", "all_families", "inference_only", "skip_calibration", "basic", "keep_outputs")
    return SanityScope(
        **{name: call.is_on(name) for name in switches}, families=_split(call, "families"),
        only=_split(call, "only"), preset=call.text("preset") or "",
        train_samples=call.count("train_samples", 5), test_samples=call.count("test_samples", 5),
        calibration_samples=call.count("calibration_samples", 10), output=Path(output).expanduser() if output else None)


def _name_weights(call: Call) -> None:
    """Let the name of a run stand for what it has trained.

    Raises:
        RunError: If it has trained nothing yet.
    """
    model = typed_model(call)
    if model is None or not is_run(call.runs, model):
        return
    run = open_run(call.runs, model)
    if run.weights is None:
        raise RunError(f"Run '{run.name}' has no trained model yet.",
                       f"Finish it with `{run.name_resume()}`.")
    call.assign("model.name", str(run.weights), "--model")


def _split(call: Call, option: str) -> tuple[str, ...]:
    typed = call.text(option)
    names = tuple(name.strip() for name in (typed or "").split(",") if name.strip())
    if typed is not None and not names:
        raise SettingsError(f"--{option} is '{typed}', which names nothing.", "Write names with commas between.")
    return names


def print_report(terminal: Terminal, report: SanityReport) -> None:
    """Print a line for each step; of several models a table of models and steps, and what went wrong."""
    models = list(dict.fromkeys(check.model for check in report.checks if check.model))
    listed = [check for check in report.checks if not check.model or len(models) == 1]
    terminal.print_table(["check", "result", "detail"],
                         [[check.name, _name_result(check), check.detail] for check in listed])
    terminal.print()
    if len(models) > 1:
        print_matrix(terminal, report.checks, models)
        terminal.print()
    print_faults(terminal, report.checks, {check.title for check in listed})
    memory = f", at most {report.peak_memory / 2**30:.1f} GiB of memory" if models and report.peak_memory else ""
    counts = {state: sum(check.state == state for check in report.checks) for state in CELLS}
    terminal.print(", ".join(f"{number} {state}" for state, number in counts.items() if number)
                   + f" in {format_seconds(report.seconds)}{memory}.")


def print_matrix(terminal: Terminal, checks: Iterable[Check], models: Sequence[str]) -> None:
    """Print models by steps, in two spaces' distance; on a narrow terminal names are cut short."""
    from rich.text import Text

    found = {(check.model, check.name): check for check in checks if check.model}
    steps = list(dict.fromkeys(step for _, step in found))
    console = terminal.console(stderr=False)
    first = max(map(len, ["model", *models]))
    headers = {step: step for step in steps}
    if first + sum(2 + len(step) for step in steps) > console.width:
        headers = {step: SHORT.get(step, step) for step in steps}
        first = max(5, min(first, console.width - sum(2 + len(header) for header in headers.values())))
    console.print(Text.assemble(("model".ljust(first), "bold"),
                                *((f"  {header}", "bold") for header in headers.values())), soft_wrap=True)
    for model in models:
        line = Text(model if len(model) <= first else f"{model[: first - 1]}…")
        line.pad_right(first - len(line))
        for step, header in headers.items():
            word, style = CELLS[found[model, step].state]
            line.append("  ").append(word.ljust(len(header)), style)
        line.rstrip()
        console.print(line, soft_wrap=True)


def print_faults(terminal: Terminal, checks: Iterable[Check], listed: Collection[str] = ()) -> None:
    """Print what went wrong, unless it is listed already, what helps (the same advice once), and what was noticed."""
    advised = {""}
    for check in checks:
        if check.state == "failed" and check.title not in listed:
            terminal.print(f"{check.title} failed: {check.detail}")
        if check.hint not in advised:
            terminal.print(f"{check.title}: {check.hint}" if check.title in listed else f"  {check.hint}")
        advised.add(check.hint)
        for warning in check.warnings:
            terminal.warn(f"{check.title}: {warning}")


def _name_result(check: Check) -> str:
    return "FAILED" if check.state == "failed" else "ok" if check.passed else check.state

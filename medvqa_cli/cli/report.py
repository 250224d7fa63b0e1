"""`medvqa report`: one HTML page about a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from medvqa_cli.cli.command import command
from medvqa_cli.cli.options import DRY_RUN, OPEN, RUN_ARGUMENT

if TYPE_CHECKING:
    from pathlib import Path

    from medvqa_cli.cli.command import Call

app = typer.Typer(add_completion=False)


@command(app, "report", RUN_ARGUMENT, OPEN, DRY_RUN)
def report(call: Call) -> None:
    """Write a run's report: one HTML page that needs nothing else."""
    from medvqa_cli.cli.run_choice import newest_run
    from medvqa_cli.runs import open_run

    typed = call.text("run")
    run = open_run(call.runs, typed) if typed else newest_run(call.runs, lambda run: any(run.path.glob("*.jsonl")))
    if call.is_on("dry_run"):
        call.progress.say(f"Would write {run.report}")
        return
    from medvqa_cli.workflows.report import write_report

    path = write_report(run, progress=call.progress)
    if not call.answer_json({"run": run.name, "report": str(path)}):
        call.terminal.print(str(path))
    if call.is_on("open"):
        open_page(path)


def open_page(path: Path) -> None:
    """Show a page in the user's browser."""
    typer.launch(path.resolve().as_uri())

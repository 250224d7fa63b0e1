"""`medvqa quickstart`: everything end to end, with nothing to download."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import typer

from medvqa_cli.cli.command import command
from medvqa_cli.cli.options import DRY_RUN, OPEN, SEED, Option

if TYPE_CHECKING:
    from medvqa_cli.cli.command import Call

app = typer.Typer(add_completion=False)
QUICK = Option("--quick", "A shorter training: to see that everything works.", kind="switch")


@command(app, "quickstart", QUICK, OPEN, SEED, DRY_RUN)
def quickstart(call: Call) -> None:
    """Make the demo data, train a small model from scratch, answer, score, calibrate, and write the report."""
    from medvqa_cli.cli.progress import format_seconds
    from medvqa_cli.cli.report import open_page
    from medvqa_cli.workflows.quickstart import run_quickstart

    if call.is_on("dry_run"):
        paths = call.settings.paths
        call.progress.say(f"Would write the demo data to {paths.prepared} and a run to {paths.runs}")
        return
    result = run_quickstart(call.settings, quick=call.is_on("quick"), progress=call.progress)
    document = dataclasses.asdict(result) | {"run": result.run.name, "report": str(result.report)}
    if not call.answer_json(document):
        call.terminal.print_table(["", "value", "compare"], result.table)
        call.terminal.print(f"Report: {result.report} ({format_seconds(result.seconds)})")
    if call.is_on("open"):
        open_page(result.report)

"""`medvqa sanity-check`: does everything from settings to a generated answer work here?"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import typer

from medvqa_cli.cli.command import command
from medvqa_cli.cli.options import DATA, MODEL, SEED, Option
from medvqa_cli.errors import MedVQAError

if TYPE_CHECKING:
    from medvqa_cli.cli.command import Call

app = typer.Typer(add_completion=False)
TINY = Option("--tiny", "Check a small random checkpoint of the family.", kind="switch")
BASIC = Option("--basic", "Check settings, data and metrics; load no model.", kind="switch")


@command(app, "sanity-check", TINY, BASIC, *DATA, *MODEL, SEED)
def check_sanity(call: Call) -> None:
    """Check loading, image tokens, one loss, one answer and what would be trained; without a model, the demo's."""
    from medvqa_cli.workflows.sanity import check_sanity as check

    checks = check(call.settings, tiny=call.is_on("tiny"), basic=call.is_on("basic"), progress=call.progress)
    failed = [item.name for item in checks if not item.passed]
    if not call.answer_json({"passed": not failed, "checks": [dataclasses.asdict(item) for item in checks]}):
        call.terminal.print_table(["check", "result", "detail"],
                                  [[item.name, "ok" if item.passed else "FAILED", item.detail] for item in checks])
    if failed:
        raise MedVQAError(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}.")

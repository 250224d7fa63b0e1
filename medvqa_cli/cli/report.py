"""`medvqa report`: one HTML page about a run, or about several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from medvqa_cli.cli.command import command
from medvqa_cli.cli.completion import complete_run
from medvqa_cli.cli.options import DRY_RUN, OPEN, SEED, Option

if TYPE_CHECKING:
    from medvqa_cli.cli.command import Call
    from medvqa_cli.workflows.report_extras import Extras

app = typer.Typer(add_completion=False)
RUNS = Option("RUNS", "Run, the latest if not given; others, RUN:TAG or files of answers are compared with it.",
              metavar="[RUN RUN...]", kind="any", complete=complete_run)
BY = Option("--by", "Compare slices as well: question_type, modality, organ, language, answer_length.", metavar="NAMES")
PUBLISHED = Option("--published", "YAML of results published elsewhere, such as examples/published.yaml.",
                   metavar="FILE")
MARKDOWN = Option("--markdown", "Write tables and figures as Markdown too.", metavar="FILE")
LATEX = Option("--latex", "Write tables and figures as LaTeX (booktabs) too.", metavar="FILE")
QUESTIONS = Option("--questions", "Most questions in the gallery; 5,000 if not given.", metavar="N")
OUTPUT = Option("--output", "Write the page here instead of the run's report.html.", metavar="FILE")


@command(app, "report", RUNS, BY, PUBLISHED, MARKDOWN, LATEX, QUESTIONS, OUTPUT, OPEN, SEED, DRY_RUN)
def report(call: Call) -> None:
    """Write a run's report: one HTML page that needs nothing else; more runs stand beside the first."""
    from medvqa_cli.cli.run_choice import newest_run
    from medvqa_cli.runs import open_run

    typed, *others = call.texts("runs") or [""]
    if ":" in typed:
        _refuse_answers(call, typed)
    run = open_run(call.runs, typed) if typed else newest_run(call.runs, lambda run: any(run.path.glob("*.jsonl")))
    extras = read_extras(call, others)
    if call.is_on("dry_run"):
        call.progress.say(f"Would write {extras.output or run.report}")
        return
    from medvqa_cli.workflows.report import write_report

    path = write_report(run, settings=call.settings if others else None, extras=extras, progress=call.progress)
    files = {name: str(file) for name in ("markdown", "latex") if (file := getattr(extras, name))}
    if not call.answer_json({"run": run.name, "report": str(path), **files}):
        for file in (str(path), *files.values()):
            call.terminal.print(file)
    if call.is_on("open"):
        open_page(path)


def _refuse_answers(call: Call, name: str) -> None:
    """Refuse RUN:TAG as what a report is about; answers that are not there are told first."""
    from medvqa_cli.errors import SettingsError
    from medvqa_cli.workflows.compare import find_answers
    from medvqa_cli.workflows.evaluate import read_predictions

    read_predictions(find_answers(call.runs, name))
    run = name.partition(":")[0]
    raise SettingsError(f"'{name}' names some answers of a run; a report is about a run and shows all its answers.",
                        f"medvqa report {run}, or medvqa report {run} {name} to compare them.")


def read_extras(call: Call, others: list[str]) -> Extras:
    """Return what was typed besides the run."""
    from medvqa_cli.workflows.report_extras import Extras

    def read(name: str) -> Path | None:
        typed = call.text(name)
        return Path(typed).expanduser() if typed else None

    most = {"max_questions": call.count("questions", 1)} if call.text("questions") else {}
    slices = [name.strip() for name in (call.text("by") or "").split(",") if name.strip()]
    return Extras(others, slices, published=read("published"), markdown=read("markdown"), latex=read("latex"),
                  output=read("output"), **most)


def open_page(path: Path) -> None:
    """Show a page in the user's browser."""
    typer.launch(path.resolve().as_uri())

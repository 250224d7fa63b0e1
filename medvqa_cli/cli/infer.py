"""`medvqa infer`: a model answers a split, or questions about one image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from medvqa_cli.cli.command import command
from medvqa_cli.cli.options import DATA, DRY_RUN, INFERENCE, MODEL, PRESENTATION, RUN, SEED, SPLIT, TAG, Option
from medvqa_cli.errors import SettingsError

if TYPE_CHECKING:
    from medvqa_cli.cli.command import Call

app = typer.Typer(add_completion=False)
IMAGE = Option("--image", "Ask about this picture instead of a split.", metavar="FILE")
QUESTION = Option("--question", "What to ask about it; repeatable.", metavar="TEXT", kind="many")
OVERWRITE = Option("--overwrite", "Answer anew what is there.", kind="switch")


@command(app, "infer", RUN, SPLIT, TAG, IMAGE, QUESTION, OVERWRITE, *DATA, *PRESENTATION, *MODEL, *INFERENCE, SEED,
         DRY_RUN)
def infer(call: Call) -> None:
    """Answer a split, or questions about one image, with a run's model or a named one."""
    from medvqa_cli.cli.run_choice import continue_from

    _check_image(call)
    run = continue_from(call)
    if call.is_on("dry_run"):
        from medvqa_cli.cli.plans import show_plan

        show_plan(call, run=run, split=call.text("split") or call.settings.data.test_split)
    elif image := call.text("image"):
        _answer_image(call, Path(image), run)
    else:
        _answer_split(call, run)


def _check_image(call: Call) -> None:
    if call.texts("question") and not call.text("image"):
        raise SettingsError("--question needs a picture.", "Name one with --image.")
    if call.text("image") and not call.texts("question"):
        raise SettingsError("--image needs a question.", 'Ask one with --question "Is there a lesion?".')
    if call.text("image") and (call.text("split") or call.text("tag")):
        raise SettingsError("--image and --split or --tag exclude each other.", "Leave one out.")


def _answer_image(call: Call, image: Path, run: str | None) -> None:
    from medvqa_cli.records import to_json
    from medvqa_cli.workflows.infer import infer_image

    answers = infer_image(call.settings, image, call.texts("question"), run=run, progress=call.progress)
    if not call.answer_json([to_json(answer) for answer in answers]):
        for answer in answers:
            call.terminal.print(f"{answer.sample.question} {answer.answer}")


def _answer_split(call: Call, name: str | None) -> None:
    from medvqa_cli.cli.runs import describe_run
    from medvqa_cli.workflows.infer import infer_split

    run = infer_split(call.settings, run=name, split=call.text("split"), tag=call.text("tag") or "",
                      overwrite=call.is_on("overwrite"), progress=call.progress)
    if not call.answer_json(describe_run(run)):
        call.progress.say(f"Answers are in {run.path}. Next: medvqa eval answers --run {run.name}")

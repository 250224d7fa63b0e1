"""`medvqa infer`: a model answers a split, or questions about one image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from medvqa_cli.cli.command import command
from medvqa_cli.cli.options import (
    DATA,
    DRY_RUN,
    ENGINE,
    INFERENCE,
    MODEL,
    PRESENTATION,
    RUN,
    SEED,
    SPLIT,
    TAG,
    Option,
    leave_out,
    put_first,
)
from medvqa_cli.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.cli.command import Call
    from medvqa_cli.records import Prediction
    from medvqa_cli.runs import Run

app = typer.Typer(add_completion=False)
IMAGE = Option("--image", "Ask about this picture instead of a split.", metavar="FILE")
QUESTION = Option("--question", "What to ask about it; repeatable.", metavar="TEXT", kind="many")
OVERWRITE = Option("--overwrite", "Answer anew what is there.", kind="switch")
SHOW_IMAGE = Option("--show-image", "Draw the picture beside its answers; of a split, the first few.", kind="switch")
DOUBT = (Option("--calibrator", "Calibrator that recalibrates the confidence of answers.", "infer.calibrator", "FILE",
                panel="Inference"),
         Option("--abstain-below", "Mark answers less sure than this as abstentions.", "infer.abstain_below", "P",
                panel="Inference"))
SHOWN = 3
"""Pictures of a split that are drawn."""


@command(app, "infer", *put_first((RUN, SPLIT, TAG, IMAGE, QUESTION, OVERWRITE, SHOW_IMAGE, *PRESENTATION, *MODEL,
                                   *leave_out(DATA, "--subsample"), *ENGINE, *INFERENCE, *DOUBT, SEED, DRY_RUN),
                                  "--run", "--model", "--dataset", "--split", "--limit", "--image", "--question",
                                  "--max-new-tokens", "--tag", "--overwrite", "--dry-run"))
def infer(call: Call) -> None:
    """Answer a split, or questions about one image, with a run's model or a named one."""
    from medvqa_cli.cli.run_choice import choose_run

    _check_image(call)
    run = choose_run(call)
    if call.is_on("dry_run"):
        from medvqa_cli.cli.plans import show_plan

        show_plan(call, run=run, split=call.text("split") or call.settings.data.test_split)
    elif image := call.text("image"):
        _answer_image(call, Path(image), run)
    else:
        _answer_split(call, run)


def _check_image(call: Call) -> None:
    if call.is_on("show_image") and call.terminal.json:
        raise SettingsError("--show-image and --json exclude each other.", "Leave one out.")
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
        _print_answers(call, answers)


def _answer_split(call: Call, name: str | None) -> None:
    from medvqa_cli.cli.runs import describe_run
    from medvqa_cli.workflows.infer import infer_split

    run = infer_split(call.settings, run=name, split=call.text("split"), tag=call.text("tag") or "",
                      overwrite=call.is_on("overwrite"), progress=call.progress)
    if not call.answer_json(describe_run(run)):
        if call.is_on("show_image"):
            _show_first(call, run)
        call.progress.say(f"Answers are in {run.path}. Next: medvqa eval answers --run {run.name}")


def _print_answers(call: Call, answers: Sequence[Prediction]) -> None:
    """Print questions of one picture with their answers, beside the picture if it is wanted."""
    lines = [f"{answer.sample.question} {answer.answer}{_describe_doubt(answer)}" for answer in answers]
    if call.is_on("show_image") and call.terminal.draws and answers[0].sample.images:
        from medvqa_cli.cli.pictures import print_beside

        print_beside(call.terminal.console(stderr=False), Path(answers[0].sample.images[0]),
                     call.settings.data.max_pixels, lines)
    else:
        for line in lines:
            call.terminal.print(line)


def _describe_doubt(answer: Prediction) -> str:
    """Return how sure an answer is, where that was asked for."""
    if answer.confidence is None:
        return " (abstains: no confidence)" if answer.abstains else ""
    return f" ({'abstains: ' if answer.abstains else ''}confidence {answer.confidence:.2f})"


def _show_first(call: Call, run: Run) -> None:
    from medvqa_cli.workflows.infer import read_answers

    answers = read_answers(call.settings, run, split=call.text("split"), tag=call.text("tag") or "")
    for together in answers[:SHOWN]:
        _print_answers(call, together)

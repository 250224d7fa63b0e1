"""`medvqa eval`: how good the answers are, and how far the model's confidence can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medvqa_cli.cli.command import command
from medvqa_cli.cli.groups import make_group
from medvqa_cli.cli.options import CALIBRATION, DATA, DRY_RUN, MODEL, PRESENTATION, RUN, SEED, SPLIT, TAG, Option
from medvqa_cli.cli.tables import print_answers, print_calibration

if TYPE_CHECKING:
    from medvqa_cli.cli.command import Call

app = make_group("Score a run: answers, calibration.")
CONFIDENCE = Option("--confidence-level", "Level of the intervals.", "evaluation.confidence_level", "P")
RESAMPLES = Option("--resamples", "Bootstrap resamples, drawn over images.", "evaluation.resamples", "N")
BLANK = Option("--blank-images", "Show a grey picture instead of every image.", "infer.blank_images", kind="switch")
OVERWRITE = Option("--overwrite", "Draw anew what is there.", kind="switch")


@command(app, "answers", RUN, TAG, CONFIDENCE, RESAMPLES, SEED, DRY_RUN)
def evaluate_answers(call: Call) -> None:
    """Score a run's answers: exact match, token F1, accuracy of closed questions, each with its interval."""
    from medvqa_cli.cli.run_choice import open_answered

    run = open_answered(call)
    if call.is_on("dry_run"):
        _show_plan(call, str(run.path), None)
        return
    from medvqa_cli.workflows.evaluate import evaluate_answers as evaluate

    metrics = evaluate(run, call.settings, tag=call.text("tag") or "", progress=call.progress)
    if not call.answer_json({"run": run.name, "metrics": metrics}):
        print_answers(call.terminal, run.name, metrics)
        call.progress.say(f"Next: medvqa report {run.name}")


@command(app, "calibration", RUN, SPLIT, OVERWRITE, *CALIBRATION, BLANK, *DATA, *PRESENTATION, *MODEL, SEED, DRY_RUN)
def evaluate_calibration(call: Call) -> None:
    """Draw many answers to each yes/no question and measure accuracy, confidence, ECE, MCE and overconfidence."""
    from medvqa_cli.cli.run_choice import continue_from

    name = continue_from(call)
    if call.is_on("dry_run"):
        _show_plan(call, name, call.text("split") or call.settings.data.test_split)
        return
    from medvqa_cli.workflows.calibrate import evaluate_calibration as evaluate

    run, metrics = evaluate(call.settings, run=name, split=call.text("split"), overwrite=call.is_on("overwrite"),
                            progress=call.progress)
    if not call.answer_json({"run": run.name, "metrics": metrics}):
        print_calibration(call.terminal, run.name, metrics)
        call.progress.say(f"Next: medvqa report {run.name}")


def _show_plan(call: Call, run: str | None, split: str | None) -> None:
    from medvqa_cli.cli.plans import show_plan

    show_plan(call, run=run, split=split)

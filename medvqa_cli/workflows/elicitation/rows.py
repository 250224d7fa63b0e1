"""The row file of each method: asked, gone on with after a kill, put in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import JsonlWriter
from medvqa_cli.workflows.asking import Failures, ask
from medvqa_cli.workflows.elicitation.inquiry import name_rows
from medvqa_cli.workflows.elicitation.sampling import plan_samples
from medvqa_cli.workflows.elicitation.statements import (
    plan_answers,
    plan_candidates,
    plan_judgements,
    plan_statements,
)
from medvqa_cli.workflows.infer import describe_data, describe_job
from medvqa_cli.workflows.row_files import Ledger, hold_row_file, leave_out_done, order_rows, report_failures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from medvqa_cli.evaluation.details import Source
    from medvqa_cli.records import Prediction, VQASample
    from medvqa_cli.workflows.elicitation.inquiry import Inquiry, Sheet

SHEETS: dict[Source, Callable[[Inquiry, Progress], Sheet]] = {
    "sampling": plan_samples, "entropy": plan_samples, "logits": plan_candidates, "likelihood": plan_answers,
    "verbalized": plan_statements, "p_true": plan_judgements}


def elicit(inquiry: Inquiry, method: Source, *, overwrite: bool = False, progress: Progress = SILENT) -> None:
    """Ask what has no row yet, and write the rows of a method; those that it builds on are written first.

    Raises:
        RunError: If there are rows made in another way and `overwrite` is not set, or another process writes them.
        AnswerError: At the end, if some questions cannot be answered.
        ModelError: If none can.
        DataError: If no question can be asked in this way.
    """
    if method == "p_true":
        elicit(inquiry, "likelihood", overwrite=overwrite, progress=progress)
    name = name_rows(method, inquiry.tag)
    sheet = SHEETS[method](inquiry, progress)
    job = describe_job(sheet.settings, inquiry.split, inquiry.engine)
    meta = job | describe_data(inquiry.settings, inquiry.run, inquiry.presented) | sheet.meta | {
        "expected": len(sheet.samples)}
    with hold_row_file(inquiry.run, name, meta, overwrite=overwrite) as path:
        rest = leave_out_done(sheet.samples, path, by_image=inquiry.engine.intake.by_image)
        progress.say(f"{sheet.stage}: {len(sheet.samples)} questions"
                     + (f", {len(sheet.samples) - len(rest)} done before" if len(rest) < len(sheet.samples) else ""))
        failures = Failures()
        with Ledger(path, inquiry.engine) as ledger, JsonlWriter(path) as writer:
            for prediction in draw_rows(sheet, rest, progress, failures):
                writer.write(prediction)
                ledger.keep()
        order_rows(path, sheet.samples)
        report_failures(path, failures, progress)


def draw_rows(sheet: Sheet, samples: Sequence[VQASample], progress: Progress,
              failures: Failures | None = None) -> Iterator[Prediction]:
    """Yield one row for each sample as soon as it is there."""
    malformed = 0
    progress.start(sheet.stage, len(samples), "question")
    for group, drawn in ask(sheet.engine, samples, sheet.call, failures):
        for prediction, faults in drawn:
            malformed += faults
            yield prediction
        progress.advance(len(group))
    progress.finish()
    sheet.complain(malformed, len(samples) * sheet.replies, progress)

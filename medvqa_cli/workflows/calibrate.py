"""`medvqa eval calibration`: sampled or stored answers to confidence, and confidence against truth."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.replies import read_reply
from medvqa_cli.errors import DataError, SettingsError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import AnswerSample, JsonlWriter, Prediction, VQASample
from medvqa_cli.runs import latest_run, open_run
from medvqa_cli.scoring.answers import parse_yes_no
from medvqa_cli.workflows.asking import ask, describe_decoding, make_decoding, seed_portion
from medvqa_cli.workflows.confidence import (
    NOTHING,
    Recalibration,
    check_recalibration,
    measure_confidence,
    tag_split,
)
from medvqa_cli.workflows.data import load_presented
from medvqa_cli.workflows.engines import open_engine
from medvqa_cli.workflows.infer import check_control, describe_data, describe_job, warn_malformed
from medvqa_cli.workflows.presentation import apply_control
from medvqa_cli.workflows.row_files import Ledger, leave_out_done, order_rows, prepare_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from medvqa_cli.inference.protocol import Engine
    from medvqa_cli.runs import Run
    from medvqa_cli.settings.schema import Settings


def evaluate_calibration(settings: Settings, *, run: str | None = None, split: str | None = None,
                         overwrite: bool = False, wanted: Recalibration = NOTHING,
                         progress: Progress = SILENT) -> tuple[Run, dict[str, Any]]:
    """Draw answers to the yes/no questions of a split and measure how far confidence can be trusted.

    Writes `samples.jsonl` (resumable) and `calibration/` in the run; the run is found as `infer_split` finds it. With a
    `calibration.method` other than sampling nothing is drawn: the answers of `predictions.jsonl` are measured. Names
    of files hold that of the split where it is not the test split.

    Args:
        settings: All settings; `calibration` says how.
        run: A run's name.
        split: Its default is test; where a calibrator is learnt, validation.
        overwrite: Draw anew what is there.
        wanted: A calibrator to learn or to apply.
        progress: Where to report.

    Returns:
        The run and the metrics block.

    Raises:
        DataError: If the split holds no closed question whose gold answer is yes or no.
        MedVQAError: On bad settings, data or model.
    """
    split = split or (settings.data.validation_split if wanted.fit else settings.data.test_split)
    check_recalibration(settings, split, wanted, progress)
    if settings.calibration.method == "sampling":
        target = sample_split(settings, split, run=run, overwrite=overwrite, progress=progress)
    elif run is None and settings.model.name:
        raise SettingsError(f"calibration.method '{settings.calibration.method}' measures the stored answers of a run, "
                            f"but a model is named: '{settings.model.name}'.",
                            "Answer with it first (`medvqa infer`), then name that run with --run.")
    else:
        target = open_run(settings.paths.runs, run) if run else latest_run(settings.paths.runs)
    return target, measure_confidence(target, settings, split=split, wanted=wanted, progress=progress)


def sample_split(settings: Settings, split: str, *, run: str | None = None, overwrite: bool = False,
                 progress: Progress = SILENT) -> Run:
    """Draw the answers to a split's yes/no questions that are not there yet; return the run that holds them.

    Raises:
        DataError: If the split holds no closed question whose gold answer is yes or no.
        MedVQAError: On bad settings, data or model.
    """
    presented = apply_control(load_presented(settings, split, progress), settings)
    samples = select_yes_no(presented.samples, split)
    target, engine = open_engine(settings, run, progress)
    check_control(engine, settings)
    options = settings.calibration
    meta = describe_job(settings, split, engine) | describe_data(settings, target, presented) | {
        "samples": options.samples, "decoding": describe_decoding(options), "expected": len(samples)}
    path = prepare_rows(target, f"samples{tag_split(settings, split)}", meta, overwrite=overwrite)
    rest = leave_out_done(samples, path, by_image=engine.intake.by_image)
    progress.say(f"{len(samples)} yes/no questions, {options.samples} answers each"
                 + (f", {len(samples) - len(rest)} done before" if len(rest) < len(samples) else ""))
    with Ledger(path, engine) as ledger, JsonlWriter(path) as writer:
        for prediction in draw_samples(engine, rest, settings, progress):
            writer.write(prediction)
            ledger.keep()
    order_rows(path, samples)
    return target


def select_yes_no(samples: Sequence[VQASample], split: str) -> list[VQASample]:
    """Return the closed questions whose gold answer is yes or no.

    Raises:
        DataError: If there is none.
    """
    found = [sample for sample in samples if sample.answer_type == "closed" and parse_yes_no(sample.answer)]
    if not found:
        raise DataError(f"Split '{split}' holds no closed question with a yes/no answer.",
                        "Calibration is measured on yes/no questions: choose another split or --question-type.")
    return found


def draw_samples(engine: Engine, samples: Sequence[VQASample], settings: Settings,
                 progress: Progress) -> Iterator[Prediction]:
    """Yield one prediction for each sample: the most frequent answer, and all answers with their counts."""
    options = settings.calibration
    malformed = 0

    def draw(portion: list[VQASample]) -> list[tuple[AnswerSample, ...]]:
        seed = seed_portion(engine, portion, settings.seed)
        return engine.sample(portion, options.samples, make_decoding(options, seed))

    progress.start("Sampling", len(samples), "question")
    for group, drawn in ask(engine, samples, draw):
        for sample, written in zip(group, drawn, strict=True):
            answers, failures = read_answers(written, sample, settings)
            malformed += failures
            yield Prediction(sample=sample, answer=answers[0].text, samples=answers)
        progress.advance(len(group))
    progress.finish()
    warn_malformed(malformed, len(samples) * options.samples, progress)


def read_answers(written: Sequence[AnswerSample], sample: VQASample,
                 settings: Settings) -> tuple[tuple[AnswerSample, ...], int]:
    """Return the answers that sampled replies give, the most frequent first, and how many replies are malformed.

    Replies that give the same answer become one: their counts add up, and so do their probabilities.
    """
    answers: dict[str, AnswerSample] = {}
    malformed = 0
    for reply in written:
        read = read_reply(reply.text, sample, settings.prompt)
        malformed += 0 if read.is_well_formed else reply.count
        known = answers.get(read.answer)
        answers[read.answer] = AnswerSample(read.answer, reply.count + (known.count if known else 0),
                                            _add_logprobs(reply.logprob, known.logprob if known else -math.inf))
    return tuple(sorted(answers.values(), key=lambda answer: (-answer.count, answer.text))), malformed


def _add_logprobs(first: float | None, second: float | None) -> float | None:
    """Return log(exp(first) + exp(second)); None if one is unknown."""
    if first is None or second is None:
        return None
    high, low = max(first, second), min(first, second)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))

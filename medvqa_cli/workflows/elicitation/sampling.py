"""Many answers to a question, and what their replies say."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from medvqa_cli.data.replies import read_reply
from medvqa_cli.records import AnswerSample, Prediction
from medvqa_cli.workflows.asking import describe_decoding, make_decoding, seed_portion
from medvqa_cli.workflows.elicitation.inquiry import Sheet, find_room, keep_asked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.inference.protocol import Engine
    from medvqa_cli.progress import Progress
    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.schema import Settings
    from medvqa_cli.workflows.elicitation.inquiry import Drawn, Inquiry


def plan_samples(inquiry: Inquiry, progress: Progress) -> Sheet:
    """Return how many answers to each question are drawn."""
    options = inquiry.settings.calibration.model_copy(update={"max_new_tokens": find_room(inquiry)})
    settings = inquiry.settings.model_copy(update={"calibration": options})
    engine = inquiry.engine
    progress.say(describe_sampling(engine, options.samples))
    meta = {"samples": options.samples, "decoding": describe_decoding(options)}
    return Sheet("Sampling", engine, keep_asked(inquiry, settings, progress), meta, inquiry.settings,
                 lambda portion: draw_portion(engine, settings, portion), options.samples)


def describe_sampling(engine: Engine, count: int) -> str:
    """Return in which way an engine draws."""
    shared = getattr(engine, "shared_prefix", None)
    if shared is None:
        return f"{count} answers a question, drawn by engine '{engine.name}'."
    if shared:
        return f"{count} answers a question, drawn as one tree: an image is read once for all its questions."
    return f"{count} answers a question, drawn row by row in batches: this model's questions do not share their image."


def draw_portion(engine: Engine, settings: Settings, portion: Sequence[VQASample]) -> list[Drawn]:
    """Return rows of sampled answers: the most frequent one, and all with their counts."""
    options, seed = settings.calibration, seed_portion(engine, portion, settings.seed)
    rows = []
    for sample, written in zip(portion, engine.sample(portion, options.samples, make_decoding(options, seed)),
                               strict=True):
        answers, faults = read_answers(written, sample, settings)
        rows.append((Prediction(sample=sample, answer=answers[0].text, samples=answers), faults))
    return rows


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

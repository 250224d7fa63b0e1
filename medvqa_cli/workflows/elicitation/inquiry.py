"""Whom confidence is asked of, about which questions, and how a method puts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import DataError
from medvqa_cli.evaluation.questions import Questions, is_asked_for
from medvqa_cli.evaluation.sampled import NONE
from medvqa_cli.workflows.engines import keep_answerable
from medvqa_cli.workflows.infer import warn_malformed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from medvqa_cli.evaluation.details import Source
    from medvqa_cli.inference.protocol import Engine
    from medvqa_cli.progress import Progress
    from medvqa_cli.records import Prediction, VQASample
    from medvqa_cli.runs import Run
    from medvqa_cli.settings.schema import Settings
    from medvqa_cli.workflows.presentation import Presented

    # A row, and how many of its replies are not in the form that was asked for.
    Drawn = tuple[Prediction, int]


@dataclass(frozen=True, slots=True)
class Inquiry:
    """Questions of a split, and who is asked.

    Attributes:
        run: Holds the rows.
        engine: Answers.
        settings: All settings.
        split: Whose questions.
        questions: Which of them.
        samples: These.
        tag: What row files of these questions have behind their name.
        presented: How all questions of the split are shown.
    """

    run: Run
    engine: Engine
    settings: Settings
    split: str
    questions: Questions
    samples: Sequence[VQASample]
    tag: str
    presented: Presented


@dataclass(frozen=True, slots=True)
class Sheet:
    """One method's questions: how they are put, what is written of each, and what decides that.

    Attributes:
        stage: What is done, for people.
        engine: Answers, put as this method puts questions.
        samples: The questions that it can be asked of.
        meta: What decides the rows, beside the rest of the job.
        settings: The job's, with prompt and decoding as they are here.
        call: A portion's rows.
        replies: Replies to a question.
        complain: Says how many of how many replies are not in the form that was asked for, if any.
    """

    stage: str
    engine: Engine
    samples: Sequence[VQASample]
    meta: dict[str, Any]
    settings: Settings
    call: Callable[[list[VQASample]], list[Drawn]]
    replies: int = 1
    complain: Callable[[int, int, Progress], None] = warn_malformed


def select_questions(samples: Sequence[VQASample], questions: Questions, split: str) -> list[VQASample]:
    """Return the questions asked for.

    Raises:
        DataError: If there is none.
    """
    found = [sample for sample in samples if is_asked_for(sample, questions)]
    if not found:
        raise DataError(f"Split '{split}' holds {NONE[questions]}.",
                        "Choose another split, or other questions with --questions: without it, calibration is "
                        "measured on yes/no questions.")
    return found


def find_obstacle(engine: Engine, questions: Questions, method: Source) -> str | None:
    """Return why a method cannot be asked of an engine, or None if it can."""
    if method == "logits" and questions == "open":
        return "open questions offer no candidates"
    if method in {"logits", "p_true"} and not engine.scores_candidates:
        return f"engine '{engine.name}' tells no log-probabilities of given answers"
    return None


def name_rows(method: Source, tag: str) -> str:
    """Return the name of a method's row file, without its ending."""
    return ("samples" if method in {"sampling", "entropy"} else method) + tag


def find_room(inquiry: Inquiry) -> int:
    """Return most tokens of an answer: `calibration.max_new_tokens`; beyond yes and no at least `infer`'s."""
    options = inquiry.settings.calibration
    if inquiry.questions == "yes_no":
        return options.max_new_tokens
    return max(options.max_new_tokens, inquiry.settings.infer.max_new_tokens)


def decode_greedily(settings: Settings, room: int) -> Settings:
    """Return settings under which the likeliest answer of at most so many tokens is written."""
    infer = settings.infer.model_copy(update={"max_new_tokens": room, "temperature": 0.0, "top_k": 0, "top_p": 1.0})
    return settings.model_copy(update={"infer": infer})


def keep_asked(inquiry: Inquiry, settings: Settings, progress: Progress) -> list[VQASample]:
    """Return the questions that the model reads whole."""
    return keep_answerable(inquiry.engine, inquiry.samples, settings, progress)

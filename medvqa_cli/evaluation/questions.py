"""Which questions confidence is measured on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from medvqa_cli.scoring.answers import is_yes_no

if TYPE_CHECKING:
    from medvqa_cli.records import VQASample

Kind = Literal["yes_no", "choice", "open"]
Questions = Literal["yes_no", "closed", "open", "all"]
QUESTIONS: tuple[Questions, ...] = get_args(Questions)


def classify_question(sample: VQASample) -> Kind:
    """Return the kind of a question: closed with yes or no as its gold answer, closed otherwise, or open."""
    if sample.answer_type != "closed":
        return "open"
    return "yes_no" if is_yes_no(sample.answer) else "choice"


def is_asked_for(sample: VQASample, questions: Questions) -> bool:
    """Return whether a question is one of those asked for; `closed` holds those with yes or no as well."""
    kind = classify_question(sample)
    return questions in ("all", kind) or (questions == "closed" and kind != "open")

"""Which questions confidence is measured on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from medvqa_cli.scoring.answers import is_yes_no, normalize_answer

if TYPE_CHECKING:
    from collections.abc import Collection

    from medvqa_cli.records import Prediction, VQASample

Kind = Literal["yes_no", "choice", "open"]
Questions = Literal["yes_no", "closed", "open", "all"]
QUESTIONS: tuple[Questions, ...] = get_args(Questions)
KINDS: dict[Questions, tuple[Kind, ...]] = {"yes_no": ("yes_no",), "closed": ("yes_no", "choice"), "open": ("open",),
                                            "all": ("yes_no", "choice", "open")}
"""The kinds among the questions asked for."""


def classify_question(sample: VQASample) -> Kind:
    """Return the kind of a question: closed with yes or no as its gold answer, closed otherwise, or open."""
    if sample.answer_type != "closed":
        return "open"
    return "yes_no" if is_yes_no(sample.answer) else "choice"


def is_asked_for(sample: VQASample, questions: Questions) -> bool:
    """Return whether a question is one of those asked for; `closed` holds those with yes or no as well."""
    return classify_question(sample) in KINDS[questions]


def classify_answered(prediction: Prediction) -> Kind:
    """Return the kind of a question that was answered.

    Where no gold answer is known, as of a picture of one's own, a question counts as a yes/no one if yes and no were
    offered, or, with nothing offered, if the answer is one of them.
    """
    sample, offered = prediction.sample, prediction.candidates
    if sample.answer:
        return classify_question(sample)
    if offered:
        return "yes_no" if {normalize_answer(name) for name in offered} == {"yes", "no"} else "choice"
    if is_yes_no(prediction.answer):
        return "yes_no"
    return "choice" if sample.answer_type == "closed" else "open"


def name_kinds(kinds: Collection[str]) -> str:
    """Return what questions of these kinds are called."""
    if set(kinds) == set(KINDS["all"]):
        return "questions of all kinds"
    words = {"yes_no": "yes/no", "choice": "other closed", "open": "open"}
    names = [word for kind, word in words.items() if kind in kinds]
    if {"yes_no", "choice"} <= set(kinds):
        names[:2] = ["closed"]
    return f"{' and '.join(names)} questions"

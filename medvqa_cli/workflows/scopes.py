"""Whose confidence is measured, how it was told, and what the files about it are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medvqa_cli.evaluation.details import Source
    from medvqa_cli.evaluation.questions import Questions
    from medvqa_cli.settings.schema import Settings


@dataclass(frozen=True, slots=True)
class Scope:
    """Questions of a split and where the confidence in their answers comes from.

    Attributes:
        split: Whose questions.
        questions: Which of them.
        method: How confidence was told.
        tag: What row files of these questions have behind their name: split and questions, where they are not the
            yes/no questions of the test split.
    """

    split: str
    questions: Questions
    method: Source
    tag: str

    @property
    def folder(self) -> str:
        """Name of the folder of metrics."""
        return f"calibration{self.tag}{self._method}"

    @property
    def calibrator(self) -> str:
        """Name of the file of a calibrator learnt here."""
        return f"calibrator{_tag_questions(self.questions)}{self._method}.json"

    @property
    def _method(self) -> str:
        return "" if self.method == "sampling" else f"-{self.method}"

    def on(self, split: str, settings: Settings) -> Scope:
        """Return the same of another split."""
        return make_scope(settings, split, self.method)


def make_scope(settings: Settings, split: str, method: Source | None = None) -> Scope:
    """Return what settings say; the method is theirs if not given."""
    chosen = method or settings.calibration.method
    if chosen == "all":
        raise ValueError("a scope is about one method")
    questions = choose_questions(settings)
    return Scope(split, questions, chosen, tag_split(settings, split) + _tag_questions(questions))


def choose_questions(settings: Settings) -> Questions:
    """Return which questions count: yes/no ones, unless others are asked for or only open ones are used."""
    if settings.calibration.questions:
        return settings.calibration.questions
    return "open" if settings.data.question_type == "open" else "yes_no"


def tag_split(settings: Settings, split: str) -> str:
    """Return what is appended to file names for a split: nothing for the test split."""
    return "" if split == settings.data.test_split else f"-{split}"


def _tag_questions(questions: Questions) -> str:
    return "" if questions == "yes_no" else f"-{questions}"

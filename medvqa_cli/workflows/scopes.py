"""Which answers are meant, and what the files about them are called: by split, control, questions and method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from medvqa_cli.evaluation.details import Source
    from medvqa_cli.evaluation.questions import Questions
    from medvqa_cli.runs import Run
    from medvqa_cli.settings.schema import Settings


@dataclass(frozen=True, slots=True)
class Scope:
    """Questions of a split and where the confidence in their answers comes from.

    Attributes:
        split: Whose questions.
        questions: Which of them.
        method: How confidence was told.
        shown: Parts of names that say what the model was shown, where that is not the image as it was trained with.
        tag: What row files of these questions have behind their name: what was shown, split and questions, where these
            are not the yes/no questions of the test split.
        stored: Name of the row file that `medvqa infer` writes of the same, without its ending.
    """

    split: str
    questions: Questions
    method: Source
    shown: tuple[str, ...]
    tag: str
    stored: str

    @property
    def folder(self) -> str:
        """Name of the folder of metrics."""
        return f"calibration{self.tag}{self._method}"

    @property
    def calibrator(self) -> str:
        """Name of the file of a calibrator learnt here."""
        return f"calibrator{_join(self.shown)}{tag_questions(self.questions)}{self._method}.json"

    @property
    def _method(self) -> str:
        return "" if self.method == "sampling" else f"-{self.method}"


def make_scope(settings: Settings, split: str, method: Source | None = None, run: Run | None = None) -> Scope:
    """Return what settings say; the method is theirs if not given.

    With a run, other facts or another part of the image than it was trained with belong to the names.
    """
    chosen = method or settings.calibration.method
    if chosen == "all":
        raise ValueError("a scope is about one method")
    questions = choose_questions(settings)
    answers = tag_answers(settings, split, run)
    return Scope(split, questions, chosen, (*name_control(settings), *_name_presentation(settings, run)),
                 f"{answers}{tag_questions(questions)}", f"predictions{answers}")


def choose_questions(settings: Settings) -> Questions:
    """Return which questions count: yes/no ones, unless others are asked for or only open ones are used."""
    if settings.calibration.questions:
        return settings.calibration.questions
    return "open" if settings.data.question_type == "open" else "yes_no"


def tag_answers(settings: Settings, split: str, run: Run | None = None) -> str:
    """Return what is appended to file names of answers that are not the run's main ones.

    That is, those of a control, to another split than test, with other facts or another part of the image than trained
    with.
    """
    splits = [] if split == settings.data.test_split else [split]
    return _join([*name_control(settings), *splits, *_name_presentation(settings, run)])


def name_control(settings: Settings) -> list[str]:
    """Return the parts of a tag that say in which control answers were made."""
    control, places = settings.infer.shown, settings.infer.option_rotation
    return ([control] if control != "off" else []) + ([f"options-{places}"] if places else [])


def _name_presentation(settings: Settings, run: Run | None) -> list[str]:
    own = run.read_json("settings.json") if run and run.settings.is_file() else {}
    return [f"{section}-{mode}" for section, mode in (("mask", settings.mask.mode),
                                                      ("knowledge", settings.knowledge.mode))
            if mode != own.get(section, {}).get("mode", mode)]


def _join(parts: Iterable[str]) -> str:
    return "".join(f"-{part}" for part in parts)


def tag_questions(questions: Questions) -> str:
    """Return what is appended to file names for questions: nothing for those of yes or no."""
    return "" if questions == "yes_no" else f"-{questions}"

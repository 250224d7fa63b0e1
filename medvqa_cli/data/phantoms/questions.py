"""What is asked about a phantom, the answer, and the true law of the answer given the picture.

"Left" and "right" are sides of the picture, so no convention of radiology is needed. Within every question text the
answers are about equally frequent, and no text tells anything about another attribute: without the picture nothing
much above 60 % can be had.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medvqa_cli.data.phantoms.cases import MODALITIES, REGIONS

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Mapping, Sequence

    from medvqa_cli.data.phantoms.cases import Case
    from medvqa_cli.records import AnswerType

MAX_QUESTIONS = 10  # a picture without a clear lesion has no more
NUMBERS = ("none", "one", "two")
# An image with one lesion is asked whether there is more than one only this often: as many "no" as "yes".
SHARE_OF_COUNT = 0.62
LESION_WEIGHT = 3  # places are learned slowly, modality and region quickly
IS_MODALITY = {"CT": "Is this a CT scan?", "MRI": "Is this an MRI scan?", "X-Ray": "Is this an X-ray?"}
IS_REGION = {"chest": "Is this an image of the chest?", "abdomen": "Is this an image of the abdomen?",
             "head": "Is this an image of the head?"}
SHOWS_ORGAN = {"chest": "Does the image show the lungs?", "abdomen": "Does the image show the liver?",
               "head": "Does the image show the skull?"}


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its answer, and the probability of every possible answer given the picture."""

    text: str
    question_type: str
    answer_type: AnswerType
    answer: str
    probabilities: Mapping[str, float]
    options: tuple[str, ...] = ()

    @property
    def is_ambiguous(self) -> bool:
        """Whether the picture leaves the answer open."""
        return max(self.probabilities.values()) < 1.0


def draw_questions(case: Case, count: int, chance: random.Random) -> list[Question]:
    """Return `count` different questions about a case, drawn from all that can be asked, in a fixed order."""
    weighed = [(1, question) for question in (*_ask_presence(case), *_ask_picture(case, chance))]
    if case.kind in {"single", "double"}:
        weighed += [(1, question) for question in _ask_more(case, chance)]
    if case.kind == "single":
        weighed += [(LESION_WEIGHT, question) for question in _ask_lesion(case)]
    # Weighted drawing without replacement (Efraimidis and Spirakis 2006): the largest u ** (1 / weight) win.
    keys = [chance.random() ** (1 / weight) for weight, _ in weighed]
    chosen = sorted(sorted(range(len(keys)), key=keys.__getitem__)[-count:])
    return [weighed[index][1] for index in chosen]


def _ask_presence(case: Case) -> Iterator[Question]:
    """Yield what depends on whether there is a lesion: the questions a smudge leaves open."""
    count = NUMBERS[len(case.findings)]
    yield _decide(case, "Is there a lesion in the image?", "Presence", ("no", "yes"))
    yield _decide(case, "Does the image show an abnormality?", "Presence", ("no", "yes"))
    yield _decide(case, "Does this image look normal?", "Normality", ("yes", "no"))
    yield _decide(case, "Is the image free of lesions?", "Normality", ("yes", "no"))
    yield _decide(case, "How many lesions are there?", "Count", ("none", count), "open")


def _ask_picture(case: Case, chance: random.Random) -> Iterator[Question]:
    modality = _draw_claim(case.modality, MODALITIES, chance)
    region = _draw_claim(case.region, REGIONS, chance)
    shown = _draw_claim(case.region, REGIONS, chance)
    yield _say(IS_MODALITY[modality], "Modality", modality == case.modality)
    yield _say(IS_REGION[region], "Region", region == case.region)
    yield _say(SHOWS_ORGAN[shown], "Organ", shown == case.region)
    yield _tell("Which modality is used to take this image?", "Modality", case.modality)
    yield _tell("Which part of the body is shown?", "Region", case.region)


def _ask_more(case: Case, chance: random.Random) -> Iterator[Question]:
    if case.kind == "double" or chance.random() < SHARE_OF_COUNT:
        yield _say("Is there more than one lesion?", "Count", case.kind == "double")


def _ask_lesion(case: Case) -> Iterator[Question]:
    lesion = case.findings[0]
    yield _say("Is the lesion on the left side of the image?", "Side", lesion.side == "left")
    yield _choose("Is the lesion on the left or the right side of the image?", "Side", ("left", "right"), lesion.side)
    yield _say("Is the lesion in the upper half of the image?", "Height", lesion.height == "upper")
    yield _choose("Is the lesion in the upper or the lower half of the image?", "Height", ("upper", "lower"),
                  lesion.height)
    yield _say("Is the lesion large?", "Size", lesion.size == "large")
    yield _tell("How large is the lesion?", "Size", lesion.size)
    yield _tell("Where is the lesion?", "Position", f"{lesion.height} {lesion.side}")
    yield _tell("Which organ is affected by the lesion?", "Organ", case.find_organ(lesion))


def _draw_claim(truth: str, values: Sequence[str], chance: random.Random) -> str:
    """Return the truth or something else, with equal chances."""
    return truth if chance.random() < 0.5 else chance.choice([value for value in values if value != truth])


def _decide(case: Case, text: str, question_type: str, answers: tuple[str, str],
            answer_type: AnswerType = "closed") -> Question:
    """Return a question whose answer is answers[1] if there is a lesion, else answers[0]."""
    law = {answers[1]: case.lesion_probability, answers[0]: round(1.0 - case.lesion_probability, 6)}
    return Question(text, question_type, answer_type, answers[case.has_lesion],
                    {answer: probability for answer, probability in law.items() if probability > 0.0})


def _say(text: str, question_type: str, truth: bool) -> Question:
    answer = "yes" if truth else "no"
    return Question(text, question_type, "closed", answer, {answer: 1.0})


def _choose(text: str, question_type: str, options: tuple[str, ...], answer: str) -> Question:
    return Question(text, question_type, "closed", answer, {answer: 1.0}, options)


def _tell(text: str, question_type: str, answer: str) -> Question:
    return Question(text, question_type, "open", answer, {answer: 1.0})

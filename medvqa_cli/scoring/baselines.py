"""How far one gets without looking at the picture: answers guessed from the training questions alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from medvqa_cli.scoring.answers import normalize_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Example(NamedTuple):
    """A question with its type (may be empty) and its gold answer."""

    question: str
    question_type: str
    answer: str


KEYS: dict[str, Callable[[Example], str]] = {
    "majority": lambda _: "",
    "majority_per_question_type": lambda example: example.question_type,
    "same_question_text": lambda example: normalize_answer(example.question),
}
"""Baseline -> what a test question must share with training questions for their answers to count."""


def guess_answers(train: Sequence[Example], test: Sequence[Example], baseline: str) -> list[str]:
    """Return for each test question the most frequent normalized answer of the training questions that share its key.

    Where none does, the most frequent answer of all training questions is taken; of equally frequent answers the one
    that comes first in the training data.

    Args:
        train: Training questions, at least one.
        test: Questions to answer; their gold answers are not looked at.
        baseline: One of `KEYS`.

    Raises:
        ValueError: If there is no training question.
    """
    if not train:
        raise ValueError("a baseline needs at least one training question")
    key = KEYS[baseline]
    answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    for example in train:
        answer = normalize_answer(example.answer)
        answers[key(example)][answer] += 1
        overall[answer] += 1
    best = {shared: _most_frequent(counts) for shared, counts in answers.items()}
    fallback = _most_frequent(overall)
    return [best.get(key(example), fallback) for example in test]


def score_baselines(train: Sequence[Example], test: Sequence[Example]) -> dict[str, float | None]:
    """Return each baseline's accuracy: the share, in 0-1, of test questions whose guess equals the normalized gold.

    None where there is no training or no test question.
    """
    if not train or not test:
        return dict.fromkeys(KEYS)
    golds = [normalize_answer(example.answer) for example in test]
    return {name: sum(map(str.__eq__, guess_answers(train, test, name), golds)) / len(golds) for name in KEYS}


def _most_frequent(counts: Counter[str]) -> str:
    return counts.most_common(1)[0][0]

"""What is counted of every answer: families of measures over one row of counts a question.

There is no METEOR: its libraries need a Java program, or a download of WordNet, for the synonyms it is made of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medvqa_cli.scoring.answers import is_closed_correct, match_exactly, recall_openly, score_tokens
from medvqa_cli.scoring.choices import is_choice_correct
from medvqa_cli.scoring.intervals import SHARE
from medvqa_cli.scoring.profiles import LLAVA_MED, Profile, find_profile, name_key
from medvqa_cli.scoring.resampling import Counted, take_mean
from medvqa_cli.scoring.text import (
    BLEU_COLUMNS,
    combine_bleu,
    count_bleu,
    measure_clipped_precision,
    score_rouge,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from medvqa_cli.records import Prediction, VQASample
    from medvqa_cli.scoring.resampling import Combine

BLEU = ("bleu_1", "bleu_2", "bleu_3", "bleu_4")
ROUGE = {"rouge_1": 1, "rouge_2": 2, "rouge_l": None}
PARTS = ("precision", "recall", "f1")


@dataclass(frozen=True, slots=True)
class Case:
    """An answer beside all gold answers that count, with their words under a profile."""

    sample: VQASample
    answer: str
    golds: tuple[str, ...]
    profile: Profile
    found: Sequence[str]
    wanted: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Family:
    """Measures over one row of counts.

    `count` returns a case's row of `width` numbers, or None where the family does not ask about the question.
    `measures` maps each name to what it makes of summed rows. A `profile` of its own stands above the chosen ones.
    """

    width: int
    count: Callable[[Case], Sequence[float] | None]
    measures: Mapping[str, Combine]
    profile: Profile | None = None


def make_case(prediction: Prediction, profile: Profile) -> Case:
    """Return an answer as it is compared under a profile."""
    sample = prediction.sample
    golds = (sample.answer, *sample.alternatives)
    return Case(sample, prediction.answer, golds, profile, profile.split(prediction.answer),
                [profile.split(gold) for gold in golds])


def count_measures(predictions: Sequence[Prediction], families: Sequence[str],
                   profiles: Sequence[str]) -> dict[str, Counted]:
    """Return every measure's counts, [predictions, columns], under its key "NAME@PROFILE"; "match" always comes first.

    The last column says how many questions are counted; measures that ask about none are left out.

    Raises:
        SettingsError: If a profile is unknown.
    """
    tables: dict[str, Counted] = {}
    for family in (FAMILIES[name] for name in dict.fromkeys(("match", *families)) if name in FAMILIES):
        for profile in _list_profiles(family, profiles):
            rows = _count_rows(family, [make_case(prediction, profile) for prediction in predictions])
            if rows[:, -1].any():
                tables |= {name_key(key, profile.name): Counted(rows, combine, None if key in BLEU else SHARE)
                           for key, combine in family.measures.items()}
    return tables


def list_rules(families: Sequence[str]) -> dict[str, str]:
    """Return what each measure of some families is, by name without its profile."""
    return {key: RULES[key] for name in dict.fromkeys(("match", *families)) if name in FAMILIES
            for key in FAMILIES[name].measures}


def _list_profiles(family: Family, profiles: Sequence[str]) -> list[Profile]:
    return [family.profile] if family.profile else [find_profile(name) for name in dict.fromkeys(profiles)]


def _count_rows(family: Family, cases: Sequence[Case]) -> NDArray[np.float64]:
    empty = [0.0] * family.width
    return np.asarray([empty if (row := family.count(case)) is None else row for case in cases],
                      float).reshape(len(cases), family.width)


def average(column: int) -> Combine:
    """Return the function from summed rows to the mean of a column over the questions that the last column counts."""
    return lambda sums: take_mean(sums[..., [column, -1]])


def _order(order: int) -> Combine:
    return lambda sums: combine_bleu(sums[..., :BLEU_COLUMNS], order)


def _count_match(case: Case) -> list[float]:
    exact = match_exactly(case.answer, case.golds, case.profile)
    is_closed = case.sample.answer_type == "closed"
    right = is_closed_correct(case.answer, case.golds[0], case.golds[1:], case.profile) if is_closed else exact
    return [float(right), float(exact), 1.0]


def _count_tokens(case: Case) -> list[float]:
    score = score_tokens(case.answer, case.golds, case.profile)
    return [score.precision, score.recall, score.f1, 1.0]


def _count_open_recall(case: Case) -> list[float] | None:
    if case.sample.answer_type != "open":
        return None
    return [max(recall_openly(case.found, gold) for gold in case.wanted), 1.0]


def _count_bleu(case: Case) -> list[float]:
    return [*count_bleu(case.found, case.wanted), measure_clipped_precision(case.found, case.wanted), 1.0]


def _count_rouge(case: Case) -> list[float]:
    return [*_list_rouge(case), 1.0]


def _list_rouge(case: Case) -> Iterator[float]:
    for order in ROUGE.values():
        score = score_rouge(case.found, case.wanted, order)
        yield from (getattr(score, part) for part in PARTS)


def _count_choices(case: Case) -> list[float] | None:
    right = is_choice_correct(case.answer, case.golds[0], case.sample.options) if case.sample.options else None
    return None if right is None else [float(right), 1.0]


FAMILIES: dict[str, Family] = {
    "match": Family(3, _count_match, {"accuracy": average(0), "exact_match": average(1)}),
    "tokens": Family(4, _count_tokens, {f"token_{part}": average(column) for column, part in enumerate(PARTS)}),
    "open_recall": Family(2, _count_open_recall, {"open_recall": average(0)}, LLAVA_MED),
    "bleu": Family(BLEU_COLUMNS + 2, _count_bleu, {
        **{name: _order(order) for order, name in enumerate(BLEU, start=1)},
        "mean_precision_1": average(BLEU_COLUMNS)}),
    "rouge": Family(len(ROUGE) * len(PARTS) + 1, _count_rouge, {
        name if part == "f1" else f"{name}_{part}": average(place * len(PARTS) + number)
        for place, name in enumerate(ROUGE) for number, part in enumerate(PARTS)}),
    "choices": Family(2, _count_choices, {"choice_accuracy": average(0)}),
}
"""Name of a family, as in `evaluation.metrics` -> its measures."""
RULES = {
    "accuracy": "closed questions: yes/no parsed by word boundary where the gold answer is yes or no, exact match "
                "otherwise; open questions: exact match",
    "exact_match": "normalized answers equal; lists in any order; alternatives count",
    "token_precision": "share of the answer's words that are in the gold answer",
    "token_recall": "share of the gold answer's words found",
    "token_f1": "word overlap with the gold answer, F1",
    "open_recall": "LLaVA-Med's recall of open answers: right words counted as often as the answer says them",
    **{name: f"corpus BLEU, 1 to {order} words in a row, brevity penalty, no smoothing"
       for order, name in enumerate(BLEU, start=1)},
    "mean_precision_1": "the \u201cBLEU-1\u201d of several VQA-RAD scripts: clipped share of the answer's words, no "
                        "brevity penalty, mean over the questions",
    **{measure: "longest common subsequence of words, no stemming" if measure.startswith("rouge_l")
       else f"runs of {measure[6]} words, no stemming" for measure in FAMILIES["rouge"].measures},
    "choice_accuracy": "questions with options: the option named by letter or text is the gold one",
}
"""What each measure is, by name without its profile."""

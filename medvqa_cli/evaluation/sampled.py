"""Sampled answers to a question: what most of them say, and how far they agree."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import DataError
from medvqa_cli.evaluation.answered import Detail, fill_detail, is_right
from medvqa_cli.evaluation.questions import Questions, classify_question, is_asked_for
from medvqa_cli.scoring.answers import normalize_answer, parse_yes_no
from medvqa_cli.scoring.clusters import cluster_answers, measure_agreement, measure_entropy
from medvqa_cli.scoring.confidence import check_logprob, count_options, vote_yes_no

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from medvqa_cli.records import AnswerSample, Prediction
    from medvqa_cli.scoring.clusters import Comparison

DRAW = "Draw answers with `medvqa eval calibration --overwrite`."
NONE: dict[Questions, str] = {"yes_no": "no closed question with a yes/no answer", "closed": "no closed question",
                              "open": "no open question", "all": "no question"}


@dataclass(frozen=True, slots=True)
class Reading:
    """How sampled answers are read.

    Args:
        options: Question id -> the options that a closed question offers, each in its forms.
        compare: Returns, for a question's text, whether one answer to it means what another means; None: answers are
            the same that are equal once normalized.
    """

    options: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    compare: Callable[[str], Comparison] | None = None


PLAIN = Reading()


def read_samples(predictions: Sequence[Prediction], questions: Questions, reading: Reading = PLAIN) -> list[Detail]:
    """Return what the sampled answers to each question say, and how far they agree.

    Raises:
        DataError: If no prediction is about such a question, none has samples, or a log-probability is no number.
    """
    chosen = [prediction for prediction in predictions if is_asked_for(prediction.sample, questions)]
    if not chosen:
        raise DataError(f"There is {NONE[questions]} among the sampled ones.",
                        "Calibration is measured on yes/no questions unless --questions says otherwise: choose another "
                        "split or other questions.")
    if not any(answer.count for prediction in chosen for answer in prediction.samples):
        raise DataError(f"The {len(chosen)} {'yes/no ' if questions == 'yes_no' else ''}questions have no sampled "
                        "answers.", DRAW)
    return [count_samples(prediction, reading) for prediction in chosen]


def count_samples(prediction: Prediction, reading: Reading = PLAIN) -> Detail:
    """Return what the sampled answers to one question say.

    Raises:
        DataError: If a log-probability is no number.
    """
    for answer in prediction.samples:
        if answer.logprob is not None:
            check_logprob(answer.logprob, f"of a sampled answer to question '{prediction.sample.question_id}'")
    kind = classify_question(prediction.sample)
    options = reading.options.get(prediction.sample.question_id)
    if kind == "yes_no":
        return _count_yes_no(prediction)
    return _count_options(prediction, options) if kind == "choice" and options else _count_meanings(prediction, reading)


def _count_yes_no(prediction: Prediction) -> Detail:
    counts = {"yes": 0, "no": 0, None: 0}
    for answer in prediction.samples:
        counts[parse_yes_no(answer.text)] += answer.count
    vote = vote_yes_no(counts["yes"], counts["no"])
    shares = [counts["yes"], counts["no"]]
    return fill_detail(prediction, predicted=vote.answer, confidence=vote.confidence, p_yes=vote.p_yes,
                 is_correct=vote.is_valid and vote.answer == normalize_answer(prediction.sample.answer),
                 is_valid=vote.is_valid, yes_count=counts["yes"], no_count=counts["no"], unknown_count=counts[None],
                 **_measure_shares(shares))


def _count_options(prediction: Prediction, options: Sequence[Sequence[str]]) -> Detail:
    """Return what samples say to a question that offers options; those that name none do not count."""
    drawn = _add_up(prediction.samples)
    votes = count_options(drawn, options)
    valid = sum(votes.values())
    best = max(votes, key=votes.__getitem__)
    return fill_detail(prediction, predicted=normalize_answer(best) if valid else "", p_yes=None,
                 confidence=votes[best] / valid if valid else 1 / len(votes), is_valid=valid > 0,
                 is_correct=valid > 0 and is_right(best, prediction.sample), unknown_count=sum(drawn.values()) - valid,
                 **_measure_shares(list(votes.values())))


def _count_meanings(prediction: Prediction, reading: Reading) -> Detail:
    """Return what samples say to any question: answers of one meaning count together, by the most frequent of them."""
    compare = reading.compare(prediction.sample.question) if reading.compare else None
    clusters = cluster_answers(prediction.samples, compare)
    drawn, valid = sum(answer.count for answer in prediction.samples), sum(cluster.count for cluster in clusters)
    answer = clusters[0].answers[0] if clusters else ""
    return fill_detail(prediction, predicted=normalize_answer(answer), p_yes=None, is_valid=bool(clusters),
                 confidence=measure_agreement(clusters) if clusters else 0.0,
                 is_correct=bool(clusters) and is_right(answer, prediction.sample), unknown_count=drawn - valid,
                 valid_count=valid, num_meanings=len(clusters),
                 entropy=measure_entropy(clusters) if clusters else None)


def _measure_shares(counts: Sequence[int]) -> dict[str, Any]:
    """Return how many answers could be read, how many things they say, and the entropy of these."""
    total, said = sum(counts), [count for count in counts if count]
    entropy = -sum(count / total * math.log(count / total) for count in said) or 0.0
    return {"valid_count": total, "num_meanings": len(said), "entropy": entropy if total else None}


def _add_up(samples: Sequence[AnswerSample]) -> dict[str, int]:
    drawn: dict[str, int] = {}
    for answer in samples:
        drawn[answer.text] = drawn.get(answer.text, 0) + answer.count
    return drawn


def rate_by_entropy(detail: Detail) -> Detail:
    """Return a detail whose confidence is the reciprocal of how many meanings the entropy amounts to."""
    return detail if detail.entropy is None else replace(detail, confidence=math.exp(-detail.entropy))

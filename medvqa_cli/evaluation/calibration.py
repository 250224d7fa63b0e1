"""Sampled answers to confidence, and confidence against truth, on yes/no questions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medvqa_cli.errors import DataError
from medvqa_cli.scoring import calibration as scoring
from medvqa_cli.scoring.answers import normalize_answer, parse_yes_no
from medvqa_cli.scoring.intervals import bootstrap_statistic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.records import Prediction
    from medvqa_cli.scoring.intervals import Statistic
    from medvqa_cli.settings.schema import EvaluationSettings

RULES = {
    "confidence": "share of the majority among the sampled answers that parse as yes or no; unparsed answers do not "
                  "count; without any valid answer 0.5",
    "predicted": "yes if p_yes >= 0.5, else no",
    "ece": "sum over equal-width bins (lower, upper] of (size / n) |accuracy - confidence|",
    "overconfidence": "the part of the ECE from bins whose confidence exceeds their accuracy",
    "bias_floor": "mean ECE of a perfectly calibrated model with these p_yes, questions and samples, by simulation",
}


@dataclass(frozen=True, slots=True)
class Detail:
    """One question's sampled answers; field names are those of the framework this command replaces."""

    question_id: str
    image_id: str
    question: str
    ground_truth: str
    predicted: str
    confidence: float
    p_yes: float
    p_no: float
    is_correct: bool
    is_valid: bool
    yes_count: int
    no_count: int
    unknown_count: int
    true_p_yes: float | None


def count_votes(predictions: Sequence[Prediction]) -> list[Detail]:
    """Return what the sampled answers to each yes/no question say.

    Raises:
        DataError: If no prediction is about a closed question whose gold answer is yes or no.
    """
    details = [_count(prediction) for prediction in predictions
               if prediction.sample.answer_type == "closed" and _is_yes_no(prediction.sample.answer)]
    if not details:
        raise DataError("There is no closed question with a yes/no answer among the sampled ones.",
                        "Calibration is measured on yes/no questions: choose another split or --question-type.")
    return details


def _is_yes_no(gold: str) -> bool:
    return normalize_answer(gold) in ("yes", "no")


def _count(prediction: Prediction) -> Detail:
    counts = {"yes": 0, "no": 0, None: 0}
    for answer in prediction.samples:
        counts[parse_yes_no(answer.text)] += answer.count
    vote = scoring.vote_yes_no(counts["yes"], counts["no"])
    sample = prediction.sample
    gold = normalize_answer(sample.answer)
    law = sample.answer_probabilities
    return Detail(question_id=sample.question_id, image_id=sample.image_id, question=sample.question, ground_truth=gold,
                  predicted=vote.answer, confidence=vote.confidence, p_yes=vote.p_yes, p_no=1 - vote.p_yes,
                  is_correct=vote.is_valid and vote.answer == gold, is_valid=vote.is_valid, yes_count=counts["yes"],
                  no_count=counts["no"], unknown_count=counts[None],
                  true_p_yes=law.get("yes", 0.0) if law is not None else None)


def summarize_confidence(details: Sequence[Detail], settings: EvaluationSettings, *, num_bins: int,
                         num_samples: int, seed: int = 0) -> dict[str, Any]:
    """Return calibration metrics with intervals clustered by image, bins, bias floor and protocol.

    A question without any valid answer counts as wrong with confidence 0.5, and in `valid_response_rate`.
    """
    bins = scoring.bin_confidences([d.confidence for d in details], [d.is_correct for d in details], num_bins)
    answers = sum(d.yes_count + d.no_count + d.unknown_count for d in details)
    valid = sum(d.yes_count + d.no_count for d in details)
    return {
        "ece": scoring.expected_calibration_error(bins), "mce": scoring.maximum_calibration_error(bins),
        "overconfidence": scoring.overconfidence(bins), "underconfidence": scoring.underconfidence(bins),
        "accuracy": float(np.mean([d.is_correct for d in details])),
        "mean_confidence": float(np.mean([d.confidence for d in details])),
        "brier": scoring.brier_score([d.p_yes for d in details], [d.ground_truth == "yes" for d in details]),
        "bias_floor": scoring.simulate_bias_floor([d.p_yes for d in details], num_samples, num_bins, seed=seed),
        "valid_response_rate": valid / answers if answers else 0.0,
        "questions_without_valid_answer": sum(not d.is_valid for d in details),
        "num_questions": len(details), "num_samples": num_samples,
        "intervals": _measure_intervals(details, num_bins, settings, seed),
        "known_law": _compare_with_truth(details),
        "bin_data": [{"bin_lower": b.lower, "bin_upper": b.upper, "bin_size": b.size, "accuracy": b.accuracy,
                      "confidence": b.confidence, "gap": b.gap} for b in bins],
        "protocol": {"rules": RULES, "num_bins": num_bins, "n": len(details),
                     "images": len({d.image_id for d in details}),
                     "intervals": {"method": "percentile bootstrap over images", "level": settings.confidence_level,
                                   "resamples": settings.resamples, "seed": seed}},
    }


def _measure_intervals(details: Sequence[Detail], num_bins: int, settings: EvaluationSettings,
                       seed: int) -> dict[str, Any]:
    images = [d.image_id for d in details]
    sure = np.asarray([d.confidence for d in details])
    right = np.asarray([d.is_correct for d in details], float)
    statistics: dict[str, Statistic] = {
        "accuracy": lambda rows: float(right[rows].mean()),
        "mean_confidence": lambda rows: float(sure[rows].mean()),
        "ece": lambda rows: scoring.measure_error(sure[rows], right[rows], num_bins),
    }
    found = {name: bootstrap_statistic(statistic, images, level=settings.confidence_level,
                                       resamples=settings.resamples, seed=seed)
             for name, statistic in statistics.items()}
    return {name: {"low": interval.low, "high": interval.high} for name, interval in found.items()}


def _compare_with_truth(details: Sequence[Detail]) -> dict[str, Any] | None:
    """Return how far p_yes lies from the true probability where that is known, ambiguous questions apart."""
    known = [(d.p_yes, d.true_p_yes) for d in details if d.true_p_yes is not None]
    if not known:
        return None
    unsure = [(found, true) for found, true in known if 0 < true < 1]
    return {"num_questions": len(known), "num_ambiguous": len(unsure),
            "mean_absolute_error": float(np.mean([abs(found - true) for found, true in known])),
            "mean_absolute_error_ambiguous": float(np.mean([abs(f - t) for f, t in unsure])) if unsure else None}


def to_rows(details: Sequence[Detail]) -> list[dict[str, Any]]:
    """Return the details as plain objects, for detailed_results.json."""
    return [asdict(detail) for detail in details]

"""Confidence against truth: every measure with its interval, and how it was measured."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from medvqa_cli.evaluation.details import SAMPLED, Detail, Source, count_votes, to_rows
from medvqa_cli.scoring import calibration as scoring
from medvqa_cli.scoring.intervals import METHOD, RULE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.scoring.intervals import Interval
    from medvqa_cli.settings.schema import EvaluationSettings

__all__ = ["RULES", "Detail", "count_votes", "list_measures", "summarize_confidence", "to_rows"]

CONFIDENCES: dict[Source, str] = {
    "sampling": "share of the majority among the sampled answers that can be read (yes or no; an option on offer; any "
                "text, equal ones counted together); the others do not count; without any valid answer as likely as "
                "each of the candidates, 0 to an open question",
    "entropy": "exp(-H), H the discrete semantic entropy of the sampled answers in nats (Farquhar et al. 2024, Nature "
               "630): one over how many different things they say; it ranks as H does, but is no probability of being "
               "right by itself",
    "logits": "probability of the answer among the candidates offered, softmax of their whole log-probabilities",
    "likelihood": "geometric mean of the probabilities of the answer's tokens (Malinin and Gales 2021, "
                  "arXiv:2002.07650)",
    "verbalized": "what the answer's text states last (Tian et al. 2023, arXiv:2305.14975); answers that state none "
                  "are left out",
    "p_true": "probability of True against False as the reply to whether the answer is true (Kadavath et al. 2022, "
              "arXiv:2207.05221)",
}
CORRECT = "yes/no questions: the answer parses as the gold answer; others: exact match once normalized"
RULES = {
    "ece": "sum over equal-width bins (lower, upper] of (size / n) |accuracy - confidence|",
    "ece_equal_mass": "the same over bins of about equal size; equal confidences stay together",
    "ece_debiased": "the ECE less what chance adds to it (Kumar et al. 2019); may fall below 0",
    "overconfidence": "the part of the ECE from bins whose confidence exceeds their accuracy",
    "brier": "mean squared difference of confidence and correctness; on yes/no questions that of p_yes and truth too",
    "nll": "mean negative log-likelihood of correctness in nats, confidences held inside [clip, 1 - clip]",
    "auroc": "chance that a right answer is surer than a wrong one",
    "aurc": "mean over k of the share of wrong answers among the k surest",
    "excess_aurc": "the AURC less that of the best order at this accuracy",
}
FLOORS = {
    "p_yes": "mean ECE of a perfectly calibrated model with these p_yes, questions and samples, by simulation",
    "shares": "mean ECE of a perfectly calibrated model with these shares, questions and samples, by simulation; that "
              "another answer may win the vote is left out",
    "exact": "mean ECE of a perfectly calibrated model with these confidences, by simulation",
}
MIN_VALID = 0.9
"""Below this share of answers that can be read, the measures come with a warning."""
PREDICTED = "yes if p_yes >= 0.5, else no"
EXACT_CLIP = 1e-6


def choose_clip(num_samples: int | None) -> float:
    """Return how near to 0 and 1 a confidence counts: half of what one sample more or less shows."""
    return 1 / (2 * num_samples) if num_samples else EXACT_CLIP


def summarize_confidence(details: Sequence[Detail], settings: EvaluationSettings, *, num_bins: int,
                         num_samples: int | None, seed: int = 0, source: Source = "sampling",
                         asked: int | None = None) -> dict[str, Any]:
    """Return calibration metrics with intervals clustered by image, bins, bias floor and protocol.

    A question without any valid sampled answer counts as wrong, as sure as a guess: 1 / k of k candidates (0.5 for yes
    or no), 0 where the question is open. It counts in `valid_response_rate`; the measures over the other questions
    stand under "readable" ({"n", measure: {"value", "low", "high"}}, None where all or none can be read). "warnings"
    say in words what stands against the numbers.

    Args:
        details: One row a question.
        settings: Of the intervals.
        num_bins: Bins.
        num_samples: Answers drawn for each; None where the confidence is no share of samples.
        seed: Of bootstrap and simulation.
        source: How the confidences were made.
        asked: Questions answered, those without a confidence included; None: as many as details.
    """
    sure, right = [d.confidence for d in details], [d.is_correct for d in details]
    options: dict[str, Any] = {"num_bins": num_bins, "level": settings.confidence_level,
                               "resamples": settings.resamples, "seed": seed}
    measures = list_measures(sure, right, [d.image_id for d in details], choose_clip(num_samples), options)
    sweep, sweep_bins = scoring.sweep_calibration_error(sure, right)
    bins = scoring.bin_confidences(sure, right, num_bins)
    return {name: _to_number(interval.estimate) for name, interval in measures.items()} | {
        "ece_sweep": sweep, "ece_sweep_bins": sweep_bins,
        "squared_error_debiased": scoring.squared_calibration_error(bins),
        "brier_parts": asdict(scoring.decompose_brier(sure, right, num_bins)),
        "bias_floor": _simulate_floor(details, num_samples, num_bins, source=source, seed=seed),
        "valid_response_rate": _share_valid(details, asked),
        "questions_without_valid_answer": sum(not d.is_valid for d in details),
        "questions_without_confidence": (asked or len(details)) - len(details),
        "num_valid_responses": sum(d.valid_count for d in details) if source in SAMPLED else None,
        "num_unparsed_responses": sum(d.unknown_count for d in details) if source in SAMPLED else None,
        "num_questions": len(details), "num_samples": num_samples, "method": source,
        "intervals": {name: {"low": interval.low, "high": interval.high} for name, interval in measures.items()},
        "readable": _measure_readable(details, num_samples, options),
        "warnings": _list_warnings(details, asked, source),
        "known_law": _compare_with_truth(details),
        "bin_data": _list_bins(details, options),
        "risk_coverage": [{"threshold": threshold, "coverage": coverage, "risk": risk}
                          for threshold, coverage, risk in scoring.trace_risk(sure, right)],
        "protocol": {"rules": _list_rules(details, source), "num_bins": num_bins, "n": len(details),
                     "clip": choose_clip(num_samples), "images": len({d.image_id for d in details}),
                     "intervals": {"method": METHOD, "rule": RULE, "level": settings.confidence_level,
                                   "resamples": settings.resamples, "seed": seed}},
    }


def measure_details(details: Sequence[Detail], num_samples: int | None, options: dict[str, Any],
                    names: Sequence[str] | None = None) -> dict[str, Any]:
    """Return some measures of some rows, all if not named: {"n", measure: {"value", "low", "high"}}."""
    found = list_measures([d.confidence for d in details], [d.is_correct for d in details],
                          [d.image_id for d in details], choose_clip(num_samples), options)
    return {"n": len(details)} | {name: {"value": _to_number(found[name].estimate), "low": found[name].low,
                                         "high": found[name].high} for name in names or found}


def _to_number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _measure_readable(details: Sequence[Detail], num_samples: int | None,
                      options: dict[str, Any]) -> dict[str, Any] | None:
    """Return the measures of the questions with a valid answer, where these are some but not all."""
    valid = [d for d in details if d.is_valid]
    return measure_details(valid, num_samples, options) if 0 < len(valid) < len(details) else None


def _list_warnings(details: Sequence[Detail], asked: int | None, source: Source) -> list[str]:
    share, unread = _share_valid(details, asked), sum(not d.is_valid for d in details)
    if min(share, 1 - unread / len(details)) >= MIN_VALID:
        return []
    if source not in SAMPLED:
        text = (f"Only {len(details):,} of {asked or len(details):,} questions ({100 * share:.0f} %) have a confidence:"
                " the measures say nothing of the others.")
    else:
        text = (f"Only {100 * share:.0f} % of the sampled answers can be read; questions without a valid answer: "
                f"{unread:,} of {len(details):,}. Measures over all questions mostly tell which were answered at all, "
                "not how far confidence can be trusted: look at those over the questions that can be read.")
    return [text]


def list_measures(sure: Sequence[float], right: Sequence[bool], images: Sequence[str], clip: float,
                  options: dict[str, Any]) -> dict[str, Interval]:
    """Return every measure with its interval; `options` are those of `scoring.measure_calibration`."""
    return scoring.measure_calibration(sure, right, images, clip=clip, **options)


def _list_rules(details: Sequence[Detail], source: Source) -> dict[str, str]:
    predicted = {"predicted": PREDICTED} if source in SAMPLED and any(d.kind == "yes_no" for d in details) else {}
    return {"confidence": CONFIDENCES[source], "correct": CORRECT, **predicted, **RULES,
            "bias_floor": FLOORS[_choose_floor(details, source)]}


def _choose_floor(details: Sequence[Detail], source: Source) -> str:
    if source != "sampling":
        return "exact"
    return "p_yes" if all(d.kind == "yes_no" for d in details) else "shares"


def _simulate_floor(details: Sequence[Detail], num_samples: int | None, num_bins: int, *, source: Source,
                    seed: int) -> float:
    sure, floor = [d.confidence for d in details], _choose_floor(details, source)
    if floor == "exact" or not num_samples:
        return scoring.simulate_confidence_floor(sure, num_bins, seed=seed)
    if floor == "shares":
        return scoring.simulate_share_floor(sure, num_samples, num_bins, seed=seed)
    return scoring.simulate_bias_floor([d.p_yes if d.p_yes is not None else d.confidence for d in details],
                                       num_samples, num_bins, seed=seed)


def _share_valid(details: Sequence[Detail], asked: int | None) -> float:
    """Return the share of sampled answers that can be read; without samples that of questions with a confidence."""
    valid = sum(d.valid_count for d in details)
    answers = valid + sum(d.unknown_count for d in details)
    if answers:
        return valid / answers
    return sum(d.is_valid for d in details) / (asked or len(details))


def _list_bins(details: Sequence[Detail], options: dict[str, Any]) -> list[dict[str, Any]]:
    sure, right = [d.confidence for d in details], [d.is_correct for d in details]
    bounds = scoring.bound_bins(sure, right, [d.image_id for d in details], **options)
    return [{"bin_lower": b.lower, "bin_upper": b.upper, "bin_size": b.size, "accuracy": b.accuracy,
             "confidence": b.confidence, "gap": b.gap, "accuracy_low": bound.low, "accuracy_high": bound.high}
            for b, bound in zip(scoring.bin_confidences(sure, right, options["num_bins"]), bounds, strict=True)]


def _compare_with_truth(details: Sequence[Detail]) -> dict[str, Any] | None:
    """Return how far p_yes lies from the true probability where that is known, ambiguous questions apart."""
    known = [(d.p_yes, d.true_p_yes) for d in details if d.true_p_yes is not None and d.p_yes is not None]
    if not known:
        return None
    unsure = [(found, true) for found, true in known if 0 < true < 1]
    return {"num_questions": len(known), "num_ambiguous": len(unsure),
            "mean_absolute_error": float(np.mean([abs(found - true) for found, true in known])),
            "mean_absolute_error_ambiguous": float(np.mean([abs(f - t) for f, t in unsure])) if unsure else None}

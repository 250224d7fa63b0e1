"""Prediction rows to scores and a summary in which no number stands without its protocol."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from medvqa_cli.records import Prediction, Score
from medvqa_cli.scoring.answers import (
    is_closed_correct,
    match_exactly,
    normalize_answer,
    parse_yes_no,
    score_tokens,
)
from medvqa_cli.scoring.bayes import bayes_accuracy
from medvqa_cli.scoring.intervals import bootstrap_mean
from medvqa_cli.scoring.profiles import MEDVQA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.schema import EvaluationSettings

GROUPS = ("answer_type", "question_type", "modality", "organ", "language")
METRICS = ("accuracy", "exact_match", "token_f1", "token_recall")
COLLAPSE = 0.9
RULES = {
    "accuracy": "closed questions: yes/no parsed by word boundary where the gold answer is yes or no, exact match "
                "otherwise; open questions: exact match",
    "exact_match": "normalized answers equal; comma lists in any order; alternatives count",
    "token_f1": "word overlap with the gold answer, F1",
    "token_recall": "share of the gold answer's words found",
}


def score_predictions(predictions: Iterable[Prediction]) -> list[Score]:
    """Return one score a prediction: accuracy, exact match, token F1 and recall, each in 0-1."""
    return [_score(prediction) for prediction in predictions]


def _score(prediction: Prediction) -> Score:
    sample, answer = prediction.sample, prediction.answer
    golds = (sample.answer, *sample.alternatives)
    exact = match_exactly(answer, golds)
    closed = sample.answer_type == "closed"
    tokens = score_tokens(answer, golds)
    is_binary = closed and normalize_answer(sample.answer) in ("yes", "no")
    values: dict[str, float | None] = {
        "accuracy": float(is_closed_correct(answer, sample.answer, sample.alternatives) if closed else exact),
        "exact_match": float(exact), "token_f1": tokens.f1, "token_recall": tokens.recall,
        "parsed": float(parse_yes_no(answer) is not None) if is_binary else None,
        "best_probability": max(sample.answer_probabilities.values()) if sample.answer_probabilities else None,
    }
    groups = {name: str(getattr(sample, name)) for name in GROUPS if getattr(sample, name)}
    return Score(question_id=sample.question_id, image_id=sample.image_id, groups=groups, values=values)


def summarize_scores(scores: Sequence[Score], predictions: Sequence[Prediction], settings: EvaluationSettings, *,
                     seed: int = 0) -> dict[str, Any]:
    """Return overall and grouped metrics with intervals clustered by image, checks, and the protocol.

    Returns:
        {"overall", "closed", "open": block; "groups": {group: {value: block}}; "synthetic"; "checks"; "protocol"};
        a block is {"n", "images", metric: {"value", "low", "high"}}.

    Raises:
        ValueError: If there are no scores.
    """
    if not scores:
        raise ValueError("there is nothing to summarize")

    def measure(chosen: Sequence[Score]) -> dict[str, Any]:
        return _measure(chosen, METRICS, settings, seed)

    by_type = {kind: [score for score in scores if score.groups["answer_type"] == kind] for kind in ("closed", "open")}
    summary: dict[str, Any] = {"overall": measure(scores)}
    summary.update({kind: measure(chosen) for kind, chosen in by_type.items() if chosen})
    summary["groups"] = {name: _measure_group(scores, name, measure) for name in GROUPS}
    known = [p.sample for p in predictions if p.sample.answer_type == "closed" and p.sample.answer_probabilities]
    summary["synthetic"] = _measure_synthetic(by_type["closed"], known, settings, seed) if known else None
    summary["checks"] = _check(scores, predictions)
    summary["protocol"] = _describe_protocol(scores, predictions, settings, seed)
    return summary


def _measure(scores: Sequence[Score], metrics: Sequence[str], settings: EvaluationSettings,
             seed: int) -> dict[str, Any]:
    images = [score.image_id for score in scores]
    block: dict[str, Any] = {"n": len(scores), "images": len(set(images))}
    for metric in metrics:
        interval = bootstrap_mean([score.values[metric] or 0.0 for score in scores], images,
                                  level=settings.confidence_level, resamples=settings.resamples, seed=seed)
        block[metric] = {"value": interval.estimate, "low": interval.low, "high": interval.high}
    return block


def _measure_group(scores: Sequence[Score], name: str,
                   measure: Callable[[Sequence[Score]], dict[str, Any]]) -> dict[str, Any]:
    members: dict[str, list[Score]] = {}
    for score in scores:
        if name in score.groups:
            members.setdefault(score.groups[name], []).append(score)
    return {value: measure(chosen) for value, chosen in sorted(members.items())}


def _measure_synthetic(closed: Sequence[Score], samples: Sequence[VQASample], settings: EvaluationSettings,
                       seed: int) -> dict[str, Any]:
    """Return accuracy where the truth's law is known: unambiguous and ambiguous apart, and the best possible."""
    known = [score for score in closed if score.values["best_probability"] is not None]
    sure = [score for score in known if score.values["best_probability"] == 1.0]
    unsure = [score for score in known if score.values["best_probability"] != 1.0]
    return {"bayes_accuracy": bayes_accuracy(samples),
            **{name: _measure(chosen, ["accuracy"], settings, seed)
               for name, chosen in (("unambiguous", sure), ("ambiguous", unsure)) if chosen}}


def _check(scores: Sequence[Score], predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Return how many yes/no answers could be parsed, and whether the model says the same to everything."""
    parsed = [score.values["parsed"] for score in scores if score.values["parsed"] is not None]
    shares = {kind: _top_answer([p.answer for p in predictions if p.sample.answer_type == kind])
              for kind in ("closed", "open")}
    return {"yes_no_questions": len(parsed), "yes_no_unparsed": len(parsed) - int(sum(map(float, parsed))),
            "top_answer": {kind: top for kind, top in shares.items() if top},
            "collapsed": [kind for kind, top in shares.items() if top and top["share"] > COLLAPSE]}


def _top_answer(answers: Sequence[str]) -> dict[str, Any] | None:
    if not answers:
        return None
    text, count = Counter(normalize_answer(answer) for answer in answers).most_common(1)[0]
    return {"answer": text, "share": count / len(answers)}


def _describe_protocol(scores: Sequence[Score], predictions: Sequence[Prediction], settings: EvaluationSettings,
                       seed: int) -> dict[str, Any]:
    samples = [prediction.sample for prediction in predictions]
    kinds: Mapping[str, int] = Counter(sample.answer_type for sample in samples)
    return {
        "dataset": _join(sample.dataset for sample in samples), "split": _join(sample.split for sample in samples),
        "languages": _join(sample.language for sample in samples), "n": len(scores), "n_closed": kinds.get("closed", 0),
        "n_open": kinds.get("open", 0), "images": len({score.image_id for score in scores}),
        "normalizer": MEDVQA.name, "rules": RULES,
        "intervals": {"method": "percentile bootstrap over images", "level": settings.confidence_level,
                      "resamples": settings.resamples, "seed": seed},
    }


def _join(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))

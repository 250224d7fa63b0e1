"""Why answers are wrong, in numbers: what is answered most, yes against no, margins, the pull of length."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from medvqa_cli.evaluation.yes_no import LABELS, read_binary
from medvqa_cli.scoring.answers import is_closed_correct, match_exactly, normalize_answer
from medvqa_cli.scoring.generic import is_generic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from medvqa_cli.records import Prediction

TOP = 30
TINY_MARGIN = 0.05
NEITHER = "neither"
RULES = {
    "top_predictions": f"the {TOP} most frequent answers, normalized, with how often they are right and how often they "
                       "are the gold answer",
    "yes_no": "questions whose gold answer is yes or no; answers parsed by word boundary",
    "margins": "lead of the chosen candidate over the next answer, nats a token; tiny: below "
               f"{TINY_MARGIN}; only where candidates were offered",
    "forms": "which written form of the chosen answer scored best",
    "lengths": "words of answers; correlations are Pearson's, None where one side does not vary",
}
"""What the numbers of a diagnosis mean."""


def diagnose_answers(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Return where answers go wrong, by the rows alone.

    Returns:
        {"n", "wrong": {"closed", "open"}; "top_predictions": {"closed" | "open": [{"answer", "n", "share", "right",
        "gold"}]}; "generic": [{"answer", "n"}] of open questions; "yes_no": None without such questions, else
        {"confusion": {gold: {answer: n}}, "said", "gold": {label: share}, "margins"}; "margins": of all candidates'
        choices, None without any; "forms": {answer: {form: n}}; "lengths"; "rules"}.

    Raises:
        ValueError: If there are no predictions.
    """
    if not predictions:
        raise ValueError("there is nothing to diagnose")
    parts = {kind: [p for p in predictions if p.sample.answer_type == kind] for kind in ("closed", "open")}
    return {
        "n": len(predictions), "wrong": {kind: sum(not is_right(p) for p in part) for kind, part in parts.items()},
        "top_predictions": {kind: _list_top(part) for kind, part in parts.items() if part},
        "generic": _count_generic(parts["open"]), "yes_no": _measure_yes_no(parts["closed"]),
        "margins": _measure_margins(predictions), "forms": _count_forms(predictions),
        "lengths": _measure_lengths(predictions), "rules": RULES}


def is_right(prediction: Prediction) -> bool:
    """Return whether an answer is right by the rule of its question's type."""
    sample = prediction.sample
    if sample.answer_type == "closed":
        return is_closed_correct(prediction.answer, sample.answer, sample.alternatives)
    return match_exactly(prediction.answer, (sample.answer, *sample.alternatives))


def _list_top(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    counts = Counter(normalize_answer(p.answer) for p in predictions)
    right = Counter(normalize_answer(p.answer) for p in predictions if is_right(p))
    golds = Counter(normalize_answer(p.sample.answer) for p in predictions)
    return [{"answer": answer, "n": n, "share": n / len(predictions), "right": right[answer], "gold": golds[answer]}
            for answer, n in counts.most_common(TOP)]


def _count_generic(predictions: Iterable[Prediction]) -> list[dict[str, Any]]:
    counts = Counter(normalize_answer(p.answer) for p in predictions
                     if is_generic(p.answer, (p.sample.answer, *p.sample.alternatives)))
    return [{"answer": answer, "n": n} for answer, n in counts.most_common(TOP)]


def _measure_yes_no(closed: Sequence[Prediction]) -> dict[str, Any] | None:
    pairs = [(p, found) for p in closed if (found := read_binary(p))]
    if not pairs:
        return None
    said = Counter(found.answer or NEITHER for _, found in pairs)
    golds = Counter(found.gold for _, found in pairs)
    confusion = Counter((found.gold, found.answer or NEITHER) for _, found in pairs)
    return {"n": len(pairs),
            "confusion": {gold: {label: confusion[gold, label] for label in (*LABELS, NEITHER)} for gold in LABELS},
            "said": {label: said[label] / len(pairs) for label in (*LABELS, NEITHER)},
            "gold": {label: golds[label] / len(pairs) for label in LABELS},
            "margins": _measure_margins([p for p, _ in pairs])}


def _measure_margins(predictions: Sequence[Prediction]) -> dict[str, Any] | None:
    known = [(p.margin, is_right(p)) for p in predictions if p.margin is not None]
    if not known:
        return None
    values = np.asarray([margin for margin, _ in known])
    means = {name: float(np.mean(part)) if (part := [margin for margin, right in known if right is kind]) else None
             for name, kind in (("right", True), ("wrong", False))}
    return {"n": len(known), "mean": float(values.mean()), "median": float(np.median(values)),
            "p90": float(np.quantile(values, 0.9)), "tiny": float(np.mean(values < TINY_MARGIN)), **means}


def _count_forms(predictions: Iterable[Prediction]) -> dict[str, dict[str, int]]:
    """Return by answer which of its forms, such as "Yes" and "yes", scored best a token."""
    counts: dict[str, Counter[str]] = {}
    for prediction in predictions:
        wanted = normalize_answer(prediction.answer)
        scores = {form: logprob / tokens for form, (logprob, tokens) in (prediction.candidate_scores or {}).items()
                  if normalize_answer(form) == wanted and tokens}
        if scores:
            counts.setdefault(wanted, Counter())[max(scores, key=lambda form: scores[form])] += 1
    return {answer: dict(found.most_common()) for answer, found in sorted(counts.items())}


def _measure_lengths(predictions: Sequence[Prediction]) -> dict[str, Any]:
    words = [len(p.answer.split()) for p in predictions]
    golds = [len(p.sample.answer.split()) for p in predictions]
    right = [float(is_right(p)) for p in predictions]
    forms = [(tokens, logprob / tokens) for p in predictions
             for logprob, tokens in (p.candidate_scores or {}).values() if tokens]
    return {"answer_words": float(np.mean(words)), "gold_words": float(np.mean(golds)),
            "answer_and_gold": _correlate(words, golds), "answer_and_right": _correlate(words, right),
            "candidate_tokens_and_score": _correlate([tokens for tokens, _ in forms], [score for _, score in forms]),
            "by_gold_words": _group_by_length(golds, right)}


def _group_by_length(golds: Sequence[int], right: Sequence[float]) -> list[dict[str, Any]]:
    bounds: Mapping[str, tuple[float, float]] = {"0-1": (0, 1), "2-3": (2, 3), "4+": (4, np.inf)}
    found = {name: [ok for length, ok in zip(golds, right, strict=True) if low <= length <= high]
             for name, (low, high) in bounds.items()}
    return [{"words": name, "n": len(part), "right": float(np.mean(part))} for name, part in found.items() if part]


def _correlate(first: Sequence[float], second: Sequence[float]) -> float | None:
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])

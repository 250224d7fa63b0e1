"""Counts of answers to closed questions: yes and no against their gold, and each route to candidates."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from medvqa_cli.evaluation.yes_no import read_binary
from medvqa_cli.scoring.answers import is_closed_correct, normalize_answer
from medvqa_cli.scoring.intervals import SHARE, bootstrap_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.records import Prediction
    from medvqa_cli.scoring.intervals import Interval

FREE = "answered freely"


@dataclass(frozen=True, slots=True)
class RouteTally:
    """The closed questions of one route.

    Args:
        route: Its name; `FREE` where no candidates were offered.
        n: Questions.
        accuracy: Share of them answered rightly, with its interval over images.
        offered: Whose gold answer is among the candidates; None where none were offered.
        candidates: Mean number of candidates; None where none were offered.
        margin: Median lead of the answer in nats a token; None where it is not known.
    """

    route: str
    n: int
    accuracy: Interval
    offered: int | None
    candidates: float | None
    margin: float | None


def count_confusion(predictions: Sequence[Prediction]) -> dict[tuple[str, str], int]:
    """Return (gold, answer) -> questions, for yes/no questions; an answer is "yes", "no" or "neither"."""
    return dict(Counter((found.gold, found.answer or "neither") for found in map(read_binary, predictions) if found))


def tally_routes(predictions: Sequence[Prediction], *, level: float, resamples: int, seed: int) -> list[RouteTally]:
    """Return the closed questions route by route, those answered freely last; none if no question was routed.

    Args:
        predictions: Answers.
        level: Of the intervals, 0-1.
        resamples: Bootstrap draws of images.
        seed: Of the draws.
    """
    found: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        if prediction.sample.answer_type == "closed":
            found.setdefault(prediction.route or FREE, []).append(prediction)
    if set(found) <= {FREE}:
        return []
    return [_tally(route, found[route], level=level, resamples=resamples, seed=seed)
            for route in sorted(found, key=lambda route: (route == FREE, route))]


def _tally(route: str, predictions: Sequence[Prediction], **options: Any) -> RouteTally:
    offers = [prediction.candidates for prediction in predictions if prediction.candidates]
    margins = [prediction.margin for prediction in predictions if prediction.margin is not None]
    accuracy = bootstrap_mean([float(_is_right(p)) for p in predictions],
                              [(p.sample.dataset, p.sample.image_id) for p in predictions], limits=SHARE,
                              **options)
    return RouteTally(route, len(predictions), accuracy,
                      sum(map(_offers_gold, predictions)) if offers else None,
                      fmean(map(len, offers)) if offers else None, median(margins) if margins else None)


def _is_right(prediction: Prediction) -> bool:
    return is_closed_correct(prediction.answer, prediction.sample.answer, prediction.sample.alternatives)


def _offers_gold(prediction: Prediction) -> bool:
    golds = {normalize_answer(text) for text in (prediction.sample.answer, *prediction.sample.alternatives)}
    return any(normalize_answer(text) in golds for text in prediction.candidates or ())

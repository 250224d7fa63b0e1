"""Counts of yes and no, and of routes to candidates."""

from __future__ import annotations

import pytest

from medvqa_cli.evaluation.tallies import FREE, count_confusion, tally_routes
from medvqa_cli.records import Prediction, VQASample

DRAWS = {"level": 0.95, "resamples": 200, "seed": 1}


def predict(gold: str, answer: str, kind: str = "closed", **fields) -> Prediction:
    number = fields.pop("number", 0)
    sample = VQASample(dataset="d", split="test", question_id=f"{gold}-{answer}-{number}", image_id=f"i{number}",
                       question="?", answer=gold, answer_type=kind)
    return Prediction(sample=sample, answer=answer, **fields)


def test_confusion_counts_yes_no_questions_only():
    rows = [predict("yes", "Yes, there is a nodule"), predict("yes", "no"), predict("no", "not sure"),
            predict("No", "no."), predict("left", "yes"), predict("yes", "yes", kind="open")]
    assert count_confusion(rows) == {("yes", "yes"): 1, ("yes", "no"): 1, ("no", "neither"): 1, ("no", "no"): 1}
    assert count_confusion([]) == {}


def test_routes_count_gold_candidates_and_margin():
    law = {"Left": 0.75, "right": 0.25}
    rows = [predict("left", "left", candidates=law, route="options", margin=1.0, number=1),
            predict("both", "right", candidates={**law, "top": 0.0}, route="options", margin=0.5, number=2),
            predict("right", "right", candidates=law, route="options", margin=0.6, number=3),
            predict("yes", "no", number=4), predict("ct", "ct", kind="open")]
    first, free = tally_routes(rows, **DRAWS)
    assert (first.route, first.n, first.offered, first.margin) == ("options", 3, 2, 0.6)
    assert first.candidates == pytest.approx(7 / 3)
    assert first.accuracy.estimate == pytest.approx(2 / 3)
    assert first.accuracy.low is None  # 3 images
    assert (free.route, free.n, free.offered, free.candidates, free.margin) == (FREE, 1, None, None, None)


def test_nothing_routed_is_no_table():
    assert tally_routes([predict("yes", "yes")], **DRAWS) == []

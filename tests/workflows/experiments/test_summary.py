"""Mean, spread and paired comparisons from results made by hand."""

from __future__ import annotations

import csv
import io
import statistics

import pytest

from medvqa_cli.settings.schema import EvaluationSettings
from medvqa_cli.workflows.experiments.results import RunResult
from medvqa_cli.workflows.experiments.summary import summarize, write_csv


def make_result(model, seed, right, *, state="done", ece=None, data="d"):
    """A run that answers closed questions: one letter a question, image i has the questions 2i and 2i+1."""
    scores = {(data, "test", f"image{number // 2}", str(number)): float(letter == "1")
              for number, letter in enumerate(right) if letter != "-"}
    metrics = {"closed_accuracy": statistics.fmean(scores.values())} if scores else {}
    return RunResult(f"{model}_{seed}", {"model.name": model, "seed": seed}, state,
                     metrics | ({"ece": ece} if ece is not None else {}), {"closed_accuracy": scores} if scores else {})


def build(*results):
    return summarize(results, EvaluationSettings())


def test_mean_and_spread_over_seeds():
    summary = build(make_result("a", 0, "1100", ece=0.2), make_result("a", 1, "1110", ece=0.4),
                    make_result("a", 2, "", state="not done: train"), make_result("b", 0, "1111"))
    first, second = summary["combinations"]
    assert first["values"] == {"model.name": "a"}
    assert first["metrics"]["closed_accuracy"] == {"mean": 0.625, "sd": pytest.approx(0.1767767), "n": 2,
                                                   "values": [0.5, 0.75]}
    assert first["metrics"]["ece"]["mean"] == pytest.approx(0.3)
    assert second["metrics"]["closed_accuracy"]["sd"] is None
    assert summary["runs"][2]["state"] == "not done: train"


def test_a_comparison_pairs_questions_and_common_seeds():
    summary = build(make_result("a", 0, "10100000"), make_result("a", 1, "10000000"), make_result("a", 5, "11111111"),
                    make_result("b", 0, "11101010"), make_result("b", 1, "1110101-"))
    (row,) = summary["comparisons"]
    assert (row["key"], row["first"], row["second"], row["fixed"]) == ("model.name", "a", "b", {})
    assert (row["questions"], row["images"], row["left_out"], row["seeds"]) == (7, 4, 1, 2)
    assert row["by_seed"]["mean"] == pytest.approx((3 / 7 + 4 / 7) / 2)
    assert row["difference"] == pytest.approx(row["by_seed"]["mean"])
    assert row["p"] == row["p_holm"] == 2 / 2**4
    assert row["low"] <= row["difference"] <= row["high"]


def test_many_comparisons_are_adjusted_together():
    letters = {"a": "1" * 6 + "0" * 34, "b": "1" * 36 + "0" * 4, "c": "1" * 37 + "0" * 3}
    rows = build(*(make_result(model, 0, right) for model, right in letters.items()))["comparisons"]
    assert [(row["first"], row["second"]) for row in rows] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [row["p_holm"] / row["p"] for row in rows] == pytest.approx([3.0, 3.0, 1.0], rel=0.35)
    assert all(row["p_holm"] >= row["p"] for row in rows)
    assert rows[2]["p_holm"] == 1.0


def test_questions_of_other_data_are_not_compared():
    assert build(make_result("a", 0, "1100"), make_result("b", 0, "1111", data="other"))["comparisons"] == []
    assert build(make_result("a", 0, "1100"), make_result("b", 1, "1111"))["comparisons"] == [], "no common seed"


def test_without_seeds_one_run_a_side_is_compared():
    results = [RunResult(name, {"train.epochs": name}, "done", {}, {"open_token_f1": {("d", "t", "i", "1"): score}})
               for name, score in (("1", 0.25), ("2", 1.0))]
    (row,) = summarize(results, EvaluationSettings())["comparisons"]
    assert (row["difference"], row["low"], row["seeds"]) == (0.75, None, 1)


def test_the_table_as_csv():
    summary = build(make_result("a", 0, "1100"), make_result("a", 1, "1110"), make_result("b, c", 0, ""))
    rows = list(csv.DictReader(io.StringIO(write_csv(summary))))
    assert [row["model.name"] for row in rows] == ["a", "b, c"]
    assert float(rows[0]["closed_accuracy_mean"]) == 0.625
    assert (rows[0]["closed_accuracy_n"], rows[1]["closed_accuracy_n"], rows[1]["closed_accuracy_mean"]) == (
        "2", "0", "")

"""Mean, spread and paired comparisons from results made by hand."""

from __future__ import annotations

import csv
import io
import statistics

import pytest

from medvqa_cli.settings.schema import EvaluationSettings
from medvqa_cli.workflows.experiments.results import RunResult
from medvqa_cli.workflows.experiments.summary import summarize, tabulate


def make_result(model, seed, right, *, state="done", ece=None, data="d"):
    """A run that answers closed questions: one letter a question, image i has the questions 2i and 2i+1."""
    scores = {(data, "test", f"image{number // 2}", str(number)): float(letter == "1")
              for number, letter in enumerate(right) if letter != "-"}
    metrics = {"closed_accuracy": statistics.fmean(scores.values())} if scores else {}
    return RunResult(f"{model}_{seed}", {"model.name": model, "seed": seed}, state,
                     metrics | ({"ece@sampling": ece} if ece is not None else {}),
                     {"closed_accuracy": scores} if scores else {})


def build(*results):
    return summarize(results, EvaluationSettings())


def test_mean_and_spread_over_seeds():
    summary = build(make_result("a", 0, "1100", ece=0.2), make_result("a", 1, "1110", ece=0.4),
                    make_result("a", 2, "", state="not done: train"), make_result("b", 0, "1111"))
    first, second = summary["combinations"]
    assert first["values"] == {"model.name": "a"}
    assert first["metrics"]["closed_accuracy"] == {"mean": 0.625, "sd": pytest.approx(0.1767767), "n": 2,
                                                   "values": [0.5, 0.75]}
    assert first["metrics"]["ece@sampling"]["mean"] == pytest.approx(0.3)
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
    assert (row["low"], row["high"]) == (None, None)  # 4 images


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
    tables = tabulate(summary)
    rows = list(csv.DictReader(io.StringIO(tables["summary.csv"])))
    assert [row["model.name"] for row in rows] == ["a", "b, c"]
    assert float(rows[0]["closed_accuracy_mean"]) == 0.625
    assert (rows[0]["closed_accuracy_n"], rows[1]["closed_accuracy_n"], rows[1]["closed_accuracy_mean"]) == (
        "2", "0", "")
    runs = list(csv.DictReader(io.StringIO(tables["runs.csv"])))
    assert [(run["name"], run["seed"], run["closed_accuracy"]) for run in runs] == [
        ("a_0", "0", "0.5"), ("a_1", "1", "0.75"), ("b, c_0", "0", "")]
    assert tables["comparisons.csv"] == "", "nothing to compare"


def test_comparisons_as_csv():
    tables = tabulate(build(make_result("a", 0, "1100"), make_result("b", 0, "1110")))
    (row,) = csv.DictReader(io.StringIO(tables["comparisons.csv"]))
    assert (row["first"], row["second"], row["fixed"], row["difference"], row["by_seed_sd"]) == (
        "a", "b", "{}", "0.25", "")


def test_confidence_is_compared_by_the_brier_score_in_a_family_of_its_own():
    def rate(model, right, apart):
        result = make_result(model, 0, right)
        squares = dict.fromkeys(result.scores["closed_accuracy"], apart ** 2)
        return RunResult(result.name, result.values, "done", {**result.metrics, "brier@logits": apart ** 2},
                         {**result.scores, "brier@logits": squares})

    models = [rate("a", "1" * 10 + "0" * 30, 0.5), rate("b", "1" * 30 + "0" * 10, 0.1), rate("c", "1" * 40, 0.2)]
    rows = build(*models)["comparisons"]
    assert [row["metric"] for row in rows[:2]] == ["closed_accuracy", "brier@logits"]
    assert rows[1]["difference"] == pytest.approx(0.01 - 0.25)
    without = build(*(RunResult(one.name, one.values, "done", one.metrics, {"closed_accuracy":
                                one.scores["closed_accuracy"]}) for one in models))["comparisons"]
    assert [row["p_holm"] for row in rows if row["metric"] == "closed_accuracy"] == [row["p_holm"] for row in without]
    assert build(*models)["metrics"] == ["closed_accuracy", "brier@logits"]

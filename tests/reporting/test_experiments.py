"""An experiment's summary as tables: every cell by hand."""

from __future__ import annotations

from medvqa_cli.reporting.experiments import build_experiment
from medvqa_cli.reporting.exports import render_latex, render_markdown


def measure(mean, sd, n):
    return {"mean": mean, "sd": sd, "n": n, "values": [mean] * n}


SUMMARY = {
    "experiment": "study",
    "metrics": ["closed_accuracy", "ece@sampling", "auroc@sampling", "ece@logits", "brier@logits"],
    "combinations": [
        {"values": {"model.name": "a_1", "train.lora.r": 8}, "runs": ["x", "y"], "metrics": {
            "closed_accuracy": measure(0.5, 0.1, 2), "ece@sampling": measure(0.2, None, 1),
            "auroc@sampling": measure(0.7, None, 1), "ece@logits": measure(0.25, 0.05, 2)}},
        {"values": {"model.name": "b", "train.lora.r": None}, "runs": ["z", "w"], "metrics": {}}],
    "comparisons": [{"key": "model.name", "first": "a_1", "second": "b", "fixed": {"train.lora.r": 8},
                     "metric": "brier@logits", "difference": -0.0625, "low": None, "high": None, "p": 0.04,
                     "p_holm": 0.00001, "questions": 1061, "images": 96, "left_out": 0, "seeds": 2,
                     "by_seed": {"mean": -0.0625, "sd": 0.015, "n": 2}}],
    "protocol": {"spread": "spread", "paired": "pairs", "interval": "images", "p": "flips", "holm": "family",
                 "confidence": "own", "level": 0.95},
}


def test_answers_confidence_and_comparisons_are_a_table_each():
    answers, confidence, compared = build_experiment(SUMMARY).blocks
    assert answers.columns == ["model", "lora r", "Runs", "Closed accuracy"]
    assert answers.rows == [["a_1", "8", "2", "0.500 ± 0.100"], ["b", "null", "2", "-"]]
    assert confidence.columns == ["model", "lora r", "Source", "Calibration error (ECE)",
                                  "ECE of a perfect model", "Brier score", "AUROC"]
    assert confidence.rows == [["a_1", "8", "sampling", "0.200 (n=1)", "-", "-", "0.700 (n=1)"],
                               ["a_1", "8", "logits", "0.250 ± 0.050", "-", "-", "-"]]
    assert list(compared.rows[0]) == ["model: a_1 -> b", "lora r: 8", "-0.062", "<0.0001", "1,061", "96",
                                      "2 (0.015)"]
    assert compared.title == "Brier score (logits): paired differences, second minus first"
    assert compared.note == ("In brackets: 95 % intervals; behind the seeds: the standard deviation of the difference "
                             "over them. Paired: pairs. Intervals: images. p: flips. Holm: family.")


def test_nothing_done_is_a_table_of_runs():
    nothing = {**SUMMARY, "metrics": [], "comparisons": [],
               "combinations": [{"values": {}, "runs": ["x"], "metrics": {}}]}
    (table,) = build_experiment(nothing).blocks
    assert (table.columns, table.rows, table.note) == (["Runs"], [["1"]], "Nothing is measured yet.")


def test_settings_that_end_alike_keep_their_whole_key():
    values = {"train.probe.r": 1, "mask.probe.r": 2, "seed": 3, "train": {"r": 1}}
    summary = {**SUMMARY, "metrics": [], "comparisons": [],
               "combinations": [{"values": values, "runs": ["x"], "metrics": {}}]}
    assert build_experiment(summary).blocks[0].columns[:-1] == ["train.probe.r", "mask.probe.r", "seed", "train"]


def test_they_can_be_written_for_a_paper():
    section = build_experiment(SUMMARY)
    assert "| a\\_1 | 8 | sampling | 0.200 (n=1) | - | - | 0.700 (n=1) |" in render_markdown("study", [section], "")
    latex = render_latex("study", [section], "")
    assert r"a\_1 & 8 & 2 & 0.500 ± 0.100 \\" in latex
    assert r"model: a\_1 -\textgreater{} b & lora r: 8" in latex

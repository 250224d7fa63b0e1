"""Rows for the terminal."""

from __future__ import annotations

from medvqa_cli.reporting.tables import (
    ANSWER_COLUMNS,
    CALIBRATION_COLUMNS,
    describe_protocol,
    summarize_answers,
    summarize_calibration,
)

METRICS = ("accuracy@medvqa", "exact_match@medvqa", "token_f1@medvqa")


def show(score: dict) -> str:
    return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


def test_answers_part_by_part(metrics):
    block = metrics["answers"]["main"]
    rows = summarize_answers(block)
    assert {len(row) for row in rows} == {len(ANSWER_COLUMNS)}
    assert rows[1] == ("closed", str(block["closed"]["n"]), str(block["closed"]["images"]),
                       *(show(block["closed"][metric]) for metric in METRICS))
    found = {row[0]: row for row in rows}
    ct = block["groups"]["modality"]["CT"]
    assert found["modality CT"][1:4] == (str(ct["n"]), str(ct["images"]), show(ct["accuracy@medvqa"]))
    assert "language en" not in found  # one value tells nothing apart
    assert found["closed: majority answer"][3] == f"{block['baselines']['closed']['majority']:.3f}"


def test_calibration_measures(metrics):
    block = metrics["calibration"]
    rows = summarize_calibration(block)
    assert {len(row) for row in rows} == {len(CALIBRATION_COLUMNS)}
    found = dict(rows)
    assert found["Questions"] == "90"
    assert found["Answers a question"] == "100"
    assert found["Accuracy"] == show({"value": block["accuracy"], **block["intervals"]["accuracy"]})
    assert found["Largest bin error (MCE)"] == f"{block['mce']:.3f}"


def test_no_row_without_a_protocol(metrics):
    assert summarize_answers(metrics["answers"]["main"] | {"protocol": {}}) == []
    assert summarize_calibration(metrics["calibration"] | {"protocol": None}) == []
    assert describe_protocol({}) == ""


def test_protocol_line(metrics):
    assert describe_protocol(metrics["answers"]["main"]) == (
        "Measured on demo, test split; greedy, at most 8 tokens. In brackets: 95 % intervals: percentile bootstrap "
        "over images, 200 resamples, seed 7.")

"""Rows for the terminal."""

from __future__ import annotations

from medvqa_cli.reporting.tables import (
    ANSWER_COLUMNS,
    CALIBRATION_COLUMNS,
    describe_protocol,
    summarize_answers,
    summarize_calibration,
    summarize_measures,
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


def test_every_other_measure_has_a_row_with_its_whole_key(metrics):
    block = metrics["answers"]["main"]
    rows = {row[0]: row[1:] for row in summarize_measures(block)}
    assert rows["rouge_l@medvqa"] == tuple(show(block[kind]["rouge_l@medvqa"]) for kind in ("closed", "open"))
    assert rows["open_recall@llava-med"] == ("-", show(block["open"]["open_recall@llava-med"]))
    clinical = block["closed"]["clinical"]
    assert rows["sensitivity@medvqa, yes"] == (show(clinical["yes"]["sensitivity@medvqa"]), "-")
    assert rows["auroc@medvqa, macro"] == ("-", "-")  # no probabilities
    assert not {*METRICS, "rouge_l_recall@medvqa", "sensitivity@medvqa, no"} & set(rows)
    assert summarize_measures(block | {"protocol": {}}) == []


def test_calibration_measures(metrics):
    block = metrics["calibration"]
    rows = summarize_calibration(block)
    assert {len(row) for row in rows} == {len(CALIBRATION_COLUMNS)}
    found = dict(rows)
    assert found["Questions"] == "90"
    assert found["Answers a question"] == "100"
    assert found["Accuracy"] == show({"value": block["accuracy"], **block["intervals"]["accuracy"]})
    assert found["Largest bin error (MCE)"] == show({"value": block["mce"], **block["intervals"]["mce"]})


def test_no_row_without_a_protocol(metrics):
    assert summarize_answers(metrics["answers"]["main"] | {"protocol": {}}) == []
    assert summarize_calibration(metrics["calibration"] | {"protocol": None}) == []
    assert describe_protocol({}) == ""


def test_protocol_line(metrics):
    assert describe_protocol(metrics["answers"]["main"]) == (
        "Measured on demo, test split; greedy, at most 8 tokens; text profile medvqa. In brackets: 95 % intervals: "
        "percentile bootstrap over images, 200 resamples, seed 7.")

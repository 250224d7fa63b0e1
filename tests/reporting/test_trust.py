"""Recalibration, abstention and other sources of confidence in the report, as `medvqa eval calibration` writes them."""

from __future__ import annotations

import copy
import dataclasses

import pytest

from medvqa_cli.evaluation.abstention import check_rules, choose_rules
from medvqa_cli.evaluation.details import count_votes
from medvqa_cli.evaluation.recalibration import (
    compare_calibration,
    describe_calibrator,
    learn_calibrator,
    recalibrate,
)
from medvqa_cli.reporting.blocks import Facts, Note, Plots, Table
from medvqa_cli.reporting.calibration import build_calibration
from medvqa_cli.reporting.contents import choose_calibration
from medvqa_cli.reporting.protocol import describe_shortly
from medvqa_cli.workflows.evaluate import read_predictions
from tests.reporting.conftest import SETTINGS

pytestmark = pytest.mark.usefixtures("without_files")


@pytest.fixture(scope="module")
def details(full_run):
    return count_votes(read_predictions(full_run.path / "samples.jsonl"))


@pytest.fixture
def block(metrics):
    return copy.deepcopy(metrics["calibration"])


@pytest.fixture
def change(details):
    calibrator = learn_calibrator(details, "platt", source="sampling", num_samples=100,
                                  provenance={"dataset": "demo", "split": "validation", "shared_images": 3})
    compared = compare_calibration(recalibrate(details, calibrator, "sampling"), SETTINGS.evaluation, num_bins=10,
                                   num_samples=100)
    return {"role": "applied", "folds": False, "calibrator": describe_calibrator(calibrator), **compared}


def tables(section) -> dict[str, Table]:
    return {part.title: part for part in section.blocks if isinstance(part, Table)}


def figures(section) -> dict:
    return {figure.name: figure for part in section.blocks if isinstance(part, Plots) for figure in part.figures}


def test_before_and_after_with_intervals(block, change):
    section = build_calibration(block | {"recalibration": change}, [])
    table = tables(section)["Before and after recalibration"]
    row = next(row for row in table.rows if row[0] == "Calibration error (ECE)")
    for cell, name in zip(row[1:], ("before", "after"), strict=True):
        found = change[name]["intervals"]["ece"]
        assert cell == f"{change[name]['ece']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
    assert table.note.startswith("Calibrator: platt, learnt from 90 answers of demo, validation split; 3 of its images "
                                 "are in the test split too. Measured on demo, test split")
    drawn = {part.partition("<")[0] for part in figures(section)["recalibration"].inline.split(">")}
    assert {"before", "after", "perfect calibration"} <= drawn


def test_what_a_calibrator_says_nothing_about_is_left_out_aloud(block, change):
    change = change | {"questions": "yes/no questions", "not_recalibrated": 1234}
    note = tables(build_calibration(block | {"recalibration": change}, []))["Before and after recalibration"].note
    assert note.startswith("Calibrator: platt, learnt from 90 answers to yes/no questions of demo, validation split")
    assert "1,234 answers to other questions are left out here: the calibrator says nothing about them." in note


def test_a_calibrator_that_cannot_be_tried_is_said(block, change):
    change = {key: change[key] for key in ("role", "folds", "calibrator")}
    section = build_calibration(block | {"recalibration": change}, [])
    assert any(isinstance(part, Note) and "too few right or wrong answers" in part.text for part in section.blocks)
    assert "recalibration" not in figures(section)


def test_rules_to_abstain_as_chosen_and_as_tried(block, details):
    rules = choose_rules(details, 0.2)
    chosen = build_calibration(block | {"abstention": rules}, [])
    facts = next(part for part in chosen.blocks if isinstance(part, Facts) and part.title.startswith("Rules"))
    assert [term for term, _ in facts.rows] == ["At most 0.2 of the answers given wrong",
                                                "At most 0.2 of all questions wrong"]
    assert all(rules[name]["guarantee"] in text
               for (_, text), name in zip(facts.rows, ("risk", "error"), strict=True))
    check = check_rules(rules, details, SETTINGS.evaluation) | {"chosen_on": "validation"}
    table = tables(build_calibration(block | {"abstention_check": check}, []))[
        "Rules to abstain, and what they came to here"]
    found = check["error"]["error"]
    assert table.rows[1][1] == f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
    assert table.rows[2][0] == "LAC answer sets (at least 0.8 covered)"
    assert table.note.startswith("Chosen on the validation split, tried here. Measured on demo, test split")


def test_confidences_of_right_and_wrong_answers(block, details):
    found = figures(build_calibration(block, [dataclasses.asdict(detail) for detail in details]))
    right = sum(detail.is_correct for detail in details)
    assert f"right ({right})" in found["confidences"].inline
    assert f"wrong ({len(details) - right})" in found["confidences"].inline
    assert "90 questions on 30 images, 100 answers each" in found["confidences"].caption
    assert {"reliability", "confidences", "risk-coverage", "probabilities"} == set(found)


def test_other_sources_stand_beside_and_gaps_are_said(block):
    other = copy.deepcopy(block) | {"method": "logits", "num_samples": None}
    broken = copy.deepcopy(block)
    del broken["protocol"]["inference"]
    section = build_calibration(block, [], {"calibration-logits": other, "calibration-validation": broken})
    rows = tables(section)["Confidence from each source"].rows
    assert [row[:2] for row in rows] == [["sampled answers", "yes/no questions, test split"],
                                         ["candidates' probabilities", "yes/no questions, test split"]]
    ece = block["intervals"]["ece"]
    assert rows[1][5] == f"{block['ece']:.3f} [{ece['low']:.3f}, {ece['high']:.3f}]"
    (note,) = [part.text for part in section.blocks if isinstance(part, Note)]
    assert note == ("The numbers of “calibration-validation” are not shown: metrics.json does not say how they were "
                    "measured (missing: inference). Score the run again: `medvqa eval`.")


@pytest.mark.parametrize(("inference", "name"), [
    ({"control": "shuffled"}, "shuffled"), ({"control": "off", "blank_images": True}, "blank"),
    ({"option_rotation": 2}, "options moved by 2")])
def test_a_control_is_never_shown_as_the_main_calibration(block, inference, name):
    control = copy.deepcopy(block)
    control["protocol"]["inference"] |= inference
    section = build_calibration(block, [], {"calibration-x": control})
    assert [row[1] for row in tables(section)["Confidence from each source"].rows] == [
        "yes/no questions, test split", f"yes/no questions, test split, control: {name}"]
    assert f"Measured on demo, test split; control: {name}; " in describe_shortly(control["protocol"])
    assert choose_calibration({"calibration-x": control, "calibration-z": block}) == ("calibration-z", block)
    for key in ("calibration", "calibration-x"):
        assert choose_calibration({key: control}) == ("calibration", {})


def test_intervals_of_bins_are_drawn(block):
    bins = [item for item in block["bin_data"] if item["bin_size"]]
    known = [item for item in bins if item["accuracy_low"] is not None]  # those of at least ten images
    assert known
    assert all(item["accuracy_low"] <= item["accuracy"] <= item["accuracy_high"] for item in known)
    table = tables(build_calibration(block, []))["Bins"]
    assert (f"{known[0]['accuracy']:.3f} [{known[0]['accuracy_low']:.3f}, {known[0]['accuracy_high']:.3f}]"
            in [row[3] for row in table.rows])


def test_methods_on_the_same_questions(block):
    measure = {"value": 0.5, "low": 0.4, "high": 0.6}
    part = {"n": 80, **dict.fromkeys(("accuracy", "mean_confidence", "ece", "brier", "auroc"), measure),
            "aurc": {"value": None, "low": None, "high": None}}
    methods = {"method": "all", "own": {}, "shared": {"sampling": part, "p_true": part}, "protocol": block["protocol"],
               "left_out": {"verbalized": "The model does not say."}}
    section = build_calibration(block, [], {}, methods)
    table = tables(section)["Sources of confidence on the same questions"]
    assert table.rows[1] == ["P(True)", "80", *["0.500 [0.400, 0.600]"] * 5, "-"]
    assert "Measured on demo, test split" in table.note
    assert any(isinstance(part, Facts) and list(part.rows) == [("stated in the answer", "The model does not say.")]
               for part in section.blocks)
    doubted = build_calibration(block, [], {}, methods | {"warnings": ["sampling: Only 3 % can be read."]})
    assert Note("Confidence by sampling: Only 3 % can be read.", "warning") in doubted.blocks
    unstated = build_calibration(block, [], {}, methods | {"protocol": {}})
    assert "Sources of confidence on the same questions" not in tables(unstated)

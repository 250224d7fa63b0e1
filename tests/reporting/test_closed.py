"""The section on closed questions."""

from __future__ import annotations

import pytest

from medvqa_cli.reporting.blocks import Note, Plots, Table
from medvqa_cli.reporting.closed import build_closed

ROUTE = {"route": "yesno", "n": 8, "accuracy": {"estimate": 0.75, "low": 0.5, "high": 1.0}, "offered": 8,
         "candidates": 2.0, "margin": 0.4}
FREE = {"route": "answered freely", "n": 2, "accuracy": {"estimate": 0.5, "low": None, "high": None}, "offered": None,
        "candidates": None, "margin": None}


@pytest.fixture
def main(metrics):
    return metrics["answers"]["main"]


def tables(section) -> dict[str, Table]:
    return {block.title: block for block in section.blocks if isinstance(block, Table)}


def test_confusion_says_its_counts_in_words(main):
    section = build_closed(main, {("yes", "yes"): 30, ("yes", "neither"): 10, ("no", "yes"): 5}, [])
    figure = next(block for block in section.blocks if isinstance(block, Plots)).figures[0]
    assert figure.name == "confusion"
    assert figure.caption.startswith(
        "Of 40 questions whose gold answer is “yes”, 30 are answered yes, 0 are answered no, 10 are answered neither; "
        "of 5 questions whose gold answer is “no”, 5 are answered yes, 0 are answered no, 0 are answered neither. "
        "Measured on demo, test split; greedy")
    for text in ("30", "75 %", "10", "25 %", "5", "100 %"):
        assert f">{text}<" in figure.inline
    assert figure.png.startswith(b"\x89PNG")


def test_clinical_measures_have_intervals(main):
    table = tables(build_closed(main, {}, []))["Yes/no questions as a test"]
    found = main["closed"]["clinical"]["yes"]["sensitivity@medvqa"]
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row[""] == "“yes” as positive"
    assert row["Sensitivity"] == f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
    assert row["AUROC"] == "-"  # nothing gives a probability
    assert "90 yes/no questions on 30 images. AUROC is over the 0 questions with a probability." in table.note


def test_routes_are_listed_with_what_they_offer(main):
    table = tables(build_closed(main, {}, [ROUTE, FREE]))["Routes to an answer"]
    assert [[cell if isinstance(cell, str) else cell.text for cell in row] for row in table.rows] == [
        ["yes or no", "8 (80 %)", "0.750 [0.500, 1.000]", "100.0 %", "2.0", "0.400"],
        ["answered freely", "2 (20 %)", "0.500", "-", "-", "-"]]


@pytest.mark.parametrize("block", [{}, {"closed": {}, "protocol": {"dataset": "demo"}}])
def test_nothing_is_shown_without_a_protocol(block):
    section = build_closed(block, {("yes", "yes"): 3}, [ROUTE])
    assert [type(part) for part in section.blocks] == [Note]

"""What survives without the picture, as `medvqa eval answers --controls` measures it."""

from __future__ import annotations

import copy

import pytest

from medvqa_cli.reporting.answers import build_summary
from medvqa_cli.reporting.blocks import Facts, Table
from medvqa_cli.reporting.controls import list_habits


@pytest.fixture(scope="module")
def answers(full_run):
    """The full run's answers, with the controls that lie beside them."""
    return full_run.read_json("metrics.json")["answers"]


def test_shares_of_the_controls_have_intervals(answers):
    answers = copy.deepcopy(answers)
    share = {"value": 0.5, "low": 0.25, "high": 0.755}
    part = {"accuracy@medvqa": {"survives": share}, "exact_match@medvqa": {"survives": share}}
    answers["main"]["controls"]["images"] = {"blank": {"tag": "blank", "closed": part, "open": part}}
    table = next(block for block in build_summary(answers, {}, []).blocks if isinstance(block, Table))
    assert next(row for row in table.rows if row[0] == "Blank images")[4:] == ["50 % [25, 76]"] * 2
    assert table.note.startswith("Of its closed accuracy the model keeps 50 % [25, 76] with blank images")


def test_what_scoring_writes_is_read(answers):
    controls = answers["main"]["controls"]
    facts = next(block for block in build_summary(answers, {}, []).blocks
                 if isinstance(block, Facts) and block.title == "Habits of answering")
    rows = dict(facts.rows)
    top = controls["collapse"]
    assert rows["Collapse, closed questions"].startswith(
        f"no: “{top['answer']}” answers {100 * top['share']:.0f} % of {top['n']}; ")
    assert rows["Collapse, open questions"].startswith("no: ")
    empty = controls["empty"]
    assert rows["Empty answers"] == f"0 % [0, {100 * empty['high']:.0f}] of {empty['n']} answers"
    assert rows["Generic answers"].endswith(f"of {controls['generic']['n']} answers to open questions")


def test_order_of_options_is_said():
    order = {"n": 40, "orders": 3, "changed": {"value": 0.25, "low": 0.1, "high": 0.4}, "spread": 0.125,
             "positions": {"A": 0.6, "B": 0.4}}
    ((term, text),) = list_habits({"option_order": order})
    assert term == "Order of options"
    assert text == ("25 % [10, 40] of 40 answers change over 3 orders; accuracy differs by up to 12 %; options named: "
                    "A 60 %, B 40 %")
    assert list(list_habits({})) == []

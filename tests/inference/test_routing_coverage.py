"""The coverage table counts what it says."""

from __future__ import annotations

import runpy
from pathlib import Path

from medvqa_cli.inference.routing import Offer
from tests.inference.test_routing import ask

SCRIPT = runpy.run_path(str(Path(__file__).resolve().parents[2] / "examples" / "benchmarks" / "routing_coverage.py"))


def test_the_table_counts_gold_answers_by_route(capsys):
    samples = [ask("?", answer=answer) for answer in ("Yes.", "no", "left", "Spleen")]
    yes_no, sides = Offer("yesno", (("yes",), ("no",))), Offer("options", (("left", "left side"), ("right",)))
    SCRIPT["print_split"]("d", "test", samples, [yes_no, yes_no, sides, sides])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [["d", "test", "yesno", "2", "50.0", "2", "100.00", "2.00", "2"],
                    ["d", "test", "options", "2", "50.0", "1", "50.00", "3.00", "3"],
                    ["d", "test", "all", "4", "100.0", "3", "75.00", "2.50", "3"]]
    SCRIPT["print_misses"](samples, [yes_no, yes_no, sides, sides])
    assert capsys.readouterr().out.strip() == "? -> Spleen (offered: ('left', 'left side', 'right'))"

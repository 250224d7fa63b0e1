"""`runs show`: one screen, and what it leaves out is said."""

from __future__ import annotations

from medvqa_cli.cli.run_summary import MOST, print_run
from medvqa_cli.cli.terminal import Terminal
from medvqa_cli.records import write_json
from medvqa_cli.runs import Run


def test_tables_are_cut_off_aloud(tmp_path, capsys):
    write_json(tmp_path / "manifest.json", {"medvqa": "0"})
    for number in (MOST, MOST + 3):
        block = {part: {"n": 5, "images": 2, "accuracy@medvqa": {"value": 0.25, "low": None, "high": None}}
                 for part in ("overall", "closed", "open")}
        write_json(tmp_path / "metrics.json", {"answers": {f"tag-{n}": block for n in range(number)}})
        print_run(Terminal(), Run(tmp_path), {"created": "2026-01-01T00:00:00"})
        out = capsys.readouterr().out
        assert [f"tag-{n} " in out for n in range(number)] == [True] * MOST + [False] * (number - MOST)
        assert ("... and 3 more: --all" in out) is (number > MOST)


def test_a_run_of_open_questions_alone_has_no_closed_accuracy(tmp_path, capsys):
    write_json(tmp_path / "manifest.json", {"medvqa": "0"})
    block = {"n": 5, "images": 2, "exact_match@medvqa": {"value": 0.25, "low": None, "high": None}}
    for closed in ({}, {"closed": {}}, {"closed": None}):
        write_json(tmp_path / "metrics.json", {"answers": {"main": {"overall": block, "open": block, **closed}}})
        print_run(Terminal(), Run(tmp_path), {"created": "2026-01-01T00:00:00"})
        row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("main"))
        assert row.split() == ["main", "5", "-", "-", "0.250", "-"]

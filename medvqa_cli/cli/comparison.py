"""A comparison of systems as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.comparison import COLUMNS, describe_pair, list_cells

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medvqa_cli.cli.terminal import Terminal


def print_comparison(terminal: Terminal, result: Mapping[str, Any]) -> None:
    """Print what `compare_runs` found: a table for each system beside the first, and how it was measured."""
    first, *others = result["systems"]
    for other in others:
        rows = [list_cells(row) for row in result["comparisons"] if row["second"] == other]
        terminal.print_table(COLUMNS, rows, f"{first} (first) and {other} (second)")
        for sentence in result["differences"].get(other, ()):
            terminal.warn(f"{first} and {other} were not asked in the same way: {sentence}.")
        terminal.print()
        terminal.print(f"{describe_pair(result, first, other)} Effect: {result['protocol']['effect']}.")

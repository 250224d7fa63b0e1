"""A comparison of systems as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.protocol import name_metric

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medvqa_cli.cli.terminal import Terminal

COLUMNS = ("", "questions", "first", "second", "difference", "p", "p (Holm)", "only one right", "effect")


def print_comparison(terminal: Terminal, result: Mapping[str, Any]) -> None:
    """Print what `compare_runs` found: a table for each system beside the first, and how it was measured."""
    first, *others = result["systems"]
    for other in others:
        rows = [_describe(row) for row in result["comparisons"] if row["second"] == other]
        terminal.print_table(list(COLUMNS), rows, f"{first} (first) and {other} (second)")
        for sentence in result["differences"].get(other, ()):
            terminal.warn(f"{first} and {other} were not asked in the same way: {sentence}.")
        terminal.print()
    protocol = result["protocol"]
    terminal.print(f"{result['n']} questions about {result['images']} images that every system answered. Difference: "
                   f"second minus first, {protocol['level']:.0%} bootstrap interval over images. p: exchanging the two "
                   f"systems image by image; Holm over {protocol['comparisons']} comparisons. Effect: Cohen's g of the "
                   "disagreements, d of F1.")


def _describe(row: Mapping[str, Any]) -> list[Any]:
    mcnemar = row["mcnemar"]
    return [f"{row['slice']}: {name_metric(row['measure'])}", row["n"], _percent(row["first_value"]),
            _percent(row["second_value"]), _bound(row), _probability(row["p"]), _probability(row["p_holm"]),
            f"{mcnemar['only_first']} / {mcnemar['only_second']}" if mcnemar else None,
            None if row["effect"] is None else f"{row['effect']:+.2f}"]


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"


def _bound(row: Mapping[str, Any]) -> str:
    found = f"{100 * row['difference']:+.1f}"
    return found if row["low"] is None else f"{found} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"


def _probability(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else "<0.0001"

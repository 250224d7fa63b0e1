"""An experiment's summary as tables: for the terminal, for Markdown and for LaTeX alike."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.blocks import Section, Table
from medvqa_cli.reporting.formatting import MISSING, format_count, format_probability, format_value
from medvqa_cli.reporting.protocol import name_metric

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CONFIDENCE = ("ece", "bias_floor", "brier", "auroc")
"""Measures that are shown; `summary.csv` has all of them."""
COMPARED = ("Compared", "Where", "Metric", "Difference", "p (Holm)", "Questions", "Images", "Seeds", "SD over seeds")
RULES = {"paired": "Paired", "interval": "Intervals", "p": "p", "holm": "Holm"}
ANSWERS = {"closed_accuracy": "Closed accuracy", "open_exact_match": "Open exact match",
           "open_token_f1": "Open token F1"}


def build_experiment(summary: Mapping[str, Any]) -> Section:
    """Return an experiment's tables: mean and spread of answers and of confidence, and paired comparisons.

    Args:
        summary: What `medvqa experiments` writes to `summary.json`.
    """
    return Section("experiment", str(summary["experiment"]), "", [*_list_tables(summary)])


def _list_tables(summary: Mapping[str, Any]) -> Iterator[Table]:
    rows, metrics, protocol = summary["combinations"], summary["metrics"], summary["protocol"]
    keys = list(rows[0]["values"])
    answers = [name for name in metrics if "@" not in name]
    if answers or not metrics:
        yield Table("Answers", [*keys, "Runs", *map(_name, answers)],
                    [[*_list_values(row), format_count(len(row["runs"])), *(_spread(row, name) for name in answers)]
                     for row in rows], f"Mean ± {protocol['spread']}.", keys)
    sources = list(dict.fromkeys(name.partition("@")[2] for name in metrics if "@" in name))
    if sources:
        yield Table("Confidence", [*keys, "Source", *map(name_metric, CONFIDENCE)],
                    [[*_list_values(row), source, *(_spread(row, f"{name}@{source}") for name in CONFIDENCE)]
                     for row in rows for source in sources if f"ece@{source}" in row["metrics"]],
                    f"Mean ± {protocol['spread']}. Confidence: {protocol['confidence']}.", [*keys, "Source"])
    if summary["comparisons"]:
        rules = " ".join(f"{label}: {protocol[key]}." for key, label in RULES.items())
        yield Table("Paired differences, second minus first", COMPARED, [*map(_list_cells, summary["comparisons"])],
                    f"In brackets: {100 * protocol['level']:g} % intervals. {rules}", COMPARED[:3])


def _list_values(row: Mapping[str, Any]) -> list[str]:
    return [_say(value) for value in row["values"].values()]


def _say(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _spread(row: Mapping[str, Any], name: str) -> str:
    """Return mean and standard deviation, and of how many runs where that is not all of them."""
    measured = row["metrics"].get(name)
    if measured is None:
        return MISSING
    spread = "" if measured["sd"] is None else f" ± {measured['sd']:.3f}"
    return f"{measured['mean']:.3f}{spread}" + (f" (n={measured['n']})" if measured["n"] < len(row["runs"]) else "")


def _list_cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return a comparison's cells; the last says how far the difference moves with the seed."""
    where = ", ".join(f"{key}={_say(value)}" for key, value in row["fixed"].items())
    return (f"{row['key']}: {_say(row['first'])} -> {_say(row['second'])}", where or MISSING, _name(row["metric"]),
            format_value(row["difference"], row["low"], row["high"], signed=True), format_probability(row["p_holm"]),
            format_count(row["questions"]), format_count(row["images"]), format_count(row["seeds"]),
            format_value(row["by_seed"]["sd"]))


def _name(metric: str) -> str:
    name, _, source = metric.partition("@")
    return f"{name_metric(name)} ({source})" if source else ANSWERS.get(name, name_metric(name))

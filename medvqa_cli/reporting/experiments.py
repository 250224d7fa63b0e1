"""An experiment's summary as tables, the same for the terminal, for Markdown and for LaTeX."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.blocks import Section, Table
from medvqa_cli.reporting.formatting import MISSING, format_count, format_probability, format_value
from medvqa_cli.reporting.protocol import name_metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

CONFIDENCE = ("ece", "bias_floor", "brier", "auroc")
"""Measures that are shown; `summary.csv` has all of them."""
COMPARED = ("Compared", "Where", "Difference", "p (Holm)", "Questions", "Images", "Seeds")
RULES = {"paired": "Paired", "interval": "Intervals", "p": "p", "holm": "Holm"}
ANSWERS = {"closed_accuracy": "Closed accuracy", "open_exact_match": "Open exact match",
           "open_token_f1": "Open token F1"}


def build_experiment(summary: Mapping[str, Any]) -> Section:
    """Return the section that `list_tables` makes up."""
    return Section("experiment", "Experiment", "", list_tables(summary))


def list_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Return an experiment's tables: mean and spread of answers and of confidence, and comparisons by metric.

    Args:
        summary: What `medvqa experiments` writes to `summary.json`.
    """
    return [*_list_spreads(summary), *_list_comparisons(summary)]


def _list_spreads(summary: Mapping[str, Any]) -> Iterator[Table]:
    rows, metrics, protocol = summary["combinations"], summary["metrics"], summary["protocol"]
    names = list(_name_keys(rows[0]["values"]).values())
    answers = [name for name in metrics if "@" not in name]
    if not metrics:
        yield Table("Runs", [*names, "Runs"], [[*_list_values(row), format_count(len(row["runs"]))] for row in rows],
                    "Nothing is measured yet.", names)
    if answers:
        yield Table("Answers", [*names, "Runs", *map(_name, answers)],
                    [[*_list_values(row), format_count(len(row["runs"])), *(_spread(row, name) for name in answers)]
                     for row in rows], f"Mean ± {protocol['spread']}.", names)
    sources = list(dict.fromkeys(name.partition("@")[2] for name in metrics if "@" in name))
    if sources:
        yield Table("Confidence", [*names, "Source", *map(name_metric, CONFIDENCE)],
                    [[*_list_values(row), source, *(_spread(row, f"{name}@{source}") for name in CONFIDENCE)]
                     for row in rows for source in sources if f"ece@{source}" in row["metrics"]],
                    f"Mean ± {protocol['spread']}. Confidence: {protocol['confidence']}.", [*names, "Source"])


def _list_comparisons(summary: Mapping[str, Any]) -> Iterator[Table]:
    rows, protocol = summary["comparisons"], summary["protocol"]
    rules = " ".join(f"{label}: {protocol[key]}." for key, label in RULES.items())
    note = (f"In brackets: {100 * protocol['level']:g} % intervals; behind the seeds: the standard deviation of the "
            f"difference over them. {rules}")
    names = _name_keys(summary["combinations"][0]["values"])
    compared = {row["metric"] for row in rows}
    for metric in (name for name in summary["metrics"] if name in compared):
        yield Table(f"{_name(metric)}: paired differences, second minus first", COMPARED,
                    [_list_cells(row, names) for row in rows if row["metric"] == metric], note, COMPARED[:2])


def _name_keys(keys: Iterable[str]) -> dict[str, str]:
    """Return what settings are called in a table: "model.name" is "model", "train.learning_rate" "learning rate"."""
    short = {key: key.removesuffix(".name").partition(".")[2] or key.removesuffix(".name") for key in keys}
    again = Counter(short.values())
    return {key: re.sub(r"[._]", " ", name) if again[name] == 1 else key for key, name in short.items()}


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


def _list_cells(row: Mapping[str, Any], names: Mapping[str, str]) -> Sequence[str]:
    """Return a comparison's cells; the last says how far the difference moves with the seed."""
    moved = "" if row["by_seed"]["sd"] is None else f" ({row['by_seed']['sd']:.3f})"
    where = ", ".join(f"{names[key]}: {_say(value)}" for key, value in row["fixed"].items())
    return (f"{names[row['key']]}: {_say(row['first'])} -> {_say(row['second'])}", where or MISSING,
            format_value(row["difference"], row["low"], row["high"], signed=True), format_probability(row["p_holm"]),
            format_count(row["questions"]), format_count(row["images"]), f"{row['seeds']}{moved}")


def _name(metric: str) -> str:
    name, _, source = metric.partition("@")
    return f"{name_metric(name)} ({source})" if source else ANSWERS.get(name, name_metric(name))

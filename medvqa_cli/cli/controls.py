"""Trust controls of answers as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.controls import LEADING, list_habits
from medvqa_cli.reporting.formatting import format_entry, format_share, format_value
from medvqa_cli.reporting.protocol import name_metric

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from medvqa_cli.cli.terminal import Terminal

COLUMNS = ("control", "questions", "with the image", "in the control", "survives")
TEXT = "question text alone (training answers)"


def print_controls(terminal: Terminal, summary: Mapping[str, Any]) -> None:
    """Print what is left of a result in each control, and what answers tell without the questions."""
    found = summary.get("controls")
    if not found:
        return
    terminal.print()
    if found["images"]:
        terminal.print_table(list(COLUMNS), [*_list_controls(found["images"]), *_list_text(found, summary)],
                             "What is left without the image (survives: share of the result, same questions)")
        terminal.print()
    for name, text in list_habits(found):
        terminal.print(f"{name}: {text}.")


def _list_controls(controls: Mapping[str, Any]) -> Iterator[list[Any]]:
    for name, control in controls.items():
        for kind, leading in LEADING.items():
            part = control.get(kind, {})
            for key in (key for key in part if key.startswith(f"{leading}@")):
                entry, share = part[key], part[key]["survives"]
                yield [f"{name}, {kind}: {name_metric(key)}", part["n"], format_value(entry["own"]),
                       format_value(entry["control"]), format_entry(share, as_share=True)]


def _list_text(found: Mapping[str, Any], summary: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Yield what the questions' text alone gives, beside the model's own accuracy."""
    for kind, value in found["question_text"].items():
        part = summary.get(kind, {})
        own = next((part[key]["value"] for key in part if key.startswith("accuracy@")), None)
        if value is not None and own is not None:
            yield [f"{TEXT}, {kind}", part["n"], format_value(own), format_value(value),
                   format_share(value / own if own else None)]

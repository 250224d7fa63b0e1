"""Trust controls of answers as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.formatting import format_value
from medvqa_cli.reporting.protocol import name_metric

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from medvqa_cli.cli.terminal import Terminal

COLUMNS = ("control", "questions", "with the image", "in the control", "survives")
LEADING = {"closed": "accuracy", "open": "exact_match"}
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
    for line in _describe_habits(found):
        terminal.print(line)


def _list_controls(controls: Mapping[str, Any]) -> Iterator[list[Any]]:
    for name, control in controls.items():
        for kind, leading in LEADING.items():
            part = control.get(kind, {})
            for key in (key for key in part if key.startswith(f"{leading}@")):
                entry, share = part[key], part[key]["survives"]
                yield [f"{name}, {kind}: {name_metric(key)}", part["n"], _percent(entry["own"]),
                       _percent(entry["control"]), format_value(share["value"], share["low"], share["high"])]


def _list_text(found: Mapping[str, Any], summary: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Yield what the questions' text alone gives, beside the model's own accuracy."""
    for kind, value in found["question_text"].items():
        part = summary.get(kind, {})
        own = next((part[key]["value"] for key in part if key.startswith("accuracy@")), None)
        if value is not None and own is not None:
            share = format_value(value / own if own else None)
            yield [f"{TEXT}, {kind}", part["n"], _percent(own), _percent(value), share]


def _describe_habits(found: Mapping[str, Any]) -> Iterator[str]:
    if top := found["collapse"]:
        verdict = "prediction collapse" if top["is_collapse"] else "no prediction collapse"
        yield (f"Closed questions: {verdict}; '{top['answer']}' answers {_percent(top['share'])} of {top['n']} (the "
               f"most frequent gold answer: {_percent(top['gold_share'])}).")
    if generic := found["generic"]:
        text = f"Open questions: {_bound(generic)} of {generic['n']} answers are generic"
        if often := found["frequent"]:
            text += (f"; {_bound(often)} are among the {len(often['answers'])} most frequent training answers "
                     f"(of the gold answers {_percent(often['gold'])})")
        yield f"{text}."
    if order := found["option_order"]:
        spread = "" if order["spread"] is None else f"; accuracy differs by up to {_percent(order['spread'])}"
        letters = ", ".join(f"{letter} {_percent(share)}" for letter, share in order["positions"].items())
        yield (f"Order of options: {_bound(order['changed'])} of {order['n']} answers change over {order['orders']} "
               f"orders{spread}; options named: {letters}.")


def _bound(entry: Mapping[str, Any]) -> str:
    if entry["low"] is None:
        return str(_percent(entry["value"]))
    return f"{_percent(entry['value'])} [{100 * entry['low']:.1f}, {100 * entry['high']:.1f}]"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"

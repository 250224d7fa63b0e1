"""Trust controls in the report: what of a result survives without the right picture, and habits of answering."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.estimates import find_metric, read_estimate
from medvqa_cli.reporting.formatting import MISSING, format_count, format_entry, format_share

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CONTROLS = {"blank": "blank images", "shuffled": "another image of the split",
            "shuffled-modality": "another image of the same modality", "text-only": "no image"}
"""Tags of answers that the same model gave without the right picture."""
LEADING = {"closed": "accuracy", "open": "exact_match"}


def list_survivals(main: Mapping[str, Any], tag: str, other: Mapping[str, Any]) -> list[str]:
    """Return which share of closed accuracy and open exact match a control keeps, with its interval where it is known.

    Args:
        main: The metrics of the main answers; their "controls" hold shares with intervals.
        tag: Of the control's answers.
        other: Their metrics: the share is their quotient where "controls" does not hold it.
    """
    return [_find_share(main, tag, other, kind) for kind in LEADING]


def _find_share(main: Mapping[str, Any], tag: str, other: Mapping[str, Any], kind: str) -> str:
    known = (main.get("controls") or {}).get("images", {}).values()
    parts: list[Mapping[str, Any]] = [control.get(kind, {}) for control in known if control.get("tag") == tag]
    part = parts[0] if parts else {}
    share = (find_metric(part, LEADING[kind]) or {}).get("survives")
    if share:
        return _show(share)
    own, control = (read_estimate(block[kind], LEADING[kind]).value if block.get(kind) else None
                    for block in (main, other))
    return format_share(control / own) if own and control is not None else MISSING


def explain_survival(main: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the sentence that a result is to be read with, empty where there is no control among `others`."""
    shares = {CONTROLS[tag]: list_survivals(main, tag, others[tag])[0] for tag in CONTROLS if tag in others}
    kept = [f"{share} with {name}" for name, share in shares.items() if share != MISSING]
    return f"Of its closed accuracy the model keeps {', '.join(kept)}: that much is guessed, not seen. " if kept else ""


def list_habits(controls: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what answers tell without their questions, as terms and texts: collapse, generic answers, option order."""
    for kind, key in (("closed", "collapse"), ("open", "collapse_open")):
        if top := controls.get(key):
            yield f"Collapse, {kind} questions", _describe_top(top)
    if empty := controls.get("empty"):
        yield "Empty answers", f"{_show(empty)} of {format_count(empty['n'])} answers"
    if generic := controls.get("generic"):
        yield "Generic answers", f"{_show(generic)} of {format_count(generic['n'])} answers to open questions"
    if often := controls.get("frequent"):
        yield "Frequent answers", (f"{_show(often)} of the answers to open questions are among the "
                                   f"{len(often['answers'])} most frequent in training; of the gold answers "
                                   f"{format_share(often['gold'])}")
    if order := controls.get("option_order"):
        yield "Order of options", _describe_order(order)


def _describe_top(top: Mapping[str, Any]) -> str:
    answer = f"“{top['answer']}”" if top["answer"] else "an empty text"
    return (f"{'yes' if top['is_collapse'] else 'no'}: {answer} answers {format_share(top['share'])} of "
            f"{format_count(top['n'])}; the most frequent gold answer {format_share(top['gold_share'])}")


def _describe_order(order: Mapping[str, Any]) -> str:
    text = (f"{_show(order['changed'])} of {format_count(order['n'])} answers change over "
            f"{format_count(order['orders'])} orders")
    if order.get("spread") is not None:
        text += f"; accuracy differs by up to {format_share(order['spread'])}"
    letters = ", ".join(f"{letter} {format_share(share)}" for letter, share in order["positions"].items())
    return f"{text}; options named: {letters}"


def list_habit_rules(controls: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """Return what the numbers of the controls mean, as terms and texts."""
    names = {"survives": "Kept", "collapse": "Collapse", "empty": "Empty answers",
             "generic": "Generic answers", "frequent": "Frequent answers", "option_order": "Order of options"}
    rules = controls.get("rules", {})
    return [(name, str(rules[key])) for key, name in names.items() if key in rules]


def _show(share: Mapping[str, Any]) -> str:
    return format_entry(share, as_share=True)

"""Before and after recalibration, and rules to abstain, as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.formatting import format_value
from medvqa_cli.reporting.protocol import name_metric
from medvqa_cli.reporting.tables import describe_protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from medvqa_cli.cli.terminal import Terminal

COMPARED = ("accuracy", "mean_confidence", "ece", "auroc", "aurc")
CHANGED = ("ece", "overconfidence", "underconfidence", "mean_confidence", "brier", "nll", "auroc")
UNITS = {"risk": "of the answers given", "error": "of all questions"}


def print_questions(terminal: Terminal, summary: Mapping[str, Any]) -> None:
    """Print which questions were measured and when an answer is right, where these are not yes/no questions alone."""
    protocol = summary["protocol"]
    if protocol.get("questions", "yes_no") != "yes_no":
        clusters = f" Of sampled answers, {protocol['clusters']}." if protocol.get("clusters") else ""
        terminal.print(f"Questions: {protocol['questions']}. Right is, of {protocol['rules']['correct']}.{clusters}")


def print_methods(terminal: Terminal, run: str, summary: Mapping[str, Any]) -> None:
    """Print the measures of every method: on its own questions, and on those all share where these are others."""
    protocol, own, shared = summary["protocol"], summary["own"], summary["shared"]
    title = f"{run}: {protocol['dataset']}, split {protocol['split']}"
    terminal.print_table(["confidence by", "questions", *map(name_metric, COMPARED)], list(_list_methods(own)), title)
    if shared and len({part["n"] for part in own.values()}) > 1:
        terminal.print()
        terminal.print_table(["confidence by", "questions", *map(name_metric, COMPARED)], list(_list_methods(shared)),
                             "On the questions in which every method has a confidence")
    print_questions(terminal, summary)
    for method, reason in summary["left_out"].items():
        terminal.print(f"{method}: left out, {reason}")
    terminal.print()
    terminal.print(describe_protocol(summary))


def _list_methods(parts: Mapping[str, Any]) -> Iterator[list[Any]]:
    for method, part in parts.items():
        yield [method, part["n"], *(_show_estimate(part[name]) for name in COMPARED)]


def print_trust(terminal: Terminal, summary: Mapping[str, Any]) -> None:
    """Print what recalibration changes and when to abstain, where the summary says so."""
    change = summary.get("recalibration")
    if change:
        _print_change(terminal, change)
    if summary.get("abstention"):
        terminal.print()
        for name in ("risk", "error"):
            terminal.print(_describe_rule(summary["abstention"][name], name))
    if summary.get("abstention_check"):
        _print_check(terminal, summary["abstention_check"])


def _print_change(terminal: Terminal, change: Mapping[str, Any]) -> None:
    calibrator = change["calibrator"]
    title = f"{calibrator['curve']['method']} calibrator, learnt from {calibrator['curve']['n']} answers"
    if calibrator["groups"]:
        title += f"; by {calibrator['group_by']}: {', '.join(calibrator['groups'])}"
    terminal.print()
    if "after" not in change:
        terminal.warn(f"{title}: too few right or wrong answers to say what it does on other images.")
        return
    terminal.print_table(["measure", "before", "after"], [
        [name_metric(name), _show(change["before"], name), _show(change["after"], name)] for name in CHANGED], title)
    if change["folds"]:
        terminal.print("After: each image by a calibrator learnt from the other images.")


def _show(block: Mapping[str, Any], name: str) -> str:
    interval = block["intervals"][name]
    return format_value(block[name], interval["low"], interval["high"])


def _describe_rule(rule: Mapping[str, Any], name: str) -> str:
    start = f"To have at most {rule['wanted']:g} {UNITS[name]} wrong: "
    if rule["threshold"] is None:
        return f"{start}{rule['guarantee']}."
    return (f"{start}answer from confidence {rule['threshold']:.2f} ({rule['coverage']:.0%} of these questions); "
            f"{rule['guarantee']}.")


def _print_check(terminal: Terminal, check: Mapping[str, Any]) -> None:
    terminal.print()
    terminal.print_table(["rule", "came to"], [list(row) for row in _list_rows(check)],
                         f"Rules chosen on {check['chosen_on']}, tried here")


def _list_rows(check: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, unit in UNITS.items():
        part = check[name]
        threshold = "never answer" if part["threshold"] is None else f"answer from {part['threshold']:.2f}"
        yield f"{threshold} (at most {check['wanted']:g} {unit} wrong)", (
            f"wrong {_show_estimate(part[name])}, answered {_show_estimate(part['coverage'])}")
    for method, part in check["sets"].items():
        yield f"{method.upper()} answer sets (at least {1 - check['wanted']:g} covered)", (
            f"covered {_show_estimate(part['coverage'])}, mean size {_show_estimate(part['mean_size'])}")


def _show_estimate(part: Mapping[str, Any]) -> str:
    return format_value(part["value"], part["low"], part["high"])

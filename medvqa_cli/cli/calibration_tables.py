"""Before and after recalibration, and rules to abstain, as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.formatting import format_entry
from medvqa_cli.reporting.protocol import name_metric
from medvqa_cli.reporting.tables import describe_protocol
from medvqa_cli.reporting.trust import CHANGED, CHECK_COLUMNS, RULES, describe_rule, list_checks, show_measure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from medvqa_cli.cli.terminal import Terminal

COMPARED = ("accuracy", "mean_confidence", "ece", "auroc", "aurc")


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
    for warning in summary.get("warnings") or ():
        terminal.warn(warning)


def _list_methods(parts: Mapping[str, Any]) -> Iterator[list[Any]]:
    for method, part in parts.items():
        yield [method, part["n"], *(format_entry(part[name]) for name in COMPARED)]


def print_trust(terminal: Terminal, summary: Mapping[str, Any]) -> None:
    """Print what recalibration changes and when to abstain, where the summary says so."""
    change = summary.get("recalibration")
    if change:
        _print_change(terminal, change)
    if summary.get("abstention"):
        terminal.print()
        for name, unit in RULES.items():
            rule = summary["abstention"][name]
            terminal.print(f"To have at most {rule['wanted']:g} {unit} wrong: {describe_rule(rule)}.")
    if summary.get("abstention_check"):
        _print_check(terminal, summary["abstention_check"])


def _print_change(terminal: Terminal, change: Mapping[str, Any]) -> None:
    calibrator = change["calibrator"]
    title = f"{calibrator['curve']['method']} calibrator, learnt from {calibrator['curve']['n']} answers"
    if change.get("questions"):
        title += f" to {change['questions']}"
    if calibrator["groups"]:
        title += f"; by {calibrator['group_by']}: {', '.join(calibrator['groups'])}"
    terminal.print()
    if "after" not in change:
        terminal.warn(f"{title}: too few right or wrong answers to say what it does on other images.")
        return
    terminal.print_table(["measure", "before", "after"], [
        [name_metric(name), show_measure(change["before"], name), show_measure(change["after"], name)]
        for name in CHANGED], title)
    if change.get("not_recalibrated"):
        terminal.print(f"Of {change['n']} answers: {change['not_recalibrated']} to other questions are left out, the "
                       "calibrator says nothing about them.")
    if change["folds"]:
        terminal.print("After: each image by a calibrator learnt from the other images.")


def _print_check(terminal: Terminal, check: Mapping[str, Any]) -> None:
    terminal.print()
    terminal.print_table(CHECK_COLUMNS, list(list_checks(check)), f"Rules chosen on {check['chosen_on']}, tried here")

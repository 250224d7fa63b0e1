"""Analyses and metrics as tables for people; programs read the same documents with `--json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.cli.wording import count
from medvqa_cli.reporting.formatting import format_share
from medvqa_cli.reporting.tables import (
    ANSWER_COLUMNS,
    MEASURE_COLUMNS,
    describe_protocol,
    explain_gaps,
    name_calibration_columns,
    summarize_answers,
    summarize_calibration,
    summarize_measures,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from medvqa_cli.cli.terminal import Terminal

ALL = "all"
FACETS = {"answer_types": "answer type", "question_types": "question type", "modalities": "modality", "organs": "organ",
          "languages": "language"}
BASELINES = {"majority": "majority", "majority_per_question_type": "majority per question type",
             "same_question_text": "same question text"}


def print_analysis(terminal: Terminal, document: Mapping[str, Any]) -> None:
    """Print what `analyze_data` found: counts, facets, baselines, leakage, verdict."""
    splits = document["splits"]
    terminal.print_table(["split", "questions", "images", "most frequent closed answer",
                          "most frequent open answer"],
                         [[name, part["questions"], part["images"], _describe_majority(part, "closed"),
                           _describe_majority(part, "open")] for name, part in splits.items()],
                         _describe_choice(document))
    terminal.print()
    terminal.print_table(["", *splits], list(_count_facets(splits)))
    terminal.print()
    _print_baselines(terminal, {f"{split}, {kind}": part for split, kinds in document["baselines"].items()
                                for kind, part in kinds.items()})
    others = [pair for other in document.get("against", ()) for pair in other["pairs"]
              if pair["splits"][0] == f"{other['dataset']}/any"]
    for pair in (*document["leakage"], *others):
        terminal.print(f"{' / '.join(map(_name_split, pair['splits']))}: {pair['shared_images']} of {pair['images']} "
                       f"images and {pair['shared_questions']} of {pair['questions']} questions in both; "
                       f"{pair['near_images']} images nearly alike")
    _print_verdict(terminal, document["verdict"])


def _describe_choice(document: Mapping[str, Any]) -> str:
    """Return the data set's name, and which of its languages is counted where it has others."""
    language = document.get("selection", {}).get("language", ALL)
    stored = [counts for split in document.get("stored", {}).values() for counts in split.items()]
    if language == ALL or {name for name, _ in stored} <= {language}:
        return str(document["dataset"])
    every = sum(number for _, number in stored)
    return f"{document['dataset']}: only questions in '{language}'; --language all takes all {every:,}"


def _name_split(name: str) -> str:
    """Return a split's name; that of all splits of another data set in words."""
    dataset, _, split = name.rpartition("/")
    return f"{dataset}, all splits" if dataset and split == "any" else name


def _describe_majority(part: Mapping[str, Any], kind: str) -> str | None:
    answers = (part.get(kind) or {}).get("frequent_answers")
    return None if not answers else f"{next(iter(answers))} ({format_share(part[kind]['majority_share'])})"


def _count_facets(splits: Mapping[str, Any]) -> Iterator[list[Any]]:
    for facet, title in FACETS.items():
        values = dict.fromkeys(value for part in splits.values() for value in part.get(facet, {}))
        yield from ([f"{title} {value or 'not stated'}", *(part[facet].get(value, 0) for part in splits.values())]
                    for value in values)


def _print_baselines(terminal: Terminal, rows: Mapping[str, Mapping[str, Any]]) -> None:
    if rows:
        shares = [[name, *(format_share(part.get(key)) for key in BASELINES)] for name, part in rows.items()]
        terminal.print_table(["accuracy without the picture", *BASELINES.values()], shares)
        terminal.print()


def _print_verdict(terminal: Terminal, verdict: Mapping[str, Any]) -> None:
    for finding in verdict["warnings"]:
        terminal.warn(finding["message"])
    terminal.print(f"Verdict: {_say_verdict(verdict)}")


def _say_verdict(verdict: Mapping[str, Any]) -> str:
    warnings = [warning["message"] for warning in verdict["warnings"]]
    if not verdict["ready"]:
        return f"not ready for training: {' '.join(fault['message'] for fault in verdict['faults'])}"
    if not warnings:
        return "ready for training."
    more = f" (and {len(warnings) - 1} more, above)" if len(warnings) > 1 else ""
    return f"ready for training, with {count(len(warnings), 'warning')}: {warnings[0].removesuffix('.')}{more}."


def print_answers(terminal: Terminal, run: str, summary: Mapping[str, Any]) -> None:
    """Print what `evaluate_answers` found: every group with its intervals, the baselines, and how it was measured."""
    terminal.print_table(list(ANSWER_COLUMNS), [list(row) for row in summarize_answers(summary)],
                         _title(run, summary["protocol"]))
    terminal.print()
    measures = summarize_measures(summary)
    terminal.print_table(list(MEASURE_COLUMNS), [list(row) for row in measures])
    for reason in explain_gaps(summary, measures):
        terminal.print(reason)
    terminal.print()
    terminal.print(describe_protocol(summary))
    _warn_of_data(terminal, summary["protocol"], run)
    for warning in summary.get("warnings") or ():
        terminal.warn(warning)


def print_calibration(terminal: Terminal, run: str, summary: Mapping[str, Any]) -> None:
    """Print what `evaluate_calibration` found: measures with intervals, the bins that hold questions, the protocol."""
    terminal.print_table(list(name_calibration_columns(summary)), [list(row) for row in summarize_calibration(summary)],
                         _title(run, summary["protocol"]))
    terminal.print()
    bins = [part for part in summary["bin_data"] if part["bin_size"]]
    terminal.print_table(["confidence", "questions", "mean confidence", "accuracy"],
                         [[f"({part['bin_lower']:.2f}, {part['bin_upper']:.2f}]", part["bin_size"],
                           f"{part['confidence']:.3f}", f"{part['accuracy']:.3f}"] for part in bins])
    terminal.print()
    terminal.print(describe_protocol(summary))
    for warning in summary.get("warnings") or ():
        terminal.warn(warning)
    _warn_of_data(terminal, summary["protocol"], run)


def print_mixture(terminal: Terminal, report: Mapping[str, Any]) -> None:
    """Print what `load_mixture` drew: each group's share as wanted and as drawn."""
    terminal.print_table(["group", "data sets", "questions", "drawn", "share wanted", "share drawn", "repeats"],
                         [[group["name"], ", ".join(group["datasets"]), group["available"], group["drawn"],
                           format_share(group["wanted"]), format_share(group["share"]), group["repeats"]]
                          for group in report["groups"]])


def _warn_of_data(terminal: Terminal, protocol: Mapping[str, Any], run: str) -> None:
    """Say that the analysis of the data found something, and what if it is one thing or verbose."""
    warnings = protocol.get("inference", {}).get("data_warnings", ())
    if len(warnings) > 1 and not terminal.verbose:
        terminal.warn(f"{len(warnings)} warnings about the data belong beside these numbers: read them with --verbose, "
                      f"or in the report (medvqa report {run}).")
        return
    for warning in warnings:
        terminal.warn(f"the data: {warning}")


def _title(run: str, protocol: Mapping[str, Any]) -> str:
    return f"{run}: {protocol['dataset']}, split {protocol['split']}"

"""Analyses and metrics as tables for people; programs read the same documents with `--json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from medvqa_cli.cli.terminal import Terminal

MEASURES = {"accuracy": "accuracy", "exact_match": "exact match", "token_f1": "token F1"}
FACETS = {"answer_types": "answer type", "question_types": "question type", "modalities": "modality", "organs": "organ",
          "languages": "language"}
BASELINES = {"majority": "majority", "majority_per_question_type": "majority per question type",
             "same_question_text": "same question text"}
CONFIDENCE = ("accuracy", "mean_confidence", "ece", "mce", "overconfidence", "underconfidence", "brier", "bias_floor",
              "valid_response_rate")


def print_analysis(terminal: Terminal, document: Mapping[str, Any]) -> None:
    """Print what `analyze_data` found: counts, facets, baselines, leakage, verdict."""
    splits = document["splits"]
    terminal.print_table(["split", "questions", "images", "most frequent closed answer", "open"],
                         [[name, part["questions"], part["images"], _describe_majority(part, "closed"),
                           _describe_majority(part, "open")] for name, part in splits.items()], document["dataset"])
    terminal.print()
    terminal.print_table(["", *splits], list(_count_facets(splits)))
    terminal.print()
    _print_baselines(terminal, {f"{split}, {kind}": part for split, kinds in document["baselines"].items()
                                for kind, part in kinds.items()})
    for pair in document["leakage"]:
        terminal.print(f"{' / '.join(pair['splits'])}: {pair['shared_images']} of {pair['images']} images and "
                       f"{pair['shared_questions']} of {pair['questions']} questions in both")
    _print_verdict(terminal, document["verdict"])


def _describe_majority(part: Mapping[str, Any], kind: str) -> str | None:
    answers = (part.get(kind) or {}).get("frequent_answers")
    return f"{next(iter(answers))} ({part[kind]['majority_share']:.1%})" if answers else None


def _count_facets(splits: Mapping[str, Any]) -> Iterator[list[Any]]:
    for facet, title in FACETS.items():
        values = dict.fromkeys(value for part in splits.values() for value in part.get(facet, {}))
        yield from ([f"{title} {value}", *(part[facet].get(value, 0) for part in splits.values())] for value in values)


def _print_baselines(terminal: Terminal, rows: Mapping[str, Mapping[str, Any]]) -> None:
    if rows:
        terminal.print_table(["accuracy without the picture", *BASELINES.values()],
                             [[name, *(_percent(part.get(key)) for key in BASELINES)] for name, part in rows.items()])
        terminal.print()


def _print_verdict(terminal: Terminal, verdict: Mapping[str, Any]) -> None:
    for finding in (*verdict["faults"], *verdict["warnings"]):
        terminal.warn(finding["message"])
    terminal.print("Verdict: ready for training." if verdict["ready"] else "Verdict: not ready for training.")


def print_answers(terminal: Terminal, run: str, summary: Mapping[str, Any]) -> None:
    """Print what `evaluate_answers` found: every group with its intervals, then the baselines."""
    protocol = summary["protocol"]
    terminal.print_table(["group", "questions", "images", *MEASURES.values()], list(_score_groups(summary)),
                         f"{run}: {protocol['dataset']}, split {protocol['split']}")
    terminal.print()
    baselines = summary.get("baselines") or {}
    _print_baselines(terminal, {kind: baselines[kind] for kind in ("closed", "open") if baselines.get(kind)})
    level = protocol["intervals"]["level"]
    terminal.print(f"In brackets: {level:.0%} intervals, {protocol['intervals']['method']}.")


def _score_groups(summary: Mapping[str, Any]) -> Iterator[list[Any]]:
    for name in ("overall", "closed", "open"):
        if summary.get(name):
            yield _score_row(name, summary[name])
    for facet, groups in summary["groups"].items():
        if facet != "answer_type" and len(groups) > 1:
            yield from (_score_row(f"{facet.replace('_', ' ')} {value}", part) for value, part in groups.items())


def _score_row(name: str, part: Mapping[str, Any]) -> list[Any]:
    return [name, part["n"], part["images"], *(_with_interval(part.get(key)) for key in MEASURES)]


def print_calibration(terminal: Terminal, run: str, summary: Mapping[str, Any]) -> None:
    """Print what `evaluate_calibration` found: measures with intervals, then the bins that hold questions."""
    intervals = summary["intervals"]
    rows = [[name.replace("_", " "), f"{summary[name]:.3f}", _show_range(intervals.get(name))]
            for name in CONFIDENCE if summary.get(name) is not None]
    protocol = summary["protocol"]
    asked = f"{summary['num_questions']} questions, {summary['num_samples']} answers each"
    terminal.print_table(["measure", "value", "interval"], rows,
                         f"{run}: {protocol['dataset']}, split {protocol['split']}, {asked}")
    terminal.print()
    bins = [part for part in summary["bin_data"] if part["bin_size"]]
    terminal.print_table(["confidence", "questions", "mean confidence", "accuracy"],
                         [[f"({part['bin_lower']:.2f}, {part['bin_upper']:.2f}]", part["bin_size"],
                           f"{part['confidence']:.3f}", f"{part['accuracy']:.3f}"] for part in bins])


def _show_range(interval: Mapping[str, Any] | None) -> str | None:
    return f"{interval['low']:.3f} to {interval['high']:.3f}" if interval and interval["low"] is not None else None


def _with_interval(measure: Mapping[str, Any] | None) -> str | None:
    if not measure or measure["value"] is None:
        return None
    bounds = f" ({measure['low']:.1%}, {measure['high']:.1%})" if measure.get("low") is not None else ""
    return f"{measure['value']:.1%}{bounds}"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.1%}"

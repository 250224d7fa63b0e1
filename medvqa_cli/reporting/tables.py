"""Metrics as rows of text, for the terminal: every number with its interval, every table with its protocol."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.calibration import list_measures
from medvqa_cli.reporting.estimates import BASELINES, CONFIDENCE_TERMS, find_metric, read_estimate, read_protocol
from medvqa_cli.reporting.formatting import MISSING, format_count, format_value
from medvqa_cli.reporting.protocol import describe_interval, describe_shortly, name_metric

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Row = tuple[str, ...]
ANSWER_COLUMNS: Row = ("part", "questions", "images", "accuracy", "exact match", "token F1")
MEASURE_COLUMNS: Row = ("measure", "closed", "open")
CALIBRATION_COLUMNS: Row = ("measure", "value")
HIDDEN = re.compile(r"rouge_\w+_(precision|recall)@")
METRICS = ("accuracy", "exact_match", "token_f1")


def summarize_answers(block: Mapping[str, Any]) -> list[Row]:
    """Return rows under `ANSWER_COLUMNS`: all questions, closed and open, every part of every group, baselines.

    No rows if the block does not state its protocol.

    Raises:
        RunError: If the block has another shape.
    """
    if read_protocol(block) is None:
        return []
    return [*_list_parts(block), *_list_baselines(block.get("baselines") or {})]


def summarize_measures(block: Mapping[str, Any]) -> list[Row]:
    """Return rows under `MEASURE_COLUMNS`: the measures that `summarize_answers` does not show, by their whole key.

    Left to `metrics.json` are precision and recall of ROUGE, and the clinical measures of "no", which are those of
    "yes" the other way round.

    No rows if the block does not state its protocol.

    Raises:
        RunError: If the block has another shape.
    """
    if read_protocol(block) is None:
        return []
    parts = [block.get(kind) or {} for kind in ("closed", "open")]
    shown = [key for key in parts[0] if find_metric(parts[0], key.partition("@")[0]) is parts[0][key]
             and key.partition("@")[0] in METRICS]
    keys = [key for key in dict.fromkeys(key for part in parts for key in part) if "@" in key and key not in shown]
    rows = [(key, *(_show_score(part, key) for part in parts)) for key in keys if not HIDDEN.match(key)]
    clinical = parts[0].get("clinical") or {}
    return rows + [(f"{key}, {label}", _show_score(clinical[label] | {"n": 0, "images": 0}, key), MISSING)
                   for label in ("yes", "macro") if label in clinical for key in clinical[label]]


def _show_score(part: Mapping[str, Any], key: str) -> str:
    if key not in part:
        return MISSING
    score = read_estimate(part, key)
    return format_value(score.value, score.low, score.high)


def summarize_calibration(block: Mapping[str, Any]) -> list[Row]:
    """Return rows under `CALIBRATION_COLUMNS`; none if the block does not state its protocol.

    Raises:
        RunError: If the block has another shape.
    """
    if read_protocol(block, CONFIDENCE_TERMS) is None:
        return []
    return [("Questions", format_count(block.get("num_questions"))),
            *([("Answers a question", format_count(block["num_samples"]))] if block.get("num_samples") else []),
            *((name_metric(name), text) for name, text in list_measures(block))]


def describe_protocol(block: Mapping[str, Any]) -> str:
    """Return the line that belongs under a table: data, split, decoding, and what the brackets are."""
    protocol = block.get("protocol")
    return f"{describe_shortly(protocol)} In brackets: {describe_interval(protocol)}." if protocol else ""


def _list_parts(block: Mapping[str, Any]) -> Iterator[Row]:
    for name in ("overall", "closed", "open"):
        if block.get(name):
            yield _show(name, block[name])
    for group, parts in block.get("groups", {}).items():
        if group != "answer_type" and len(parts) > 1:
            yield from (_show(f"{group.replace('_', ' ')} {value}", part) for value, part in parts.items())


def _show(name: str, part: Mapping[str, Any]) -> Row:
    scores = [read_estimate(part, metric) for metric in METRICS]
    return (name, format_count(scores[0].n), format_count(scores[0].images),
            *(format_value(score.value, score.low, score.high) for score in scores))


def _list_baselines(known: Mapping[str, Any]) -> Iterator[Row]:
    for kind in ("closed", "open"):
        for name, label in BASELINES.items():
            share = (known.get(kind) or {}).get(name)
            if share is not None:
                yield (f"{kind}: {label.lower()}", "", "", format_value(share), "", "")

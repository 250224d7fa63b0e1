"""Metrics as rows of text, for the terminal: every number with its interval, every table with its protocol."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.calibration import list_measures, list_readable
from medvqa_cli.reporting.estimates import BASELINES, CONFIDENCE_TERMS, find_metric, read_estimate, read_protocol
from medvqa_cli.reporting.formatting import MISSING, format_count, format_value
from medvqa_cli.reporting.protocol import describe_interval, describe_shortly, name_metric

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Row = tuple[str, ...]
ANSWER_COLUMNS: Row = ("part", "questions", "images", "accuracy", "exact match", "token F1")
MEASURE_COLUMNS: Row = ("measure", "closed", "open")
CALIBRATION_COLUMNS: Row = ("measure", "value")
READABLE_COLUMN = "questions that can be read"
HIDDEN = re.compile(r"rouge_\w+_(precision|recall)@")
METRICS = ("accuracy", "exact_match", "token_f1")
REASONS = {"bleu_": "BLEU-n needs answers of at least n words",
           "auroc": "AUROC needs probabilities of yes, from offered candidates or samples, and both gold answers",
           "mcc": "MCC needs both answers to vary",
           "open_recall": "open recall needs open questions"}
"""Why a measure may be undefined, by how its name begins."""


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


def explain_gaps(block: Mapping[str, Any], measures: Sequence[Row]) -> list[str]:
    """Return why numbers are a dash or have no interval, as sentences; none where all are there.

    Args:
        block: As for `summarize_answers`.
        measures: Its rows by `summarize_measures`.
    """
    bare = [row[0].partition("@")[0] for row in measures if all(cell == MISSING for cell in row[1:])]
    reasons = [reason for start, reason in REASONS.items() if any(name.startswith(start) for name in bare)]
    reasons += ["one kind of questions is asked only"] if len({"closed", "open"} & set(block)) == 1 else []
    texts = [f"{MISSING}: undefined here ({'; '.join(reasons)})."] if reasons else []
    parts = [block[kind] for kind in ("overall", "closed", "open") if block.get(kind)]
    scores = [read_estimate(part, metric) for part in parts for metric in METRICS]
    if any(score.value is not None and score.low is None for score in scores):
        texts.append("No brackets: no interval (too few images, or nothing differs between them).")
    return texts


def _show_score(part: Mapping[str, Any], key: str) -> str:
    if key not in part:
        return MISSING
    score = read_estimate(part, key)
    return format_value(score.value, score.low, score.high)


def summarize_calibration(block: Mapping[str, Any]) -> list[Row]:
    """Return rows under `name_calibration_columns`; none if the block does not state its protocol.

    Raises:
        RunError: If the block has another shape.
    """
    if read_protocol(block, CONFIDENCE_TERMS) is None:
        return []
    unread, readable = block.get("questions_without_valid_answer"), block.get("readable") or {}
    rows: list[Row] = [("Questions", format_count(block.get("num_questions")), format_count(readable.get("n")))]
    rows += [("Questions without a valid answer", format_count(unread), format_count(0))] if unread else []
    rows += [("Answers a question", format_count(block["num_samples"]), "")] if block.get("num_samples") else []
    beside = dict(list_readable(block))
    rows += [(name_metric(name), text, beside.get(name, "")) for name, text in list_measures(block)]
    return rows if readable else [row[:2] for row in rows]


def name_calibration_columns(block: Mapping[str, Any]) -> Row:
    """Return the columns of a calibration's table: one more where some questions have no valid answer."""
    return (*CALIBRATION_COLUMNS, READABLE_COLUMN) if block.get("readable") else CALIBRATION_COLUMNS


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

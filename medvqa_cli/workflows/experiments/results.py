"""What finished runs found, read from their files: metrics, and the score of every question."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import RunError
from medvqa_cli.records import read_jsonl
from medvqa_cli.reporting.estimates import find_metric, read_estimate
from medvqa_cli.workflows.experiments.jobs import Job, find_pending, is_done, read_confidence

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Data fingerprint, split, image, question.
Question = tuple[str, str, str, str]
Scores = dict[str, dict[Question, float]]
MEASURES = {"closed_accuracy": ("closed", "accuracy"), "open_exact_match": ("open", "exact_match"),
            "open_token_f1": ("open", "token_f1")}
"""Metric of answers -> type of question, and name of the value in a score."""
BRIER = "brier"
CONFIDENCE = ("ece", "bias_floor", BRIER, "nll", "auroc", "aurc")
"""Measures of confidence; as metrics they are named "MEASURE@SOURCE", such as "ece@sampling"."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What one run of an experiment found.

    `metrics` holds what was measured; `scores` holds, by metric, the score of each question; `state` is "done", or says
    what is missing.
    """

    name: str
    values: Mapping[str, Any]
    state: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, Mapping[Question, float]] = field(default_factory=dict)


def read_result(job: Job, values: Mapping[str, Any]) -> RunResult:
    """Return what a job's run holds; results of stages that are not done are left out.

    Raises:
        RunError: If a file is damaged.
    """
    pending = find_pending(job)
    state = f"not done: {', '.join(pending)}" if pending else "done"
    metrics: dict[str, float] = {}
    scores: Scores = {}
    if is_done(job, "evaluate") and "evaluate" not in pending:
        answers = job.run.read_json("metrics.json")["answers"][job.tag or "main"]
        metrics |= {name: value for name, (kind, key) in MEASURES.items()
                    if kind in answers and (value := read_estimate(answers[kind], key).value) is not None}
        scores |= _read_scores(job, answers["protocol"])
    if is_done(job, "calibrate") and "calibrate" not in pending:
        for folder, block in read_confidence(job).items():
            source = _name_source(block)
            metrics |= {f"{name}@{source}": block[name] for name in CONFIDENCE if block.get(name) is not None}
            scores |= {f"{BRIER}@{source}": _read_brier(job, folder, block["protocol"])}
    return RunResult(job.name, values, state, metrics, scores)


def _name_source(block: Mapping[str, Any]) -> str:
    """Return where confidences come from, and of which questions they are where these are not yes/no."""
    method, questions = block.get("method", "sampling"), block["protocol"].get("questions", "yes_no")
    return method if questions == "yes_no" else f"{method}-{questions}"


def _name_data(protocol: Mapping[str, Any]) -> str:
    return str(protocol.get("inference", {}).get("fingerprint") or protocol["dataset"])


def _read_scores(job: Job, protocol: Mapping[str, Any]) -> Scores:
    path = job.run.path / f"scores{job.suffix}.jsonl"
    scores: Scores = {}
    for number, row in enumerate(read_jsonl(path), start=1):
        try:
            question = (_name_data(protocol), str(protocol["split"]), str(row["image_id"]), str(row["question_id"]))
            for name, (kind, key) in MEASURES.items():
                if row["groups"]["answer_type"] == kind:
                    scores.setdefault(name, {})[question] = float(find_metric(row["values"], key))
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path}, line {number}: not a score ({error}).",
                           f"Score it anew with `medvqa eval answers --run {job.run.path}`.") from error
    return scores


def _read_brier(job: Job, folder: str, protocol: Mapping[str, Any]) -> dict[Question, float]:
    """Return the squared difference of confidence and correctness of each question: their mean is the Brier score."""
    path = job.run.path / folder / "detailed_results.json"
    try:
        rows: Iterable[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return {(_name_data(protocol), str(protocol["split"]), str(row["image_id"]), str(row["question_id"])):
                (row["confidence"] - row["is_correct"]) ** 2 for row in rows}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is no list of confidences ({error}).",
                       f"Measure it anew with `medvqa eval calibration --run {job.run.path}`.") from error


def name_scored(results: Iterable[RunResult]) -> list[str]:
    """Return the metrics for which some run has the score of every question: those of answers first."""
    found = dict.fromkeys(name for result in results for name in result.scores)
    return [*(name for name in MEASURES if name in found), *(name for name in found if name not in MEASURES)]


def name_measured(results: Iterable[RunResult]) -> list[str]:
    """Return the metrics that some run has: those of answers first, then source by source."""
    found = dict.fromkeys(name for result in results for name in result.metrics)
    sources = dict.fromkeys(name.partition("@")[2] for name in found if "@" in name)
    return [*(name for name in MEASURES if name in found),
            *(name for source in sources for measure in CONFIDENCE if (name := f"{measure}@{source}") in found)]

"""What finished runs found, read from their files: metrics, and the score of every question."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import RunError
from medvqa_cli.records import read_jsonl
from medvqa_cli.reporting.estimates import find_metric, read_estimate
from medvqa_cli.workflows.experiments.jobs import Job, find_pending, is_done

if TYPE_CHECKING:
    from collections.abc import Mapping

# Data fingerprint, split, image, question.
Question = tuple[str, str, str, str]
MEASURES = {"closed_accuracy": ("closed", "accuracy"), "open_exact_match": ("open", "exact_match"),
            "open_token_f1": ("open", "token_f1")}
"""Metric -> type of question, and name of the value in a score."""
ECE = "ece"
METRICS = (*MEASURES, ECE)


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
    scores: dict[str, dict[Question, float]] = {}
    if is_done(job, "evaluate") and "evaluate" not in pending:
        answers = job.run.read_json("metrics.json")["answers"][job.tag or "main"]
        metrics |= {name: value for name, (kind, key) in MEASURES.items()
                    if kind in answers and (value := read_estimate(answers[kind], key).value) is not None}
        scores = _read_scores(job, answers["protocol"])
    if is_done(job, "calibrate") and "calibrate" not in pending:
        metrics[ECE] = job.run.read_json("metrics.json")["calibration"]["ece"]
    return RunResult(job.name, values, state, metrics, scores)


def _read_scores(job: Job, protocol: Mapping[str, Any]) -> dict[str, dict[Question, float]]:
    path = job.run.path / f"scores{job.suffix}.jsonl"
    data = str(protocol.get("inference", {}).get("fingerprint") or protocol["dataset"])
    scores: dict[str, dict[Question, float]] = {}
    for number, row in enumerate(read_jsonl(path), start=1):
        try:
            question = (data, str(protocol["split"]), str(row["image_id"]), str(row["question_id"]))
            for name, (kind, key) in MEASURES.items():
                if row["groups"]["answer_type"] == kind:
                    scores.setdefault(name, {})[question] = float(find_metric(row["values"], key))
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path}, line {number}: not a score ({error}).",
                           f"Score it anew with `medvqa eval answers --run {job.run.path}`.") from error
    return scores

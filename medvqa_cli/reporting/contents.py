"""What a run holds, read and ready: the one input of the report."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.answers import build_results, build_summary, keep_stated, name_tag
from medvqa_cli.reporting.blocks import Note, Section
from medvqa_cli.reporting.calibration import build_calibration
from medvqa_cli.reporting.closed import build_closed
from medvqa_cli.reporting.data import build_data, list_findings
from medvqa_cli.reporting.estimates import find_metric
from medvqa_cli.reporting.formatting import format_count
from medvqa_cli.reporting.gallery import Entry
from medvqa_cli.reporting.protocol import name_control
from medvqa_cli.reporting.provenance import build_provenance
from medvqa_cli.reporting.training import build_training

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medvqa_cli.records import Prediction
    from medvqa_cli.reporting.blocks import Gallery


COLLAPSE = "The model has collapsed at step"
"""How a training's warning of a collapse begins."""
PASSED = "Passed, the final answers do not show it:"


@dataclass(frozen=True, slots=True)
class Contents:
    """A run's files, empty where it has none.

    `predictions` are by tag; `details` are those of the calibration that is shown in full, `confusion` and `routes` as
    in `closed.build_closed`; `absent` maps what is missing to what makes it.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[Mapping[str, Any]] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    analysis: Mapping[str, Any] = field(default_factory=dict)
    predictions: Mapping[str, Sequence[Prediction]] = field(default_factory=dict)
    scores: Sequence[Mapping[str, Any]] = ()
    details: Sequence[Mapping[str, Any]] = ()
    confusion: Mapping[tuple[str, str], int] = field(default_factory=dict)
    routes: Sequence[Mapping[str, Any]] = ()
    absent: Mapping[str, str] = field(default_factory=dict)


def build_sections(contents: Contents, gallery: Gallery | None, beside: Sequence[Section] = ()) -> list[Section]:
    """Return the report's sections in reading order; `beside` are those on other systems.

    Raises:
        RunError: If a file has another shape than this version writes.
    """
    answers = contents.metrics.get("answers", {})
    name, calibration = choose_calibration(contents.metrics)
    others = {key: block for key, block in contents.metrics.items() if key.startswith("calibration") and key != name}
    questions = [gallery] if gallery else [Note("No question is answered in this run yet: `medvqa infer`.")]
    return [
        build_summary(answers, calibration, list_warnings(contents)),
        build_results(answers),
        *beside,
        build_closed(answers.get("main", {}), contents.confusion, contents.routes),
        build_calibration(calibration, contents.details, others, contents.metrics.get("confidence_methods")),
        build_training(contents.events),
        build_data(contents.analysis, contents.manifest.get("data", {})),
        Section("questions", "Questions", "", questions),
        build_provenance({key: value for key, value in contents.manifest.items() if key != "data"}, contents.settings,
                         contents.absent),
    ]


def choose_calibration(metrics: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return name and block of the calibration that is shown in full: of sampled answers on the test split, if there.

    Else the first there is of answers to the images themselves, not to a control; an empty block if there is none.
    """
    names = ["calibration", *sorted(key for key in metrics if key.startswith("calibration-"))]
    name = next((name for name in names if metrics.get(name) and not name_control(metrics[name].get("protocol"))), "")
    return (name, metrics[name]) if name else ("calibration", {})


def list_warnings(contents: Contents) -> list[str]:
    """Return what is known against data and training: found before it, in it, where answers were made; each once."""
    stated, _ = keep_stated(contents.metrics.get("answers", {}))
    protocols = [block["protocol"] for block in stated.values()]
    protocols.append(choose_calibration(contents.metrics)[1].get("protocol") or {})
    manifest = contents.manifest
    found = [*list_findings(contents.analysis), *manifest.get("data", {}).get("warnings", ()),
             *manifest.get("warnings", ())]
    for protocol in protocols:
        found += protocol.get("inference", {}).get("data_warnings", ())
    is_passed = "main" in stated and not stated["main"].get("checks", {}).get("collapsed", ("unknown",))
    return [f"{PASSED} {text}" if is_passed and text.startswith(COLLAPSE) else text for text in dict.fromkeys(found)]


def describe_run(contents: Contents) -> str:
    """Return the line under the title: model, data, split, size."""
    model = contents.manifest.get("model", {})
    parts = [str(model["family"])] if model.get("family") else []
    stated, _ = keep_stated(contents.metrics.get("answers", {}))
    if "main" in stated:
        protocol = stated["main"]["protocol"]
        parts.append(f"{protocol.get('dataset')}, {protocol.get('split')} split: {format_count(protocol.get('n'))} "
                     f"questions on {format_count(protocol.get('images'))} images")
    return " · ".join(parts) or "A run that is not scored yet."


def list_entries(contents: Contents) -> list[Entry]:
    """Return every answered question with its outcome, its confidence and the other answers to it."""
    correct = {_name_score(row): find_metric(row["values"], "accuracy") for row in contents.scores}
    split = (choose_calibration(contents.metrics)[1].get("protocol") or {}).get("split")
    details = {(split, row["question_id"]): row for row in contents.details}
    others = {tag: {_identify(item): item.answer for item in rows}
              for tag, rows in contents.predictions.items() if tag != "main"}
    return [_make_entry(prediction, correct, details, others) for prediction in contents.predictions.get("main", ())]


def _make_entry(prediction: Prediction, correct: Mapping[tuple[str, ...], float | None],
                details: Mapping[tuple[Any, str], Mapping[str, Any]],
                others: Mapping[str, Mapping[tuple[str, ...], str]]) -> Entry:
    sample = prediction.sample
    detail = details.get((sample.split, sample.question_id), details.get((None, sample.question_id)))
    key = _identify(prediction)
    value = correct.get(key, correct.get(key[2:]))
    outcome = "not scored" if value is None else "right" if value >= 1 else "wrong"
    confidence, basis = _find_confidence(prediction, detail)
    lines = [(name_tag(tag), answers[key]) for tag, answers in others.items() if key in answers]
    if detail is not None and sum(detail.get(f"{name}_count", 0) for name in ("yes", "no", "unknown")):
        lines.append(("Sampled", _say_votes(detail)))
    if prediction.abstains:
        lines.append(("Abstains", "less sure than was asked for"))
    if prediction.route:
        lines.append(("Chosen from", ", ".join(prediction.candidates or ())))
    return Entry(prediction, outcome, confidence, basis, tuple(lines))


def _name_score(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return which question a score is of; those of older versions name neither data set nor split."""
    named = (str(row["dataset"]), str(row["split"])) if row.get("dataset") else ()
    return (*named, str(row["question_id"]))


def _identify(prediction: Prediction) -> tuple[str, ...]:
    return prediction.sample.dataset, prediction.sample.split, prediction.sample.question_id


def _find_confidence(prediction: Prediction, detail: Mapping[str, Any] | None) -> tuple[float | None, str]:
    """Return how sure the model is of the answer it gave: by its sampled answers, else by the answer's probability."""
    if prediction.confidence is not None:
        return prediction.confidence, "as stated with the answer"
    answer = prediction.answer.strip(" .").lower()
    share = detail.get(f"p_{answer}") if detail is not None and detail.get("is_valid", True) else None
    if share is not None:
        return share, "share of the samples"
    if prediction.candidates and prediction.answer in prediction.candidates:
        return prediction.candidates[prediction.answer], "among the candidates"
    if prediction.logprob is not None and math.isfinite(prediction.logprob):
        return math.exp(min(prediction.logprob, 0.0)), "probability of its text"
    return None, ""


def _say_votes(detail: Mapping[str, Any]) -> str:
    text = f"yes {format_count(detail['yes_count'])}, no {format_count(detail['no_count'])}"
    if detail.get("unknown_count"):
        text += f", neither {format_count(detail['unknown_count'])}"
    truth = detail.get("true_p_yes")
    is_ambiguous = truth is not None and 0 < truth < 1
    return f"{text}; in truth yes with probability {truth:.2f}" if is_ambiguous else text

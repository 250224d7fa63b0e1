"""A run's model card: what stands beside weights that leave the machine. It repeats what the run holds, no more."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.formatting import format_count
from medvqa_cli.reporting.protocol import describe_interval, list_protocol, name_metric
from medvqa_cli.reporting.provenance import flatten

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ABSOLUTE = re.compile(r"(?<![\w.:/~<])(?:~?/|[A-Za-z]:[\\/])(?:[^\s/\\'\"`,;|]+[/\\])+([^\s/\\'\"`,;|]+)")
HIDDEN = "prompt.exemplars"
"""Questions and answers that a user typed."""
SHOWN = ("seed", "train", "prompt", "mask", "knowledge", "model")
MEASURES = ("accuracy", "exact_match", "token_f1")
NOT_EVALUATED = "Not evaluated: the run holds no metrics."
RESEARCH = "Research use only; not for clinical decisions."


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card is written from.

    Attributes:
        title: Heading, such as the hub id.
        base: Hub id of the base model; empty if it is not known to be on the hub.
        library: "peft" for an adapter, "transformers" for whole weights.
        manifest: The run's manifest.json.
        settings: The run's settings.json.
        metrics: The run's metrics.json; empty if it was not evaluated.
        licence: The data set's licence as its card states it; empty if it is not known.
    """

    title: str
    base: str
    library: str
    manifest: Mapping[str, Any]
    settings: Mapping[str, Any]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""


def hide_paths(text: str) -> str:
    """Return text in which paths of the machine are cut to their last part."""
    return ABSOLUTE.sub(lambda found: found[1], text)


def hide_folders(value: Any) -> Any:
    """Return a JSON value in which every text that is a whole path of the machine is cut to its last part."""
    if isinstance(value, dict):
        return {key: hide_folders(part) for key, part in value.items()}
    if isinstance(value, list):
        return [hide_folders(part) for part in value]
    is_path = isinstance(value, str) and (PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute())
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if is_path and "\n" not in value else value


def write_card(facts: CardFacts) -> str:
    """Return the card as Markdown with the hub's metadata above it."""
    parts = [_write_head(facts), f"# {facts.title}", f"**{RESEARCH}**", "## Base model", _describe_base(facts),
             "## Training data", *_list_items(_list_data(facts)), *_list_warnings(facts.manifest),
             "## Training", *_list_items(_list_training(facts)), "## Evaluation", *_describe_metrics(facts.metrics)]
    return hide_paths("\n\n".join(part for part in parts if part)) + "\n"


def _write_head(facts: CardFacts) -> str:
    base = [f"base_model: {facts.base}"] if facts.base else []
    return "\n".join(["---", *base, f"library_name: {facts.library}", "pipeline_tag: visual-question-answering",
                      "tags:", "- medical", "- visual-question-answering", "- research-only", "- medvqa", "---"])


def _describe_base(facts: CardFacts) -> str:
    model = facts.manifest.get("model", {})
    commit = f" at commit `{model['commit']}`" if model.get("commit") else ""
    if facts.base:
        name = f"[{facts.base}](https://huggingface.co/{facts.base}){commit}"
    elif facts.settings.get("model", {}).get("scratch"):
        name = "none: a small model with random weights was built for this run"
    else:
        name = f"`{PurePath(str(model.get('checkpoint', 'not stated'))).name}`, a local folder{commit}"
    return f"{name} (family `{model.get('family', 'not stated')}`)."


def _list_data(facts: CardFacts) -> Iterator[tuple[str, str]]:
    data = facts.manifest.get("data", {})
    yield "Data set", str(data.get("dataset", "not stated"))
    yield "Fingerprint", f"`{data.get('fingerprint', 'not stated')}`"
    yield "Licence of the data", facts.licence or "not known"
    questions, images = (format_count(data.get(f"train_{what}")) for what in ("questions", "images"))
    yield "Questions trained on", f"{questions} about {images} images"
    yield "Validation questions", format_count(data.get("validation_questions"))
    yield "Check before training", str(data.get("check", "not stated"))


def _list_warnings(manifest: Mapping[str, Any]) -> Iterator[str]:
    for warning in dict.fromkeys([*manifest.get("data", {}).get("warnings", ()), *manifest.get("warnings", ())]):
        yield f"> Warning: {warning}"


def _list_training(facts: CardFacts) -> Iterator[tuple[str, str]]:
    manifest = facts.manifest
    yield "Objective", "cross-entropy on the answers' tokens"
    yield "Optimiser steps", format_count(manifest.get("steps"))
    yield "Processes", format_count(manifest.get("processes", 1))
    yield "Software", ", ".join(f"{name} {version}" for name, version in
                                {"medvqa": manifest.get("medvqa"), **manifest.get("packages", {})}.items() if version)
    for key, value in flatten({key: facts.settings[key] for key in SHOWN if key in facts.settings}):
        if value not in {"none", "(empty)"} and key != HIDDEN:
            yield f"`{key}`", value


def _list_items(rows: Iterator[tuple[str, str]]) -> Iterator[str]:
    yield "\n".join(f"- {term}: {text}" for term, text in rows)


def _describe_metrics(metrics: Mapping[str, Any]) -> Iterator[str]:
    answers = {tag: block for tag, block in metrics.get("answers", {}).items() if block.get("protocol")}
    if not answers:
        yield NOT_EVALUATED
    for tag, block in answers.items():
        yield f"### Answers ({tag})" if len(answers) > 1 else "### Answers"
        if block.get("incomplete"):
            yield "> Warning: not every question of the split was answered."
        yield "\n".join(_draw_table(block))
        yield f"In brackets: {describe_interval(block['protocol'])}."
        yield from _list_items(list_protocol(block["protocol"]))
    calibration = metrics.get("calibration", {})
    if calibration.get("protocol") and calibration.get("ece") is not None:
        yield "### Calibration"
        yield f"{name_metric('ece')}: {calibration['ece']:.3f}."
        yield from _list_items(list_protocol(calibration["protocol"]))


def _draw_table(block: Mapping[str, Any]) -> Iterator[str]:
    yield "| questions | n | images | " + " | ".join(name_metric(name) for name in MEASURES) + " |"
    yield "| --- | ---: | ---: |" + " ---: |" * len(MEASURES)
    for kind in ("overall", "closed", "open"):
        if part := block.get(kind):
            cells = [_draw_estimate(part.get(name) or {}) for name in MEASURES]
            yield f"| {kind} | {part['n']} | {part['images']} | " + " | ".join(cells) + " |"


def _draw_estimate(estimate: Mapping[str, Any]) -> str:
    value, low, high = (estimate.get(key) for key in ("value", "low", "high"))
    if value is None:
        return "undefined"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"

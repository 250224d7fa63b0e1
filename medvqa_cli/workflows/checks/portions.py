"""Small portions: the settings of jobs that take seconds, on a few questions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.scoring.answers import parse_yes_no
from medvqa_cli.settings.schema import Settings, make_settings, to_tree
from medvqa_cli.workflows.checks.outcome import NotApplicableError

if TYPE_CHECKING:
    from pathlib import Path

    from medvqa_cli.workflows.checks.scope import SanityScope

STEPS = 8
"""Optimiser steps of a short training."""
TINY_RATE = 5e-3
"""Learning rate for random weights, which have far to go."""
TINY_TOKENS = 8
"""Most tokens of an answer of random weights, which know no end."""
RESAMPLES = 100
NO_DIAGNOSTICS = {"report_to": (), "probe_questions": 0, "histogram_steps": 0, "image_steps": 0, "text_previews": 0,
                  "length_questions": 0}


def portion_data(settings: Settings, scope: SanityScope, folder: Path) -> Settings:
    """Return settings whose demo, if that is the data set, is a small one of its own; any other is taken as it is."""
    data: dict[str, Any] = {"mixture": None}
    update: dict[str, Any] = {}
    if settings.data.dataset == "demo":
        size = {"train_images": max(4, scope.train_samples), "validation_images": 1,
                "test_images": max(4, scope.test_samples)}
        data["options"] = size | settings.data.options
        update["paths"] = settings.paths.model_copy(update={"prepared": folder / "prepared"})
    return settings.model_copy(update=update | {"data": settings.data.model_copy(update=data)})


def portion_training(settings: Settings, scope: SanityScope, *, tiny: bool) -> Settings:
    """Return the settings of a short training that measures its loss on all its questions after every step."""
    split = settings.data.train_split
    train = {"max_steps": STEPS, "gradient_accumulation": 1, "warmup": 0.0, "scheduler": "constant", "log_steps": 1,
             "eval_fraction": 1 / STEPS, "eval_questions": scope.train_samples, "save_fraction": 0.0, "workers": 0}
    return _change(settings, {
        "data": {"limit": _bound(settings, scope.train_samples), "validation_split": split},
        "train": train | ({"learning_rate": TINY_RATE} if tiny else {}),
        "tracking": NO_DIAGNOSTICS})


def portion_inference(settings: Settings, scope: SanityScope, *, tiny: bool) -> Settings:
    """Return the settings that answer a few questions."""
    return _change(settings, {"data": {"limit": _bound(settings, scope.test_samples)},
                              "infer": {"max_new_tokens": TINY_TOKENS} if tiny else {}})


def portion_calibration(settings: Settings, scope: SanityScope) -> Settings:
    """Return the settings that draw a few answers to the first yes/no questions of the test split.

    Raises:
        NotApplicableError: If there is none.
        DataError: If the split cannot be read.
    """
    from medvqa_cli.workflows.data import choose_samples

    whole = choose_samples(_change(settings, {"data": {"limit": None}}), settings.data.test_split)
    closed = [sample for sample in whole if sample.answer_type == "closed"]
    places = [place for place, sample in enumerate(closed, start=1) if parse_yes_no(sample.answer)]
    if not places:
        raise NotApplicableError("no yes/no question in the test split")
    limit = places[: _bound(settings, scope.test_samples)][-1]
    return _change(settings, {"data": {"question_type": "closed", "limit": limit},
                              "calibration": {"samples": scope.calibration_samples, "method": "sampling",
                                              "questions": "yes_no"},
                              "evaluation": {"resamples": RESAMPLES}})


def _bound(settings: Settings, number: int) -> int:
    """Return a number of questions, no more than the user's own limit."""
    return min(number, settings.data.limit or number)


def _change(settings: Settings, changes: dict[str, dict[str, Any]]) -> Settings:
    tree = to_tree(settings)
    return make_settings(tree | {section: {**tree[section], **values} for section, values in changes.items()})

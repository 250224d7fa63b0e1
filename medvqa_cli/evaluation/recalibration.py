"""Calibrators learnt from details, and what they change: measures before and after, with intervals."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from medvqa_cli.errors import DataError
from medvqa_cli.evaluation.calibration import choose_clip, list_measures
from medvqa_cli.evaluation.details import GROUPS, Detail, Source
from medvqa_cli.evaluation.questions import KINDS
from medvqa_cli.scoring.calibration import bin_confidences
from medvqa_cli.scoring.intervals import number_clusters
from medvqa_cli.scoring.recalibration import Calibrator, fit_calibrator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medvqa_cli.scoring.recalibration import Method
    from medvqa_cli.settings.schema import EvaluationSettings

FOLDS = 5


def learn_calibrator(details: Sequence[Detail], method: Method, *, source: Source, num_samples: int | None,
                     num_bins: int = 10, group_by: str = "",
                     provenance: Mapping[str, Any] | None = None) -> Calibrator:
    """Return a calibrator learnt from details; with `group_by` one map for each large enough group as well.

    Answers that are not valid teach nothing: their confidence is none.

    Raises:
        DataError: If there is nothing to learn from, or `group_by` is no field to go by.
    """
    if group_by and group_by not in GROUPS:
        raise DataError(f"Calibrators cannot go by '{group_by}'.", f"Choose one of {', '.join(GROUPS)}.")
    valid = [detail for detail in details if detail.is_valid]
    kinds = [kind for kind in KINDS["all"] if any(d.kind == kind for d in valid)]
    return fit_calibrator(method, [d.confidence for d in valid], [d.is_correct for d in valid], kinds=kinds,
                          groups=[str(getattr(d, group_by)) for d in valid] if group_by else None, group_by=group_by,
                          clip=choose_clip(num_samples), num_bins=num_bins, source=source, provenance=provenance)


def recalibrate(details: Sequence[Detail], calibrator: Calibrator, source: Source) -> list[Detail]:
    """Return the details with their confidence recalibrated; an answer that is not valid keeps its own.

    Those to questions of other kinds than the calibrator was learnt from have no `calibrated` confidence.

    Raises:
        DataError: If the calibrator was learnt from confidences by another method.
    """
    check_source(calibrator, source)
    groups = [str(getattr(d, calibrator.group_by)) for d in details] if calibrator.group_by else None
    found = calibrator.apply([d.confidence for d in details], groups)
    return [replace(d, calibrated=float(value) if d.is_valid else d.confidence) if d.kind in calibrator.kinds
            else replace(d, calibrated=None) for d, value in zip(details, found, strict=True)]


def check_source(calibrator: Calibrator, source: Source) -> None:
    """Refuse confidences by another method than a calibrator was learnt from.

    Raises:
        DataError: If they are.
    """
    if calibrator.source != source:
        raise DataError(f"The calibrator was learnt from confidences by '{calibrator.source}', these are by "
                        f"'{source}'.", f"Fit one with `medvqa eval calibration --method {source} --fit-calibrator "
                        f"isotonic`, or take --method {calibrator.source}.")


def recalibrate_by_folds(details: Sequence[Detail], method: Method, *, seed: int = 0,
                         **options: Any) -> list[Detail] | None:
    """Return the details, each recalibrated by a map learnt from the other images' answers; None if one cannot be.

    Images are dealt into 5 folds: what is measured on these says how the calibrator does on new images, which its own
    training answers do not. `options` are those of `learn_calibrator`.
    """
    owner = number_clusters([d.image_id for d in details])
    count = int(owner.max()) + 1
    fold = (np.random.default_rng(seed).permutation(count) % FOLDS)[owner]
    found: dict[str, Detail] = {}
    for number in range(FOLDS):
        rest = [d for d, place in zip(details, fold, strict=True) if place != number]
        own = [d for d, place in zip(details, fold, strict=True) if place == number]
        if own:
            try:
                calibrator = learn_calibrator(rest, method, **options)
            except DataError:  # all of the rest are right, or all wrong: there is no second opinion, and it is said
                return None
            found |= {d.question_id: d for d in recalibrate(own, calibrator, options["source"])}
    return [found[d.question_id] for d in details]


def compare_calibration(details: Sequence[Detail], settings: EvaluationSettings, *, num_bins: int,
                        num_samples: int | None, seed: int = 0) -> dict[str, Any]:
    """Return {"before", "after"}: measures with intervals over the same draws of images, and bins.

    Both are of the answers that were recalibrated, "n" of them; empty if none was.

    Args:
        details: Recalibrated, or not where the calibrator says nothing about such questions.
        settings: Of the intervals.
        num_bins: Bins.
        num_samples: Answers drawn for each; None where the confidence is no share of samples.
        seed: Of the bootstrap.
    """
    options: dict[str, Any] = {"num_bins": num_bins, "level": settings.confidence_level,
                               "resamples": settings.resamples, "seed": seed}
    known = [(d, d.calibrated) for d in details if d.calibrated is not None]
    if not known:
        return {}
    kept = [d for d, _ in known]
    return {"n": len(kept)} | {name: _measure(kept, sure, choose_clip(num_samples), options) for name, sure in (
        ("before", [d.confidence for d in kept]), ("after", [after for _, after in known]))}


def _measure(details: Sequence[Detail], sure: list[float], clip: float, options: dict[str, Any]) -> dict[str, Any]:
    right, num_bins = [d.is_correct for d in details], options["num_bins"]
    found = list_measures(sure, right, [d.image_id for d in details], clip, options)
    return {"bin_data": [{"bin_lower": b.lower, "bin_upper": b.upper, "bin_size": b.size, "accuracy": b.accuracy,
                          "confidence": b.confidence, "gap": b.gap} for b in bin_confidences(sure, right, num_bins)],
            "intervals": {name: {"low": interval.low, "high": interval.high} for name, interval in found.items()}} | {
        name: interval.estimate if math.isfinite(interval.estimate) else None for name, interval in found.items()}


def describe_calibrator(calibrator: Calibrator) -> dict[str, Any]:
    """Return a calibrator as plain values, for metrics.json."""
    return asdict(calibrator)

"""Sources of confidence side by side: the same measures for each, on its own questions and on those all have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.evaluation.calibration import measure_details
from medvqa_cli.evaluation.details import SAMPLED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medvqa_cli.evaluation.details import Detail, Source
    from medvqa_cli.settings.schema import EvaluationSettings

MEASURES = ("accuracy", "mean_confidence", "ece", "brier", "nll", "auroc", "aurc")


def compare_sources(found: Mapping[Source, Sequence[Detail]], settings: EvaluationSettings, *, num_bins: int,
                    num_samples: int, seed: int = 0) -> dict[str, Any]:
    """Return the measures of each source with intervals over the same draws of images.

    Args:
        found: Source -> its rows.
        settings: Of the intervals.
        num_bins: Bins.
        num_samples: Answers drawn for each question, where some are.
        seed: Of the bootstrap.

    Returns:
        "own": source -> {"n", measure: {"value", "low", "high"}} on the questions in which it has a confidence;
        "shared": the same on those in which all have one, None if there are none.
    """
    options: dict[str, Any] = {"num_bins": num_bins, "level": settings.confidence_level,
                               "resamples": settings.resamples, "seed": seed}
    common = set.intersection(*({d.question_id for d in details} for details in found.values())) if found else set()
    shared = {source: [d for d in details if d.question_id in common] for source, details in found.items()}
    return {name: {source: measure_details(details, num_samples if source in SAMPLED else None, options, MEASURES)
                   for source, details in part.items()}
            for name, part in (("own", found), ("shared", shared if common else {}))}

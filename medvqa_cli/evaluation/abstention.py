"""When to abstain, and which candidates to name: rules chosen on validation answers, then held against others."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from medvqa_cli.scoring.calibration.bins import EDGE
from medvqa_cli.scoring.conformal import AnswerSets, control_error, control_risk, fit_answer_sets
from medvqa_cli.scoring.intervals import SHARE, bootstrap_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medvqa_cli.evaluation.details import Detail
    from medvqa_cli.scoring.conformal import SetMethod
    from medvqa_cli.scoring.intervals import Limits
    from medvqa_cli.settings.schema import EvaluationSettings

SET_METHODS: tuple[SetMethod, ...] = ("lac",)


def choose_rules(details: Sequence[Detail], wanted: float, *, seed: int = 0) -> dict[str, Any]:
    """Return rules for a wanted risk (0-1), the image being the unit of every guarantee.

    Returns:
        "risk": answer where the confidence reaches the threshold, and at most `wanted` of the answers given are wrong
        (learn then test); "error": the same for at most `wanted` of all questions (conformal risk control); "sets": by
        method, which of yes and no to name so that the right one is missed in at most `wanted` of the questions, where
        both were weighed (of two candidates, adaptive sets would nearly always name both: they are left out).
    """
    sure, right, images = ([d.confidence for d in details], [d.is_correct for d in details],
                           [d.image_id for d in details])
    weighed = [d for d in details if d.p_yes is not None and d.is_valid]
    laws = [_list_law(d) for d in weighed]
    return {"wanted": wanted, "risk": asdict(control_risk(sure, right, wanted, clusters=images, seed=seed)),
            "error": asdict(control_error(sure, right, wanted, clusters=images)),
            "sets": {method: _write_sets(fit_answer_sets(laws, [d.ground_truth for d in weighed], wanted, method=method,
                                                         clusters=[d.image_id for d in weighed]))
                     for method in SET_METHODS} if weighed else {}}


def check_rules(rules: Mapping[str, Any], details: Sequence[Detail], settings: EvaluationSettings, *,
                seed: int = 0) -> dict[str, Any]:
    """Return what rules chosen elsewhere come to on these answers, with intervals clustered by image.

    Returns:
        For "risk" and "error": threshold, coverage, risk and error; for each set method: coverage and mean size.
    """
    options: dict[str, Any] = {"level": settings.confidence_level, "resamples": settings.resamples, "seed": seed}
    weighed = [d for d in details if d.p_yes is not None and d.is_valid]
    return {"wanted": rules["wanted"],
            **{name: _apply_threshold(details, rules[name]["threshold"], options) for name in ("risk", "error")},
            "sets": {method: _apply_sets(weighed, _read_sets(content), options)
                     for method, content in rules["sets"].items()} if weighed else {}}


def _list_law(detail: Detail) -> dict[str, float]:
    yes = detail.p_yes or 0.0
    return {"yes": yes, "no": 1 - yes}


def _apply_threshold(details: Sequence[Detail], threshold: float | None, options: Mapping[str, Any]) -> dict[str, Any]:
    given = [d for d in details if threshold is not None and d.confidence >= threshold - EDGE]
    identities = {id(d) for d in given}
    images = [d.image_id for d in details]
    return {"threshold": threshold,
            "coverage": _average([float(id(d) in identities) for d in details], images, options),
            "risk": _average([float(not d.is_correct) for d in given], [d.image_id for d in given], options),
            "error": _average([float(id(d) in identities and not d.is_correct) for d in details], images, options)}


def _apply_sets(details: Sequence[Detail], sets: AnswerSets, options: Mapping[str, Any]) -> dict[str, Any]:
    chosen = [sets.select(_list_law(d)) for d in details]
    images = [d.image_id for d in details]
    return {"coverage": _average([float(d.ground_truth in names) for d, names in zip(details, chosen, strict=True)],
                                 images, options),
            "mean_size": _average([float(len(names)) for names in chosen], images, options, None)}


def _average(values: list[float], images: list[str], options: Mapping[str, Any],
             limits: Limits | None = SHARE) -> dict[str, Any]:
    if not values:
        return {"value": None, "low": None, "high": None, "n": 0}
    found = bootstrap_mean(values, images, limits=limits, **options)
    return {"value": found.estimate, "low": found.low, "high": found.high, "n": len(values)}


def _write_sets(sets: AnswerSets) -> dict[str, Any]:
    """Return the rule as JSON values: no threshold stands for one that leaves no candidate out."""
    return asdict(sets) | {"threshold": sets.threshold if math.isfinite(sets.threshold) else None}


def _read_sets(content: Mapping[str, Any]) -> AnswerSets:
    threshold = content["threshold"]
    return AnswerSets(content["method"], math.inf if threshold is None else float(threshold), content["miss"],
                      content["n"])

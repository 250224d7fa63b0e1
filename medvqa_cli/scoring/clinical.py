"""What a clinician asks of a test: sensitivity, specificity, predictive values, MCC, AUROC; undefined is no zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

CONFUSION = ("tp", "fn", "missed", "fp", "tn", "evaded")
"""One class against the rest: gold answers of the class (answered so, otherwise, not at all), then the others."""


def count_confusion(gold: str, answer: str | None, label: str) -> list[int]:
    """Return one question's cells in the order of `CONFUSION`; an answer of None says nothing of any class.

    Such an answer is wrong: it counts among the positives or negatives that were not found (sensitivity, specificity),
    but is no answer whose value could be asked (PPV, NPV).
    """
    cell = (2 if answer is None else int(answer != label)) + (0 if gold == label else 3)
    return [int(place == cell) for place in range(len(CONFUSION))]


def _share(top: Array, *others: Array) -> Array:
    total = np.sum([top, *others], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, top / total, np.nan)


def measure_sensitivity(sums: Array) -> Array:
    """Return TP / all positives from cells [..., 6]; NaN without a positive."""
    return _share(sums[..., 0], sums[..., 1], sums[..., 2])


def measure_specificity(sums: Array) -> Array:
    """Return TN / all negatives from cells [..., 6]; NaN without a negative."""
    return _share(sums[..., 4], sums[..., 3], sums[..., 5])


def measure_ppv(sums: Array) -> Array:
    """Return TP / (TP + FP), the precision, from cells [..., 6]; NaN if the class is never answered."""
    return _share(sums[..., 0], sums[..., 3])


def measure_npv(sums: Array) -> Array:
    """Return TN / (TN + FN) from cells [..., 6]; NaN if nothing but the class is ever answered."""
    return _share(sums[..., 4], sums[..., 1])


def measure_mcc(sums: Array) -> Array:
    """Return Matthews' correlation, -1 to 1, from cells [..., 6], with no answer as a third; NaN if undefined.

    Undefined is where all gold answers or all answers are alike.

    Source:
        Matthews 1975, Biochim. Biophys. Acta 405(2), p. 445; for three answers Gorodkin 2004, Comput. Biol. Chem.
        28(5), equation 8. Differs: scikit-learn gives 0 where it is undefined.
    """
    total = sums.sum(axis=-1)
    golds = np.stack([sums[..., :3].sum(axis=-1), sums[..., 3:].sum(axis=-1)], axis=-1)
    answers = np.stack([sums[..., 0] + sums[..., 3], sums[..., 1] + sums[..., 4], sums[..., 2] + sums[..., 5]], axis=-1)
    right = sums[..., 0] + sums[..., 4]
    expected = (golds * answers[..., :2]).sum(axis=-1)
    spread = (total**2 - (golds**2).sum(axis=-1)) * (total**2 - (answers**2).sum(axis=-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 0, (right * total - expected) / np.sqrt(spread), np.nan)


RATIOS: dict[str, Callable[[Array], Array]] = {
    "sensitivity": measure_sensitivity, "specificity": measure_specificity, "ppv": measure_ppv, "npv": measure_npv,
    "mcc": measure_mcc,
}
"""Measure -> its function of summed cells [..., 6]."""


def score_classes(golds: Sequence[str], answers: Sequence[str | None],
                  labels: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Return every ratio of each class against the rest, and under "macro" their mean over the classes that have it.

    Raises:
        ValueError: If the lengths differ.
    """
    pairs = list(zip(golds, answers, strict=True))
    sums = {label: np.sum([[0] * len(CONFUSION), *(count_confusion(*pair, label) for pair in pairs)], axis=0,
                          dtype=float) for label in labels}
    found = {label: {name: to_number(ratio(counts)) for name, ratio in RATIOS.items()}
             for label, counts in sums.items()}
    return found | {"macro": {name: average_known([found[label][name] for label in labels]) for name in RATIOS}}


def spread_levels(probabilities: Sequence[float], is_positive: Sequence[bool]) -> Array:
    """Return how many positives, then negatives, hold each distinct probability, as rows [n, 2 * levels], ascending.

    Rows add up over questions, so that `combine_auroc` can be resampled.
    """
    _, level = np.unique(np.asarray(probabilities, float), return_inverse=True)
    count = int(level.max()) + 1 if len(level) else 0
    rows = np.zeros((len(level), 2 * count))
    rows[np.arange(len(level)), level + np.where(np.asarray(is_positive, bool), 0, count)] = 1.0
    return rows


def combine_auroc(sums: Array) -> Array:
    """Return the area under the ROC curve from counts by level [..., 2 * levels]; NaN if one class is missing.

    The chance that a positive has a higher probability than a negative, ties counting half.

    Source:
        Hanley and McNeil 1982, Radiology 143(1), p. 31 (the Wilcoxon statistic).
    """
    count = sums.shape[-1] // 2
    positive, negative = sums[..., :count], sums[..., count:]
    below = np.cumsum(negative, axis=-1) - negative
    wins = (positive * (below + negative / 2)).sum(axis=-1)
    pairs = positive.sum(axis=-1) * negative.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(pairs > 0, wins / pairs, np.nan)


def measure_auroc(probabilities: Sequence[float], is_positive: Sequence[bool]) -> float | None:
    """Return the area under the ROC curve, from probabilities and never from hard answers; None if undefined."""
    return to_number(combine_auroc(spread_levels(probabilities, is_positive).sum(axis=0)))


def score_areas(golds: Sequence[str], probabilities: Sequence[Mapping[str, float]],
                labels: Sequence[str]) -> dict[str, float | None]:
    """Return each class's AUROC against the rest, and under "macro" the mean over the classes that have one."""
    areas = {label: measure_auroc([row.get(label, 0.0) for row in probabilities], [gold == label for gold in golds])
             for label in labels}
    return areas | {"macro": average_known(list(areas.values()))}


def average_known(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are defined, or None if none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def to_number(value: float | NDArray[np.float64]) -> float | None:
    """Return a plain float, None for NaN."""
    number = float(value)
    return None if np.isnan(number) else number

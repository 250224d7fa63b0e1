"""The maps themselves: from a confidence to a chance of being right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from medvqa_cli.scoring.calibration.bins import assign_bins
from medvqa_cli.scoring.recalibration.logistic import (
    fit_beta,
    fit_logistic,
    fit_temperature,
    logit,
    sigmoid,
    soften,
    take_logs,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Parameters = Mapping[str, Sequence[float]]

Method = Literal["temperature", "platt", "isotonic", "histogram", "beta"]
METHODS: tuple[Method, ...] = get_args(Method)
PARAMETERS: dict[Method, tuple[str, ...]] = {
    "temperature": ("temperature",), "platt": ("a", "b"), "isotonic": ("confidence", "accuracy"),
    "histogram": ("accuracy", "size"), "beta": ("a", "b", "c")}


@dataclass(frozen=True, slots=True)
class Curve:
    """One learnt map. `parameters` are the numbers of its method, see `fit_curve`; `n` answers taught it."""

    method: Method
    parameters: Parameters
    n: int

    def apply(self, confidences: Floats, clip: float) -> Floats:
        """Return the recalibrated confidences, in 0-1."""
        return _APPLY[self.method](confidences, self.parameters, clip)


def fit_curve(method: Method, sure: Floats, right: Floats, *, clip: float = 1e-4, num_bins: int = 10) -> Curve:
    """Return one map, with s a confidence held inside [clip, 1 - clip] and logit s = log(s / (1 - s)).

    - temperature: sigmoid(logit s / t), the t in [0.01, 100] of least negative log-likelihood (Guo et al. 2017,
      arXiv:1706.04599; for two answers it is their softmax at temperature t).
    - platt: sigmoid(a logit s + b) (Platt 1999, Advances in Large Margin Classifiers; his targets (n+ + 1) / (n+ + 2)
      and 1 / (n- + 2) keep the fit finite).
    - isotonic: the rising step function of least squares by pooling adjacent violators (Zadrozny and Elkan 2002),
      interpolated between its steps and constant beyond them.
    - histogram: the accuracy of the equal-width bin (Zadrozny and Elkan 2001); an empty bin keeps the confidence.
    - beta: sigmoid(a log s - b log(1 - s) + c) with a, b >= 0 (Kull et al. 2017, AISTATS, PMLR 54, 623-631).
      Differs: Platt's targets, as above.

    Args:
        method: Which.
        sure: Confidences in 0-1, [n].
        right: 1 or 0, [n].
        clip: See above.
        num_bins: Of histogram.
    """
    fits: dict[Method, Callable[[], dict[str, Sequence[float]]]] = {
        "temperature": lambda: {"temperature": [fit_temperature(logit(sure, clip), right)]},
        "platt": lambda: _name_parameters("ab", fit_logistic(logit(sure, clip)[:, None], soften(right))),
        "isotonic": lambda: _fit_isotonic(sure, right),
        "histogram": lambda: _fit_histogram(sure, right, num_bins),
        "beta": lambda: _name_parameters("abc", fit_beta(take_logs(sure, clip), soften(right))),
    }
    return Curve(method, fits[method](), len(sure))


def _name_parameters(names: str, values: Floats) -> dict[str, Sequence[float]]:
    return {name: [float(value)] for name, value in zip(names, values, strict=True)}


def _fit_isotonic(sure: Floats, right: Floats) -> dict[str, Sequence[float]]:
    levels, owner, counts = np.unique(sure, return_inverse=True, return_counts=True)
    heights = pool_violators(np.bincount(owner, right) / counts, counts.astype(float))
    keep = np.ones(len(levels), bool)
    keep[1:-1] = (heights[1:-1] != heights[:-2]) | (heights[1:-1] != heights[2:])
    return {"confidence": levels[keep].tolist(), "accuracy": heights[keep].tolist()}


def pool_violators(values: Floats, weights: Floats) -> Floats:
    """Return the non-decreasing sequence of least weighted squares, by pooling adjacent violators.

    Source:
        Barlow et al. 1972, "Statistical Inference under Order Restrictions".
    """
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        block = (value, weight, 1)
        while blocks and blocks[-1][0] >= block[0]:
            mean, mass, size = blocks.pop()
            block = ((mean * mass + block[0] * block[1]) / (mass + block[1]), mass + block[1], size + block[2])
        blocks.append(block)
    return np.repeat([block[0] for block in blocks], [block[2] for block in blocks])


def _fit_histogram(sure: Floats, right: Floats, num_bins: int) -> dict[str, Sequence[float]]:
    numbers = assign_bins(sure, num_bins)
    sizes = np.bincount(numbers, minlength=num_bins)
    means = np.bincount(numbers, right, num_bins) / np.maximum(sizes, 1)
    return {"accuracy": means.tolist(), "size": sizes.tolist()}


def _apply_histogram(sure: Floats, parameters: Parameters, _clip: float) -> Floats:
    numbers = assign_bins(sure, len(parameters["accuracy"]))
    means, sizes = np.asarray(parameters["accuracy"], float), np.asarray(parameters["size"])
    return np.where(sizes[numbers] > 0, means[numbers], sure)


_APPLY: dict[Method, Callable[[Floats, Parameters, float], Floats]] = {
    "temperature": lambda sure, found, clip: sigmoid(logit(sure, clip) / found["temperature"][0]),
    "platt": lambda sure, found, clip: sigmoid(found["a"][0] * logit(sure, clip) + found["b"][0]),
    "isotonic": lambda sure, found, _clip: np.interp(sure, found["confidence"], found["accuracy"]),
    "histogram": _apply_histogram,
    "beta": lambda sure, found, clip: sigmoid(
        take_logs(sure, clip) @ np.array([found["a"][0], found["b"][0]]) + found["c"][0]),
}

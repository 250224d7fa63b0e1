"""Logistic regressions of correctness on functions of the confidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

STEPS = 100


def logit(sure: Floats, clip: float) -> Floats:
    """Return log(s / (1 - s)) of confidences held inside [clip, 1 - clip]."""
    held = np.clip(sure, clip, 1 - clip)
    logits: Floats = np.log(held) - np.log1p(-held)
    return logits


def take_logs(sure: Floats, clip: float) -> Floats:
    """Return log s and -log(1 - s) of confidences held inside [clip, 1 - clip], [n, 2]."""
    held = np.clip(sure, clip, 1 - clip)
    return np.stack([np.log(held), -np.log1p(-held)], axis=1)


def sigmoid(values: Floats) -> Floats:
    """Return 1 / (1 + exp(-values))."""
    chances: Floats = np.exp(-np.logaddexp(0.0, -values))
    return chances


def soften(right: Floats) -> Floats:
    """Return Platt's targets: what a right and a wrong answer stand for with a uniform prior on the two."""
    positive = right.sum()
    negative = len(right) - positive
    targets: Floats = np.where(right > 0, (positive + 1) / (positive + 2), 1 / (negative + 2))
    return targets


def fit_temperature(logits: Floats, right: Floats) -> float:
    """Return the temperature: the likelihood is concave in 1 / t, so that its slope is halved to its one zero."""
    low, high = np.log(0.01), np.log(100.0)
    for _ in range(STEPS):
        middle = (low + high) / 2
        slope = float(logits @ (right - sigmoid(np.exp(middle) * logits)))
        low, high = (middle, high) if slope > 0 else (low, middle)
    return float(np.exp(-(low + high) / 2))


def fit_logistic(features: Floats, targets: Floats) -> Floats:
    """Return weights and intercept of the logistic regression of targets in 0-1, by Newton's method with halved steps.

    Source:
        Lin, Lin and Weng 2007, Machine Learning 68(3), 267-276, algorithm 1. Differs: a step is halved until the loss
        does not rise, they ask for a sufficient fall.

    Args:
        features: [n, k].
        targets: [n].
    """
    table = np.column_stack([features, np.ones(len(features))])
    weights = np.zeros(table.shape[1])
    loss = _cross_entropy(table @ weights, targets)
    for _ in range(STEPS):
        chances = sigmoid(table @ weights)
        gradient = table.T @ (chances - targets)
        if np.abs(gradient).max() < 1e-9:
            break
        curvature = (table * (chances * (1 - chances))[:, None]).T @ table + 1e-10 * np.eye(len(weights))
        step, size = np.linalg.solve(curvature, gradient), 1.0
        while (new := _cross_entropy(table @ (weights - size * step), targets)) > loss and size > 1e-10:
            size /= 2
        weights, loss = weights - size * step, new
    return weights


def _cross_entropy(logits: Floats, targets: Floats) -> float:
    return float(np.sum(np.logaddexp(0.0, logits) - targets * logits))


def fit_beta(logs: Floats, targets: Floats) -> Floats:
    """Return the beta map's a, b, c; a slope that comes out negative is set to 0 and the other one learnt again.

    Source:
        Kull et al. 2017, AISTATS, PMLR 54, 623-631, and their library betacal.
    """
    found = fit_logistic(logs, targets)
    if found[:2].min() >= 0:
        return found
    kept = int(np.argmax(found[:2]))
    slope, intercept = fit_logistic(logs[:, [kept]], targets)
    if slope < 0:
        return np.array([0.0, 0.0, fit_logistic(logs[:, :0], targets)[0]])
    found = np.array([0.0, 0.0, intercept])
    found[kept] = slope
    return found

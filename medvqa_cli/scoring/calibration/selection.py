"""Does confidence tell right answers from wrong ones? AUROC, risk against coverage, AURC, accuracy at coverage.

Where several answers are equally sure, all orders among them count alike: no number depends on the order of the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medvqa_cli.scoring.calibration.tally import Tally, count_levels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def measure_auroc(tally: Tally) -> Floats:
    """Return the chance that a right answer is surer than a wrong one, a tie counting half; NaN without both kinds.

    Source:
        Hanley and McNeil 1982, Radiology 143(1), 29-36: the Wilcoxon statistic.
    """
    less_sure = np.cumsum(tally.wrongs[:, ::-1], axis=1)[:, ::-1] - tally.wrongs
    pairs = tally.rights.sum(axis=1) * tally.wrongs.sum(axis=1)
    won = (tally.rights * (less_sure + tally.wrongs / 2)).sum(axis=1)
    auroc: Floats = np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return auroc


def measure_aurc(tally: Tally) -> Floats:
    """Return the mean, over k = 1..n, of the share of wrong answers among the k surest; 0 is best.

    Among m tied answers with e wrong ones behind K answers with E wrong ones, the j-th brings (E + j e / m) / (K + j)
    on average; its sum over j is (E - K e / m) (H(K + m) - H(K)) + e with the harmonic numbers H.

    Source:
        Geifman et al. 2019, arXiv:1805.08206 (AURC: the selective risk averaged over all thresholds). Differs: they
        take a threshold for each distinct confidence; here every answer is one, and all orders of equals are averaged.
    """
    before = np.cumsum(tally.totals, axis=1) - tally.totals
    wrong_before = np.cumsum(tally.wrongs, axis=1) - tally.wrongs
    slope = np.divide(tally.wrongs, tally.totals, out=np.zeros_like(tally.totals), where=tally.totals > 0)
    harmonic = _list_harmonic(int(tally.sizes.max()))
    rise = harmonic[(before + tally.totals).astype(int)] - harmonic[before.astype(int)]
    risks = (wrong_before - before * slope) * rise + tally.wrongs
    aurc: Floats = risks.sum(axis=1) / tally.sizes
    return aurc


def measure_excess_aurc(tally: Tally) -> Floats:
    """Return AURC less that of the best order at this accuracy, all wrong answers last; 0 is best.

    Source:
        Geifman et al. 2019, arXiv:1805.08206 (E-AURC). Differs: the best order's AURC is summed exactly, where they
        approximate it by r + (1 - r) log(1 - r) with r the share of wrong answers.
    """
    wrong, sizes = tally.wrongs.sum(axis=1), tally.sizes
    right = (sizes - wrong).astype(int)
    harmonic = _list_harmonic(int(sizes.max()))
    best = (wrong - right * (harmonic[sizes.astype(int)] - harmonic[right])) / sizes
    excess: Floats = measure_aurc(tally) - best
    return excess


def measure_accuracy_at(tally: Tally, coverage: float) -> Floats:
    """Return the accuracy among the surest answers that make up at least a share `coverage` (0-1, not 0) of all."""
    accepted = np.ceil(coverage * tally.sizes - 1e-9)
    before = np.cumsum(tally.totals, axis=1) - tally.totals
    taken = np.divide(accepted[:, None] - before, tally.totals, out=np.zeros_like(tally.totals),
                      where=tally.totals > 0)
    accuracy: Floats = (tally.rights * np.clip(taken, 0, 1)).sum(axis=1) / accepted
    return accuracy


def trace_risk(confidences: Sequence[float], correct: Sequence[bool]) -> list[tuple[float, float, float]]:
    """Return the risk-coverage curve: (threshold, coverage, risk) for each level of confidence, the surest first.

    Answers with a confidence of at least the threshold are given: `coverage` is their share, `risk` how many of them
    are wrong; all in 0-1.

    Source:
        El-Yaniv and Wiener 2010, JMLR 11, 1605-1641.
    """
    tally = count_levels(np.asarray(confidences, float), np.asarray(correct, float))
    given, wrong = np.cumsum(tally.totals[0]), np.cumsum(tally.wrongs[0])
    return [(float(level), float(count / given[-1]), float(bad / count))
            for level, count, bad in zip(tally.levels, given, wrong, strict=True)]


def _list_harmonic(most: int) -> Floats:
    """Return H(0), ..., H(most)."""
    return np.concatenate([[0.0], np.cumsum(1 / np.arange(1, most + 1))])

"""Thresholds with a guarantee: when to abstain for a wanted risk, which candidates to name for a wanted coverage.

The guarantees hold for new questions exchangeable with those the threshold was chosen on. Questions about one image are
not: with `clusters` the image is the unit, new questions may then be about new images exchangeable with the known ones,
and each image weighs the same however many questions it has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from medvqa_cli.scoring.calibration.bins import EDGE, check_pairs
from medvqa_cli.scoring.intervals import number_clusters

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SetMethod = Literal["lac", "aps"]
GRID = np.arange(101) / 100
"""Thresholds on the confidence that are tried: fixed before any answer is seen, as the guarantees ask."""
STARTS = (100, 97, 90, 80, 60)
"""Where in the grid the tests of a guaranteed risk begin; fixed as well."""


@dataclass(frozen=True, slots=True)
class Abstention:
    """A rule: answer where the confidence is at least `threshold`; None: never, no threshold can be vouched for.

    `coverage` and `risk` (share of wrong answers among those given; None if none is) are those of the questions the
    rule was chosen on; `wanted` is the risk asked for, `guarantee` says in words what holds.
    """

    threshold: float | None
    wanted: float
    coverage: float
    risk: float | None
    n: int
    guarantee: str


@dataclass(frozen=True, slots=True)
class AnswerSets:
    """A rule for candidate questions: which candidates to name so that the right one is among them often enough.

    `threshold` is the largest score a named candidate may have, infinite where there are too few questions to leave
    any out; `miss` is the wanted share (0-1) of questions whose right candidate is not named.
    """

    method: SetMethod
    threshold: float
    miss: float
    n: int

    def select(self, probabilities: Mapping[str, float]) -> tuple[str, ...]:
        """Return the candidates to name, the likeliest first; the likeliest is always named."""
        ordered = sorted(probabilities, key=lambda name: -probabilities[name])
        scores = score_candidates(probabilities, self.method)
        return tuple(name for place, name in enumerate(ordered) if place == 0 or scores[name] <= self.threshold + EDGE)


def control_error(confidences: Sequence[float], correct: Sequence[bool], wanted: float, *,
                  clusters: Sequence[Hashable] | None = None) -> Abstention:
    """Return the lowest threshold at which at most a share `wanted` of all questions gets a wrong answer, on average.

    The loss of a question is 1 if it is answered, and wrongly; it falls as the threshold rises. Its mean over a new
    question, and over the draw of these, is at most `wanted`.

    Args:
        confidences: In 0-1, one a validation question.
        correct: Whether its answer is right.
        wanted: In 0-1, of all questions, those without an answer included.
        clusters: The image of each: the loss of an image is then the mean of its questions'.

    Source:
        Angelopoulos et al. 2022, arXiv:2208.02814 (conformal risk control: the lowest threshold at which
        n / (n + 1) mean loss + B / (n + 1) is at most `wanted`, with losses up to B = 1), on a fixed grid.

    Raises:
        ValueError: If there is no question, or `wanted` or a confidence is out of range.
    """
    sure, right = _check(confidences, correct, wanted)
    losses = _average_clusters((sure[:, None] >= GRID - EDGE) * (1 - right)[:, None], clusters)
    count = len(losses)
    bound = (losses.sum(axis=0) + 1) / (count + 1)
    safe, whose = np.flatnonzero(bound <= wanted), "all" if clusters is None else "an image's"
    return _describe(sure, right, float(GRID[safe[0]]) if len(safe) else None, wanted,
                     f"on average at most {wanted:g} of {whose} "
                     f"questions are answered wrongly (conformal risk control, {count} {_name_unit(clusters)})")


def control_risk(confidences: Sequence[float], correct: Sequence[bool], wanted: float, *, error: float = 0.1,
                 clusters: Sequence[Hashable] | None = None, seed: int = 0) -> Abstention:
    """Return a low threshold at which, of the answers given, at most a share `wanted` is wrong, save by bad luck.

    With a chance of at least 1 - `error` over the draw of these questions the rule's true risk is at most `wanted`. Of
    the answers given at a threshold the wrong ones follow a binomial law, whose tail is the threshold's p-value;
    thresholds are tested from each of `STARTS` downwards until one fails, at `error` / 5 each.

    Args:
        confidences: In 0-1, one a validation question.
        correct: Whether its answer is right.
        wanted: In 0-1, of the answers given.
        error: Chance of choosing a threshold that is too low, in 0-1.
        clusters: The image of each: then one question an image, drawn with the seed, is looked at, for those of one
            image are no independent trials (Dunn et al. 2022, arXiv:1809.07441, do so for prediction sets).
        seed: Of that draw.

    Source:
        Angelopoulos et al. 2021, arXiv:2110.01052 (learn then test), algorithm 1 (fixed-sequence testing from several
        starts). Differs: an exact binomial p-value, which losses of 0 and 1 allow, in place of Hoeffding's and
        Bentkus's bounds; among the answers given, whose number is taken as known.

    Raises:
        ValueError: If there is no question, or `wanted`, `error` or a confidence is out of range.
    """
    sure, right = _check(confidences, correct, wanted)
    if not 0 < error < 1:
        raise ValueError(f"an error of {error} is outside 0-1")
    rows = np.arange(len(sure)) if clusters is None else _draw_one_each(clusters, seed)
    answered = sure[rows][:, None] >= GRID - EDGE
    given, wrong = answered.sum(axis=0), (answered * (1 - right[rows])[:, None]).sum(axis=0)
    counts = list(zip(wrong.astype(int).tolist(), given.tolist(), strict=True))
    tails = {pair: find_binomial_tail(*pair, wanted) for pair in set(counts)}
    is_safe = np.array([tails[pair] <= error / len(STARTS) for pair in counts])
    safe = [place for start in STARTS if (place := _walk_down(is_safe, start)) is not None]
    return _describe(sure, right, float(GRID[min(safe)]) if safe else None, wanted,
                     f"with a chance of at least {1 - error:g} at most {wanted:g} of the answers given are wrong "
                     f"(learn then test, {len(rows)} {_name_unit(clusters)})")


def _check(confidences: Sequence[float], correct: Sequence[bool], wanted: float) -> tuple[Floats, Floats]:
    if not len(confidences):
        raise ValueError("a threshold needs at least one question")
    if not 0 < wanted < 1:
        raise ValueError(f"a wanted risk of {wanted} is outside 0-1")
    return check_pairs(confidences, correct)


def _name_unit(clusters: Sequence[Hashable] | None) -> str:
    return "questions" if clusters is None else "images"


def _walk_down(is_safe: NDArray[np.bool_], start: int) -> int | None:
    """Return the lowest place reached from a start before one fails; None if the start does."""
    fails = np.flatnonzero(~is_safe[:start + 1])
    lowest = int(fails[-1]) + 1 if len(fails) else 0
    return lowest if lowest <= start else None


def _average_clusters(values: Floats, clusters: Sequence[Hashable] | None) -> Floats:
    """Return the mean row of each cluster, [clusters, k]; the rows themselves without clusters."""
    if clusters is None:
        return values
    owner = number_clusters(clusters)
    sums = np.zeros((int(owner.max()) + 1, values.shape[1]))
    np.add.at(sums, owner, values)
    means: Floats = sums / np.bincount(owner)[:, None]
    return means


def _draw_one_each(clusters: Sequence[Hashable], seed: int) -> NDArray[np.intp]:
    """Return a row number of each cluster."""
    owner = number_clusters(clusters)
    order = np.random.default_rng(seed).permutation(len(owner))
    return order[np.unique(owner[order], return_index=True)[1]]


def _describe(sure: Floats, right: Floats, threshold: float | None, wanted: float, guarantee: str) -> Abstention:
    given = np.zeros(len(sure), bool) if threshold is None else sure >= threshold - EDGE
    risk = float(1 - right[given].mean()) if given.any() else None
    return Abstention(threshold, wanted, float(given.mean()), risk, len(sure),
                      guarantee if threshold is not None else "none: no threshold passed; ask for a higher risk, or "
                      "take more validation questions")


def find_binomial_tail(most: int, trials: int, chance: float) -> float:
    """Return the probability of at most `most` successes in `trials` with `chance` each; 1 without trials."""
    if most >= trials:
        return 1.0
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 1)))])
    k = np.arange(most + 1)
    logs = (factorials[trials] - factorials[k] - factorials[trials - k] + k * math.log(chance)
            + (trials - k) * math.log1p(-chance))
    return min(1.0, float(np.exp(logs).sum()))


def score_candidates(probabilities: Mapping[str, float], method: SetMethod) -> dict[str, float]:
    """Return how ill each candidate fits: small is good.

    - lac: 1 - its probability (Sadinle et al. 2019, arXiv:1609.00451): the smallest sets on average.
    - aps: the summed probability of the candidates at least as likely, itself included (Romano et al. 2020,
      arXiv:2006.02544, without its randomization, so that coverage is at least as wanted): larger sets for harder
      questions. Of two candidates it names nearly always both.
    """
    if method == "lac":
        return {name: 1 - value for name, value in probabilities.items()}
    ordered = sorted(probabilities, key=lambda name: -probabilities[name])
    sums = np.cumsum([probabilities[name] for name in ordered])
    return dict(zip(ordered, map(float, sums), strict=True))


def find_quantile(scores: Sequence[float], miss: float) -> float:
    """Return the ceil((n + 1) (1 - miss))-th smallest score: a new one exceeds it with a chance of at most `miss`.

    Infinite where that is more than n: too few scores to exclude anything.

    Source:
        Vovk et al. 2005, "Algorithmic Learning in a Random World"; Angelopoulos and Bates 2021, arXiv:2107.07511
        (the quantile of split conformal prediction).

    Raises:
        ValueError: If `miss` is not inside 0-1, or a score is no number.
    """
    if not 0 < miss < 1:
        raise ValueError(f"a miss rate of {miss} is outside 0-1")
    if any(map(math.isnan, scores)):
        raise ValueError("a score is not a number")
    rank = math.ceil((len(scores) + 1) * (1 - miss) - EDGE)
    return sorted(scores)[rank - 1] if rank <= len(scores) else math.inf


def fit_answer_sets(probabilities: Sequence[Mapping[str, float]], golds: Sequence[str], miss: float, *,
                    method: SetMethod = "lac", clusters: Sequence[Hashable] | None = None) -> AnswerSets:
    """Return the rule under which a set lacks the right candidate with a chance of at most `miss`.

    Args:
        probabilities: Candidate -> probability, for each validation question.
        golds: The right candidate of each; one that is not on offer is never named, which the rule makes up for.
        miss: In 0-1.
        method: See `score_candidates`.
        clusters: The image of each: then the share of an image's questions that are missed is at most `miss` on average
            over images (Angelopoulos et al. 2022, arXiv:2208.02814, with that share as the loss).

    Raises:
        ValueError: If the lengths differ, or `miss` is not inside 0-1.
    """
    scores = [score_candidates(row, method).get(gold, math.inf)
              for row, gold in zip(probabilities, golds, strict=True)]
    threshold = find_quantile(scores, miss) if clusters is None else _find_clustered(scores, miss, clusters)
    return AnswerSets(method, threshold, miss, len(scores))


def _find_clustered(scores: Sequence[float], miss: float, clusters: Sequence[Hashable]) -> float:
    """Return the lowest score at which (summed share of missed + 1) / (images + 1) is at most `miss`."""
    if not 0 < miss < 1:
        raise ValueError(f"a miss rate of {miss} is outside 0-1")
    if not scores:
        return math.inf
    found = np.asarray(scores, float)
    owner = number_clusters(clusters)
    weights = 1 / np.bincount(owner)[owner]
    order = np.argsort(found, kind="stable")
    missed = weights.sum() - np.cumsum(weights[order])
    safe = np.flatnonzero((missed + 1) / (owner.max() + 2) <= miss + EDGE)
    return float(found[order][safe[0]]) if len(safe) else math.inf

"""Overlap of word sequences: BLEU and ROUGE, kept as counts so that corpora can be summed and resampled."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Words = Sequence[str]

ORDERS = 4
BLEU_COLUMNS = 2 + 2 * ORDERS


@dataclass(frozen=True, slots=True)
class Overlap:
    """How far two texts agree, each number in 0-1."""

    precision: float
    recall: float
    f1: float


def count_ngrams(words: Words, order: int) -> Counter[tuple[str, ...]]:
    """Return how often each run of `order` words occurs."""
    return Counter(tuple(words[start:start + order]) for start in range(len(words) - order + 1))


def count_bleu(found: Words, golds: Sequence[Words]) -> list[int]:
    """Return the counts of one answer that BLEU adds up over a corpus.

    Returns:
        [answer length, reference length, then right and all n-grams of orders 1 to 4], 10 numbers. The reference
        length is that of the gold answer nearest in length (the shorter of two); an n-gram is right as often as the
        gold answer with most of it holds it.
    """
    nearest = min((len(gold) for gold in golds), key=lambda length: (abs(length - len(found)), length))
    counts = [len(found), nearest]
    for order in range(1, ORDERS + 1):
        own, known = count_ngrams(found, order), Counter[tuple[str, ...]]()
        for gold in golds:
            known |= count_ngrams(gold, order)
        counts += [sum((own & known).values()), sum(own.values())]
    return counts


def combine_bleu(sums: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """Return BLEU of an order, in 0-1, from summed counts [..., 10]: BP exp(mean of log p_1 .. log p_order).

    There is no smoothing: no right n-gram of an order gives 0, no n-gram of an order at all (all answers are shorter)
    NaN, for undefined.

    Source:
        Papineni et al. 2002, P02-1040, section 2.3.
    """
    lengths, references = sums[..., 0], sums[..., 1]
    right, total = sums[..., 2:2 + 2 * order:2], sums[..., 3:3 + 2 * order:2]
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.exp(np.log(right / total).mean(axis=-1))
        brevity = np.exp(np.minimum(0.0, 1 - references / lengths))
    return np.where((total == 0).any(axis=-1), np.nan, precision * brevity)


def measure_clipped_precision(found: Words, golds: Sequence[Words]) -> float:
    """Return the share of an answer's words that a gold answer has, each as often as there; 0 without any word.

    Its mean over the questions is the "BLEU-1" of several VQA-RAD scripts: there is no brevity penalty, and every
    answer weighs the same, so it is not the BLEU-1 of `combine_bleu`.
    """
    return max((sum((Counter(found) & Counter(gold)).values()) / len(found) for gold in golds), default=0.0) \
        if found else 0.0


def score_rouge(found: Words, golds: Sequence[Words], order: int | None) -> Overlap:
    """Return ROUGE-N for an order, ROUGE-L for None, with the gold answer it fits best (by F1). No stemming.

    Source:
        Lin 2004, W04-1013, sections 2 and 3.1, with beta = 1.
    """
    return max((_measure_rouge(found, gold, order) for gold in golds), key=lambda score: score.f1)


def _measure_rouge(found: Words, gold: Words, order: int | None) -> Overlap:
    if order is None:
        return _relate(_find_longest(found, gold), len(found), len(gold))
    own, wanted = count_ngrams(found, order), count_ngrams(gold, order)
    return _relate(sum((own & wanted).values()), own.total(), wanted.total())


def _relate(common: int, found: int, wanted: int) -> Overlap:
    if not common:
        return Overlap(0.0, 0.0, 0.0)
    return Overlap(common / found, common / wanted, 2 * common / (found + wanted))


def _find_longest(first: Words, second: Words) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for place, other in enumerate(second, start=1):
            above = row[place]
            row[place] = diagonal + 1 if word == other else max(above, row[place - 1])
            diagonal = above
    return row[-1]

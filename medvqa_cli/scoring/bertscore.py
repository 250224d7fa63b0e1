"""BERTScore from the embeddings of words; which encoder makes them is the caller's choice, and belongs to the name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medvqa_cli.scoring.text import Overlap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    # A text's tokens as vectors [tokens, width], and [tokens] which of them the encoder put around it.
    Embedded = tuple[Floats, NDArray[np.bool_]]
    # Texts -> one `Embedded` each, in order.
    Encode = Callable[[Sequence[str]], Sequence[Embedded]]


def match_embeddings(answer: Embedded, gold: Embedded) -> Overlap:
    """Return the greedy match of an answer's and a gold answer's tokens by cosine, each number in -1 to 1.

    Precision is the mean, over the answer's tokens, of the cosine with the nearest token of the gold answer; recall the
    other way round. Special tokens may be the nearest but do not count themselves. No idf weights, no rescaling with
    a baseline. A text without tokens of its own agrees with nothing: 0.

    Source:
        Zhang et al. 2020, arXiv:1904.09675, section 3.
    """
    (found, is_around), (wanted, is_about) = answer, gold
    if is_around.all() or is_about.all():
        return Overlap(0.0, 0.0, 0.0)
    cosine = _scale(found) @ _scale(wanted).T
    precision, recall = float(cosine.max(axis=1)[~is_around].mean()), float(cosine.max(axis=0)[~is_about].mean())
    total = precision + recall
    return Overlap(precision, recall, 2 * precision * recall / total if total else 0.0)


def score_bert(answers: Sequence[str], golds: Sequence[Sequence[str]], encode: Encode) -> list[Overlap]:
    """Return BERTScore of each answer with the gold answer it fits best (by F1); every distinct text is encoded once.

    Raises:
        ValueError: If the lengths differ.
    """
    texts = list(dict.fromkeys([*answers, *(gold for several in golds for gold in several)]))
    known = dict(zip(texts, encode(texts), strict=True))
    return [max((match_embeddings(known[answer], known[gold]) for gold in several), key=lambda score: score.f1)
            for answer, several in zip(answers, golds, strict=True)]


def _scale(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)

"""The best accuracy anyone can reach where the true law of the answers is known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from medvqa_cli.records import VQASample


def bayes_accuracy(samples: Iterable[VQASample]) -> float:
    """Return the expected accuracy on the closed questions of always giving the most probable answer, 0 to 1.

    The mean of max p over the closed questions, 1 minus the Bayes error, with the posterior of every answer given the
    picture known exactly. Open questions are passed over.

    Raises:
        ValueError: If there is no closed question, or one whose law is unknown or does not sum to 1.
    """
    best = [_find_best(sample) for sample in samples if sample.answer_type == "closed"]
    if not best:
        raise ValueError("the Bayes accuracy needs at least one closed question")
    return math.fsum(best) / len(best)


def _find_best(sample: VQASample) -> float:
    law = sample.answer_probabilities
    if not law or not math.isclose(math.fsum(law.values()), 1.0, abs_tol=1e-6):
        raise ValueError(f"question '{sample.question_id}': the law of its answer is unknown or does not sum to 1: "
                         f"{law}")
    return max(law.values())

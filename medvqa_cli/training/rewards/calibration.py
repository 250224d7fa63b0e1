"""calibration: RLCR, correctness minus the squared error of the confidence that the reply states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medvqa_cli.scoring.rewards import is_right, rate_calibration
from medvqa_cli.training.attempts import RewardCard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.training.attempts import Attempt


class Calibration:
    """Holds correctness already: it takes the place of `accuracy` and `exact_match`.

    A confidence inside a thought does not count.
    """

    card = RewardCard("Correctness minus the squared error of the stated confidence (RLCR, arXiv:2507.16806).",
                      aliases=("rlcr",))

    def rate(self, attempts: Sequence[Attempt]) -> list[float]:
        """Return a number from -1 to 1 for each attempt."""
        return [_rate(attempt) for attempt in attempts]


def _rate(attempt: Attempt) -> float:
    sample = attempt.sample
    is_correct = is_right(attempt.answer, sample.answer, sample.alternatives,
                          is_closed=sample.answer_type == "closed")
    return rate_calibration(attempt.text.rpartition("</think>")[2], is_correct=is_correct)


PLUGIN = Calibration()

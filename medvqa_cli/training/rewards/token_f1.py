"""token_f1: word overlap of an open answer with the gold answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medvqa_cli.scoring.rewards import rate_overlap
from medvqa_cli.training.attempts import RewardCard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.training.attempts import Attempt


class TokenF1:
    """Closed questions are left to other rewards."""

    card = RewardCard("Token F1 of an answer to an open question.")

    def rate(self, attempts: Sequence[Attempt]) -> list[float | None]:
        """Return a number in 0-1 for open questions, None for closed ones."""
        return [rate_overlap(attempt.answer, attempt.sample.answer, attempt.sample.alternatives,
                             attempt.sample.options)
                if attempt.sample.answer_type == "open" else None for attempt in attempts]


PLUGIN = TokenF1()

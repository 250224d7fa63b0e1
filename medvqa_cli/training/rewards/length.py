"""length: from 0 down to -1 for completions near the most tokens allowed, or cut off there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medvqa_cli.scoring.rewards import rate_length
from medvqa_cli.training.attempts import RewardCard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.training.attempts import Attempt


class Length:
    """Rates every completion."""

    card = RewardCard("Soft penalty, 0 to -1, for completions in the last quarter of the tokens allowed.")

    def rate(self, attempts: Sequence[Attempt]) -> list[float]:
        """Return a number from -1 to 0 for each attempt."""
        return [rate_length(attempt.num_tokens, attempt.most_tokens, is_ended=attempt.is_ended)
                for attempt in attempts]


PLUGIN = Length()

"""exact_match: 1 for an answer that equals the gold answer once both are normalized."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medvqa_cli.scoring.rewards import is_right
from medvqa_cli.training.attempts import RewardCard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.training.attempts import Attempt


class ExactMatch:
    """Rates closed and open questions alike."""

    card = RewardCard("1 for an answer that equals the gold answer once normalized, else 0.")

    def rate(self, attempts: Sequence[Attempt]) -> list[float]:
        """Return 1.0 or 0.0 for each attempt."""
        return [float(is_right(attempt.answer, attempt.sample.answer, attempt.sample.alternatives, is_closed=False))
                for attempt in attempts]


PLUGIN = ExactMatch()

"""accuracy: 1 for a right answer to a closed question, as `medvqa eval answers` counts closed accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medvqa_cli.scoring.rewards import is_right
from medvqa_cli.training.attempts import RewardCard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.training.attempts import Attempt


class Accuracy:
    """Open questions are left to other rewards."""

    card = RewardCard("1 for a right answer to a closed question, else 0.")

    def rate(self, attempts: Sequence[Attempt]) -> list[float | None]:
        """Return 1.0 or 0.0 for closed questions, None for open ones."""
        return [float(is_right(attempt.answer, attempt.sample.answer, attempt.sample.alternatives, is_closed=True))
                if attempt.sample.answer_type == "closed" else None for attempt in attempts]


PLUGIN = Accuracy()

"""choice: multiple choice, 1 for the right letter or option alone, 0.5 for it among other words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medvqa_cli.scoring.rewards import rate_choice
from medvqa_cli.training.attempts import RewardCard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.training.attempts import Attempt


class Choice:
    """Questions without options are left to other rewards."""

    card = RewardCard("Multiple choice: 1 for the right option alone, 0.5 among other words, else 0.",
                      needs=("options",), aliases=("letter",))

    def rate(self, attempts: Sequence[Attempt]) -> list[float | None]:
        """Return 1.0, 0.5 or 0.0 where there are options and the gold answer is one of them."""
        return [rate_choice(attempt.answer, attempt.sample.answer, attempt.sample.options)
                if attempt.sample.options else None for attempt in attempts]


PLUGIN = Choice()

"""format: 1 for a reply in the form that the prompt asks for, an empty thought being none."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from medvqa_cli.scoring.rewards import rate_form
from medvqa_cli.training.attempts import RewardCard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.training.attempts import Attempt


class Format:
    """Rates styles that ask for a form: think and chain_of_thought."""

    card = RewardCard("Form of a reply: prompt styles think and chain_of_thought.")

    def rate(self, attempts: Sequence[Attempt]) -> list[float | None]:
        """Return a number in 0-1, or None where the prompt asks for no form."""
        return [_rate(attempt) for attempt in attempts]


def _rate(attempt: Attempt) -> float | None:
    if attempt.style == "think":
        return rate_form(attempt.text)
    if attempt.style == "chain_of_thought":
        reasons = re.split(r"\banswer is\b", attempt.text, flags=re.IGNORECASE)[0]
        return float(attempt.is_well_formed and len(reasons.split()) > 1)
    return None


PLUGIN = Format()

"""Do two judges of the same answers agree? Share and Cohen's kappa."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often two judges say the same of `n` answers, 0 to 1, and beyond chance (kappa, at most 1)."""

    n: int
    share: float | None
    kappa: float | None


def measure_agreement(first: Sequence[bool], second: Sequence[bool]) -> Agreement:
    """Return the agreement of two judges; kappa is None where each always says the same one thing.

    Raises:
        ValueError: If the lengths differ.

    Source:
        Cohen 1960, Educ. Psychol. Meas. 20(1), p. 40.
    """
    pairs = list(zip(first, second, strict=True))
    if not pairs:
        return Agreement(0, None, None)
    total = len(pairs)
    share = sum(a == b for a, b in pairs) / total
    yes, also = sum(map(bool, first)) / total, sum(map(bool, second)) / total
    chance = yes * also + (1 - yes) * (1 - also)
    return Agreement(total, share, (share - chance) / (1 - chance) if chance < 1 else None)

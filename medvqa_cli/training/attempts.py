"""What a reward is, and what it rates: one completion of a question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.records import VQASample


@dataclass(frozen=True, slots=True)
class Attempt:
    """A completion of a question, read as evaluation reads it.

    `text` is all that the model wrote, `answer` what counts as its answer, `is_well_formed` whether that stood in the
    form that `style` (`prompt.style`) asks for: else the answer is empty. It has `num_tokens` of at most `most_tokens`,
    the end token included; `is_ended` says that the model ended it by itself.
    """

    sample: VQASample
    text: str
    answer: str
    is_well_formed: bool = True
    style: str = "plain"
    num_tokens: int = 1
    most_tokens: int = 128
    is_ended: bool = True


@dataclass(frozen=True, slots=True)
class RewardCard:
    """Facts about a reward. `needs` names the fields of a sample without which it can rate nothing."""

    summary: str
    needs: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


@runtime_checkable
class Reward(Protocol):
    """Rates completions: the plugin group `medvqa.rewards`, an object or an instance called PLUGIN."""

    card: RewardCard

    def rate(self, attempts: Sequence[Attempt]) -> Sequence[float | None]:
        """Return one finite number for each attempt, or None where the question is none of this reward's business."""

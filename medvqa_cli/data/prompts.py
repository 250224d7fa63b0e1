"""Question to conversation turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from medvqa_cli.records import VQASample


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: who speaks, what, and how many images stand before the text."""

    role: Literal["system", "user", "assistant"]
    text: str
    num_images: int = 0


def build_turns(sample: VQASample, instruction: str = "") -> tuple[Turn, ...]:
    """Return the conversation that asks a sample's question: its images, the question, the instruction."""
    text = f"{sample.question}\n{instruction}" if instruction else sample.question
    return (Turn("user", text, num_images=len(sample.images)),)

"""What an inference engine is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medvqa_cli.records import AnswerSample, VQASample


@dataclass(frozen=True, slots=True)
class Generation:
    """One generated answer. `logprob` sums over its tokens, the end token included, in nats at temperature 1.

    `is_ended`: whether the model ended it; else it was cut off at the most tokens allowed.
    """

    text: str
    logprob: float
    num_tokens: int
    is_ended: bool = True


@dataclass(frozen=True, slots=True)
class Decoding:
    """How tokens are chosen: at temperature 0 the likeliest, else drawn from softmax(logits / temperature).

    They are drawn among the `top_k` likeliest (0: all) and the fewest likeliest that together reach `top_p` (1: all).
    """

    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0
    top_k: int = 0
    top_p: float = 1.0


class Engine(Protocol):
    """Answers the questions of one image (or of one set of images) together."""

    def generate(self, samples: Sequence[VQASample], decoding: Decoding) -> list[Generation]:
        """Return one answer for each sample. All samples share their images."""

    def sample(self, samples: Sequence[VQASample], count: int, decoding: Decoding) -> list[tuple[AnswerSample, ...]]:
        """Draw `count` answers for each sample: the distinct ones with their counts, the most frequent first."""

    def score_candidates(self, samples: Sequence[VQASample],
                         candidates: Sequence[Sequence[str]]) -> list[Mapping[str, float]]:
        """Return each candidate's log-probability (nats, end token included) as the answer to each sample."""

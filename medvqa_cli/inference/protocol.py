"""What an inference engine is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from medvqa_cli.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medvqa_cli.records import AnswerSample, VQASample
    from medvqa_cli.settings.data import PromptSettings


class AnswerError(ModelError):
    """One question cannot be answered; others may."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One generated answer. `logprob` sums over its tokens, the end token included, in nats at temperature 1.

    `is_ended`: whether the model ended it; else it was cut off at the most tokens allowed. `logprob` and `num_tokens`
    are None where the engine does not tell them.
    """

    text: str
    logprob: float | None
    num_tokens: int | None
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


@dataclass(frozen=True, slots=True)
class Intake:
    """How an engine wants questions handed over.

    Attributes:
        by_image: A call takes the questions of one image: they share its prefill and, when sampling, one stream of
            random numbers, so they are answered together or not at all. Else a call takes questions of any images,
            and the engine gives each a seed of its own, made from the decoding's.
        questions: Most questions of a call, where it is not by image; where it is, a greedy call takes further whole
            images up to so many questions, for it draws nothing.
        calls: Most calls under way at the same time, each in a thread.
    """

    by_image: bool = True
    questions: int = 1
    calls: int = 1


class Engine(Protocol):
    """Answers questions about images.

    Attributes:
        name: As `infer.engine` has it.
        facts: What answers, as plain JSON values: the model, and where it runs.
        intake: How questions are handed over.
        scores_candidates: Whether `score_candidates` can be had.
    """

    name: str
    facts: Mapping[str, Any]
    intake: Intake
    scores_candidates: bool

    def with_prompt(self, prompt: PromptSettings) -> Engine:
        """Return the same model, to which questions are put in another way."""

    def generate(self, samples: Sequence[VQASample], decoding: Decoding) -> list[Generation]:
        """Return one answer for each sample.

        Raises:
            AnswerError: If a question cannot be answered while others may.
            ModelError: If no question can.
        """

    def sample(self, samples: Sequence[VQASample], count: int, decoding: Decoding) -> list[tuple[AnswerSample, ...]]:
        """Draw `count` answers for each sample: the distinct ones with their counts, the most frequent first.

        Raises:
            AnswerError: As `generate`.
            ModelError: As `generate`.
        """

    def score_candidates(self, samples: Sequence[VQASample],
                         candidates: Sequence[Sequence[str]]) -> list[Mapping[str, float]]:
        """Return each candidate's log-probability (nats, end token included) as the answer to each sample.

        Raises:
            ModelError: If the engine cannot tell.
        """

    def count_answer_tokens(self, answer: str) -> int:
        """Return the tokens of an answer, end token included; asked where `score_candidates` can be had."""

    def count_usage(self) -> Mapping[str, int]:
        """Return what has been used so far, such as "prompt_tokens"; empty where nothing is counted."""

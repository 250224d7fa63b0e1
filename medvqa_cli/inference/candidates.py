"""The likeliest of the candidates a closed question offers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from medvqa_cli.data.prompts import format_target

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from medvqa_cli.inference.routing import Offer
    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.data import PromptSettings

MAX_SCORED = 512
"""Most candidates of one call to the engine, as long as a question by itself has fewer."""


class CandidateScorer(Protocol):
    """The part of an engine that scores given answers."""

    def score_candidates(self, samples: Sequence[VQASample],
                         candidates: Sequence[Sequence[str]]) -> list[Mapping[str, float]]:
        """Return each candidate's log-probability in nats, end token included."""

    def count_answer_tokens(self, answer: str) -> int:
        """Return the tokens of an answer, end token included."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen candidate of a question.

    Attributes:
        answer: The best form of the best option.
        probabilities: Best form of each option -> softmax over options of its log-probability per token; the best
            first. Length-normalised, so it is not the model's own law of answers.
        scores: Every form -> its log-probability (nats, end token included) and its number of tokens.
        margin: Log-probability per token of the answer less that of the next option, in nats; None of a single one.
    """

    answer: str
    probabilities: Mapping[str, float]
    scores: Mapping[str, tuple[float, int]]
    margin: float | None


def choose_answers(engine: CandidateScorer, samples: Sequence[VQASample], offers: Sequence[Offer],
                   prompt: PromptSettings) -> list[Choice]:
    """Return the choice of each question; every offer has an option.

    A candidate is scored as the reply that training would teach for it, in the form `prompt` asks for.
    """
    chosen: list[Choice] = []
    for start, end in _find_waves(offers):
        chosen.extend(_choose_wave(engine, samples[start:end], offers[start:end], prompt))
    return chosen


def rank_options(options: Sequence[Sequence[str]], scores: Mapping[str, tuple[float, int]]) -> Choice:
    """Return the choice among options, each by its best form: the highest log-probability per token.

    Equal ones stay in the order they were offered in.
    """
    mean = {form: logprob / tokens for form, (logprob, tokens) in scores.items()}
    best = sorted((max(forms, key=mean.__getitem__) for forms in options), key=lambda form: -mean[form])
    top = mean[best[0]]
    weights = [math.exp(mean[form] - top) for form in best]
    probabilities = {form: weight / sum(weights) for form, weight in zip(best, weights, strict=True)}
    return Choice(best[0], probabilities, scores, top - mean[best[1]] if len(best) > 1 else None)


def _choose_wave(engine: CandidateScorer, samples: Sequence[VQASample], offers: Sequence[Offer],
                 prompt: PromptSettings) -> Iterator[Choice]:
    replies = [{form: format_target(replace(sample, answer=form), prompt) for form in offer.candidates}
               for sample, offer in zip(samples, offers, strict=True)]
    scored = engine.score_candidates(samples, [list(forms.values()) for forms in replies])
    for offer, forms, found in zip(offers, replies, scored, strict=True):
        scores = {form: (found[reply], engine.count_answer_tokens(reply)) for form, reply in forms.items()}
        yield rank_options(offer.options, scores)


def _find_waves(offers: Sequence[Offer]) -> Iterator[tuple[int, int]]:
    start, size = 0, 0
    for number, offer in enumerate(offers):
        if size and size + len(offer.candidates) > MAX_SCORED:
            yield start, number
            start, size = number, 0
        size += len(offer.candidates)
    if offers:
        yield start, len(offers)

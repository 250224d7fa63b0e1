"""Prediction rows to one row a question: what was answered, how sure the model was, whether it is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from medvqa_cli.errors import DataError
from medvqa_cli.evaluation.answered import Detail, fill_detail, is_right, to_rows
from medvqa_cli.evaluation.questions import Questions, is_asked_for
from medvqa_cli.evaluation.sampled import DRAW, PLAIN, Reading, count_samples, rate_by_entropy, read_samples
from medvqa_cli.scoring.answers import normalize_answer
from medvqa_cli.scoring.confidence import (
    compare_true_false,
    measure_likelihood,
    parse_verbalized,
    weigh_candidates,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medvqa_cli.records import Prediction

__all__ = ["GROUPS", "MISSING", "SAMPLED", "SOURCES", "STORED", "Detail", "NoConfidenceError", "Source", "count_votes",
           "list_details", "read_confidence", "read_law", "to_rows"]

Source = Literal["sampling", "entropy", "logits", "likelihood", "verbalized", "p_true"]
SOURCES: tuple[Source, ...] = get_args(Source)
SAMPLED: tuple[Source, ...] = ("sampling", "entropy")
"""Sources that need many answers to a question."""
STORED: tuple[Source, ...] = ("logits", "likelihood", "verbalized")
"""Sources that one answer of `medvqa infer` may hold."""
GROUPS = ("question_type", "modality", "organ")
MISSING: dict[Source, str] = {
    "sampling": DRAW,
    "entropy": DRAW,
    "logits": "Ask the model: `medvqa eval calibration --method logits --overwrite`.",
    "likelihood": "Answer with an engine that tells log-probabilities, such as --engine transformers.",
    "verbalized": "The model does not say, though asked; many fine-tuned ones do not. Take another method, or give it "
                  "more room (--max-new-tokens).",
    "p_true": "Ask for it: `medvqa eval calibration --method p_true`.",
}


class NoConfidenceError(DataError):
    """No answer has a confidence of the kind that is asked for."""


def count_votes(predictions: Sequence[Prediction]) -> list[Detail]:
    """Return what the sampled answers to each yes/no question say.

    Raises:
        DataError: If no prediction is about a closed question whose gold answer is yes or no, or none has samples.
    """
    return read_samples(predictions, "yes_no")


def list_details(predictions: Sequence[Prediction], source: Source, *, questions: Questions | None = None,
                 reading: Reading = PLAIN) -> list[Detail]:
    """Return what each answer says about its confidence.

    Answers without a confidence from this source (not routed to candidates, none stated) are left out.

    Args:
        predictions: The answers.
        source: Where their confidence comes from.
        questions: Which ones count; not given: with samples those about yes/no questions, else about closed ones.
        reading: How sampled answers are read.

    Raises:
        NoConfidenceError: If no answer has one.
        DataError: If a log-probability is no number.
    """
    if source in SAMPLED:
        details = read_samples(predictions, questions or "yes_no", reading)
        return details if source == "sampling" else [rate_by_entropy(detail) for detail in details]
    questions = questions or "closed"
    chosen = [prediction for prediction in predictions if is_asked_for(prediction.sample, questions)]
    found = [(prediction, read_confidence(prediction, source)) for prediction in chosen]
    details = [_describe(prediction, sure) for prediction, sure in found if sure is not None]
    if not details:
        raise NoConfidenceError(f"None of {len(chosen)} answers to {questions.replace('yes_no', 'yes/no')} questions "
                                f"has a confidence by '{source}'.".replace(" to all questions", ""), MISSING[source])
    return details


def read_confidence(prediction: Prediction, source: Source) -> float | None:
    """Return how sure a prediction is of its answer (0-1), or None if it does not say.

    - logits: the answer's probability among the candidates.
    - likelihood: the geometric mean of its tokens' probabilities.
    - verbalized: what its text states last.
    - p_true: the probability of "True" against "False" as the reply to whether the answer is true.
    - sampling: the share of the majority among the samples that can be read.
    - entropy: exp(-entropy) of the samples' meanings.

    Raises:
        DataError: If a log-probability is no number.
    """
    if source == "logits":
        return _read_candidate(prediction)
    if source == "likelihood":
        known = prediction.logprob is not None and prediction.num_tokens
        return measure_likelihood(prediction.logprob or 0.0, prediction.num_tokens) if known else None
    if source == "verbalized":
        return parse_verbalized(prediction.text or prediction.answer)
    if source == "p_true":
        scores = prediction.candidate_scores or {}
        asked = {"True", "False"} <= set(scores)
        return compare_true_false(scores["True"][0], scores["False"][0]) if asked else None
    detail = count_samples(prediction)
    return (detail if source == "sampling" else rate_by_entropy(detail)).confidence if detail.is_valid else None


def read_law(prediction: Prediction) -> Mapping[str, float]:
    """Return each candidate's probability: the softmax of whole log-probabilities; empty where none were offered.

    A candidate is its best form. What a row holds as `candidates` is by log-probability per token, which is not the
    model's own law of answers: it serves where the log-probabilities are not kept.

    Raises:
        DataError: If a log-probability is no number.
    """
    offered, scores = prediction.candidates or {}, prediction.candidate_scores or {}
    if not offered or not set(offered) <= set(scores):
        return offered
    return weigh_candidates({name: scores[name][0] for name in offered}).probabilities


def _read_candidate(prediction: Prediction) -> float | None:
    law = read_law(prediction)
    if not law:
        return None
    wanted = normalize_answer(prediction.answer)
    named = [value for name, value in law.items() if normalize_answer(name) == wanted]
    value = sum(named) if named else max(law.values())
    if not 0 <= value <= 1 + 1e-6:
        raise DataError(f"Question '{prediction.sample.question_id}': a candidate's probability is '{value}'.",
                        "It should lie in 0-1: answer anew with --overwrite.")
    return min(value, 1.0)


def _describe(prediction: Prediction, confidence: float) -> Detail:
    law = {normalize_answer(name): value for name, value in read_law(prediction).items()}
    return fill_detail(prediction, predicted=normalize_answer(prediction.answer), confidence=confidence,
                 p_yes=law["yes"] if set(law) == {"yes", "no"} else None,
                 is_correct=is_right(prediction.answer, prediction.sample), is_valid=True)

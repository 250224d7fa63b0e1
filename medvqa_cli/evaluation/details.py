"""Prediction rows to one row a question: what was answered, how sure the model was, whether it is right."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from medvqa_cli.errors import DataError
from medvqa_cli.scoring.answers import is_closed_correct, normalize_answer, parse_yes_no
from medvqa_cli.scoring.clusters import cluster_answers, measure_entropy
from medvqa_cli.scoring.confidence import check_logprob, measure_likelihood, parse_verbalized, vote_yes_no

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.records import Prediction

Source = Literal["sampling", "logits", "likelihood", "verbalized"]
SOURCES: tuple[Source, ...] = get_args(Source)
GROUPS = ("question_type", "modality", "organ")
MISSING: dict[Source, str] = {
    "sampling": "Draw answers with `medvqa eval calibration --overwrite`.",
    "logits": "Answer by candidates: `medvqa infer --closed-candidates yesno --overwrite`.",
    "likelihood": "Answer with an engine that tells log-probabilities, such as --engine transformers.",
    "verbalized": "Ask for it: --instruction 'State your confidence in percent.', with room for it (--max-new-tokens).",
}


@dataclass(frozen=True, slots=True)
class Detail:
    """One question and its answer; field names are those of the framework this command replaces.

    Args:
        question_id: Its id.
        image_id: The image it is about.
        question: Its text.
        ground_truth: The gold answer, normalized.
        predicted: The answer.
        confidence: In 0-1.
        p_yes: Probability of yes; None unless the answer is yes or no and both were weighed.
        p_no: Of no.
        is_correct: Whether the answer is right; one that is not valid is wrong.
        is_valid: Whether a sampled answer could be read.
        yes_count: Sampled answers that say yes.
        no_count: That say no.
        unknown_count: That say neither.
        true_p_yes: The truth, where it is known.
        entropy: Discrete semantic entropy of the sampled answers by equality, in nats; None without any.
        question_type: Of the sample, as the next two: what calibrators may go by.
        modality: Of the image.
        organ: On the image.
        calibrated: The confidence after recalibration, if there was one.
    """

    question_id: str
    image_id: str
    question: str
    ground_truth: str
    predicted: str
    confidence: float
    p_yes: float | None
    p_no: float | None
    is_correct: bool
    is_valid: bool
    yes_count: int
    no_count: int
    unknown_count: int
    true_p_yes: float | None
    entropy: float | None = None
    question_type: str = ""
    modality: str = ""
    organ: str = ""
    calibrated: float | None = None


def count_votes(predictions: Sequence[Prediction]) -> list[Detail]:
    """Return what the sampled answers to each yes/no question say.

    Raises:
        DataError: If no prediction is about a closed question whose gold answer is yes or no, or none has samples.
    """
    chosen = [prediction for prediction in predictions
              if prediction.sample.answer_type == "closed" and _is_yes_no(prediction.sample.answer)]
    if not chosen:
        raise DataError("There is no closed question with a yes/no answer among the sampled ones.",
                        "Calibration is measured on yes/no questions: choose another split or --question-type.")
    if not any(answer.count for prediction in chosen for answer in prediction.samples):
        raise DataError(f"The {len(chosen)} yes/no questions have no sampled answers.", MISSING["sampling"])
    return [_count(prediction) for prediction in chosen]


def list_details(predictions: Sequence[Prediction], source: Source) -> list[Detail]:
    """Return what each answer says about its confidence; closed questions only.

    Answers without a confidence from this source (not routed to candidates, none stated) are left out.

    Raises:
        DataError: If no answer has one, or a log-probability is no number.
    """
    if source == "sampling":
        return count_votes(predictions)
    closed = [prediction for prediction in predictions if prediction.sample.answer_type == "closed"]
    found = [(prediction, read_confidence(prediction, source)) for prediction in closed]
    details = [_describe(prediction, sure) for prediction, sure in found if sure is not None]
    if not details:
        raise DataError(f"None of {len(closed)} answers to closed questions has a confidence by '{source}'.",
                        MISSING[source])
    return details


def read_confidence(prediction: Prediction, source: Source) -> float | None:
    """Return how sure a prediction is of its answer (0-1), or None if it does not say.

    - logits: the answer's probability among the candidates.
    - likelihood: the geometric mean of its tokens' probabilities.
    - verbalized: what its text states last.
    - sampling: the share of the majority among the samples that say yes or no.

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
    detail = _count(prediction)
    return detail.confidence if detail.is_valid else None


def _read_candidate(prediction: Prediction) -> float | None:
    if not prediction.candidates:
        return None
    wanted = normalize_answer(prediction.answer)
    named = [value for name, value in prediction.candidates.items() if normalize_answer(name) == wanted]
    value = sum(named) if named else max(prediction.candidates.values())
    if not 0 <= value <= 1 + 1e-6:
        raise DataError(f"Question '{prediction.sample.question_id}': a candidate's probability is '{value}'.",
                        "It should lie in 0-1: answer anew with --overwrite.")
    return min(value, 1.0)


def _is_yes_no(gold: str) -> bool:
    return normalize_answer(gold) in ("yes", "no")


def _count(prediction: Prediction) -> Detail:
    counts = {"yes": 0, "no": 0, None: 0}
    for answer in prediction.samples:
        if answer.logprob is not None:
            check_logprob(answer.logprob, f"of a sampled answer to question '{prediction.sample.question_id}'")
        counts[parse_yes_no(answer.text)] += answer.count
    vote = vote_yes_no(counts["yes"], counts["no"])
    clusters = cluster_answers(prediction.samples)
    return _fill(prediction, predicted=vote.answer, confidence=vote.confidence, p_yes=vote.p_yes,
                 is_correct=vote.is_valid and vote.answer == normalize_answer(prediction.sample.answer),
                 is_valid=vote.is_valid, yes_count=counts["yes"], no_count=counts["no"], unknown_count=counts[None],
                 entropy=measure_entropy(clusters) if clusters else None)


def _describe(prediction: Prediction, confidence: float) -> Detail:
    sample = prediction.sample
    law = {normalize_answer(name): value for name, value in (prediction.candidates or {}).items()}
    return _fill(prediction, predicted=normalize_answer(prediction.answer), confidence=confidence,
                 p_yes=law["yes"] if set(law) == {"yes", "no"} else None,
                 is_correct=is_closed_correct(prediction.answer, sample.answer, sample.alternatives), is_valid=True)


def _fill(prediction: Prediction, *, p_yes: float | None, **facts: Any) -> Detail:
    sample = prediction.sample
    law = sample.answer_probabilities
    counts = {"yes_count": 0, "no_count": 0, "unknown_count": 0}
    return Detail(question_id=sample.question_id, image_id=sample.image_id, question=sample.question,
                  ground_truth=normalize_answer(sample.answer), p_yes=p_yes,
                  p_no=None if p_yes is None else 1 - p_yes,
                  true_p_yes=law.get("yes", 0.0) if law is not None else None, question_type=sample.question_type,
                  modality=sample.modality, organ=sample.organ, **(counts | facts))


def to_rows(details: Sequence[Detail]) -> list[dict[str, Any]]:
    """Return the details as plain objects, for detailed_results.json."""
    return [asdict(detail) for detail in details]

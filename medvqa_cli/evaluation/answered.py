"""One row a question: what was answered, how sure the model was, whether it is right."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.evaluation.questions import Kind, classify_question
from medvqa_cli.scoring.answers import is_closed_correct, match_exactly, normalize_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.records import Prediction, VQASample


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
        unknown_count: That answer nothing: neither yes nor no, none of the options, or no text at all.
        true_p_yes: The truth, where it is known.
        entropy: Discrete semantic entropy of the sampled answers that can be read, in nats; None without any.
        question_type: Of the sample, as the next two: what calibrators may go by.
        modality: Of the image.
        organ: On the image.
        calibrated: The confidence after recalibration, if there was one.
        kind: yes_no, choice (closed otherwise) or open.
        valid_count: Sampled answers that could be read.
        num_meanings: How many different things they say.
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
    kind: Kind = "yes_no"
    valid_count: int = 0
    num_meanings: int = 0


def is_right(answer: str, sample: VQASample) -> bool:
    """Return whether an answer is right: yes/no by its parse, any other by exact match once normalized."""
    if sample.answer_type == "closed":
        return is_closed_correct(answer, sample.answer, sample.alternatives)
    return match_exactly(answer, (sample.answer, *sample.alternatives))


def fill_detail(prediction: Prediction, *, p_yes: float | None, **facts: Any) -> Detail:
    """Return a row with the facts of its question; `facts` are the fields that the answer decides."""
    sample = prediction.sample
    law = sample.answer_probabilities
    counts = {"yes_count": 0, "no_count": 0, "unknown_count": 0}
    return Detail(question_id=sample.question_id, image_id=sample.image_id, question=sample.question,
                  ground_truth=normalize_answer(sample.answer), p_yes=p_yes,
                  p_no=None if p_yes is None else 1 - p_yes,
                  true_p_yes=law.get("yes", 0.0) if law is not None else None, question_type=sample.question_type,
                  modality=sample.modality, organ=sample.organ, kind=classify_question(sample), **(counts | facts))


def to_rows(details: Sequence[Detail]) -> list[dict[str, Any]]:
    """Return the details as plain objects, for detailed_results.json."""
    return [asdict(detail) for detail in details]

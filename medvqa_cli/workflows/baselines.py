"""What the training questions alone would answer: the numbers a model has to beat."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import DataError
from medvqa_cli.progress import SILENT
from medvqa_cli.scoring.baselines import Example, score_baselines
from medvqa_cli.scoring.generic import FREQUENT
from medvqa_cli.scoring.profiles import normalize_answer
from medvqa_cli.workflows.data import choose_samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.schema import Settings


def measure_baselines(settings: Settings, samples: Sequence[VQASample]) -> dict[str, Any] | None:
    """Return accuracies of answers guessed from the training split's questions; None if there is no such split.

    Closed questions are guessed from closed ones and open from open ones.

    Returns:
        {"closed" | "open": {baseline: accuracy}, "question_type": {type: {baseline: accuracy}}, "train_questions": n,
        "frequent_answers": the most frequent open training answers, normalized, the most frequent first}.
    """
    try:
        train = choose_samples(settings, settings.data.train_split, SILENT)
    except DataError:
        return None
    answers = Counter(normalize_answer(sample.answer) for sample in train if sample.answer_type == "open")
    found: dict[str, Any] = {"train_questions": len(train), "question_type": {},
                             "frequent_answers": [answer for answer, _ in answers.most_common(FREQUENT)]}
    for kind in ("closed", "open"):
        known, asked = _examples(train, kind), _examples(samples, kind)
        if asked:
            found[kind] = score_baselines(known, asked)
    for name in sorted({sample.question_type for sample in samples if sample.question_type}):
        found["question_type"][name] = _measure_type(train, samples, name)
    return found


def _measure_type(train: Sequence[VQASample], samples: Sequence[VQASample], name: str) -> dict[str, float | None]:
    """Return one question type's baselines: closed and open questions guessed apart, weighted by their number."""
    totals: dict[str, float] = {}
    asked_in_all = 0
    for kind in ("closed", "open"):
        asked = [example for example in _examples(samples, kind) if example.question_type == name]
        if not asked:
            continue
        asked_in_all += len(asked)
        for baseline, accuracy in score_baselines(_examples(train, kind), asked).items():
            totals[baseline] = totals.get(baseline, 0.0) + (accuracy or 0.0) * len(asked)
    return {baseline: total / asked_in_all for baseline, total in totals.items()}


def _examples(samples: Sequence[VQASample], kind: str) -> list[Example]:
    return [Example(sample.question, sample.question_type, sample.answer)
            for sample in samples if sample.answer_type == kind]

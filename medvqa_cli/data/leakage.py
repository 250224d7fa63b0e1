"""Pictures and questions that stand in two splits, or twice in one."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

from medvqa_cli.scoring.answers import normalize_answer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medvqa_cli.records import VQASample


def find_leakage(splits: Mapping[str, Sequence[VQASample]], hashes: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return for each pair of splits what they share.

    Args:
        splits: Split -> samples.
        hashes: Image path -> hash of its pixels; a path without one stands for itself.

    Returns:
        One object a pair: "splits" [a, b]; "images" of b in all; "shared_images" of b that a shows too, pixel by pixel;
        "questions" of b in all; "questions_on_shared_images" of b; "shared_questions" of b that a asks, in the same
        words, about the same picture.
    """
    return [_compare(first, second, splits, hashes) for first, second in itertools.combinations(splits, 2)]


def find_duplicates(samples: Sequence[VQASample], hashes: Mapping[str, str]) -> dict[str, int]:
    """Return how many samples ask again what was asked about the same picture, and how many of these answer alike."""
    questions = Counter(_identify_question(sample, hashes) for sample in samples)
    answers = Counter((_identify_question(sample, hashes), normalize_answer(sample.answer)) for sample in samples)
    return {"same_question": len(samples) - len(questions), "same_answer": len(samples) - len(answers)}


def _compare(first: str, second: str, splits: Mapping[str, Sequence[VQASample]],
             hashes: Mapping[str, str]) -> dict[str, Any]:
    images = {name: _find_images(splits[name], hashes) for name in (first, second)}
    shared = images[first] & images[second]
    known = {_identify_question(sample, hashes) for sample in splits[first] if sample.images}
    return {
        "splits": [first, second],
        "images": len(images[second]),
        "shared_images": len(shared),
        "questions": len(splits[second]),
        "questions_on_shared_images": sum(any(hashes.get(path, path) in shared for path in sample.images)
                                          for sample in splits[second]),
        "shared_questions": sum(_identify_question(sample, hashes) in known for sample in splits[second]),
    }


def _find_images(samples: Sequence[VQASample], hashes: Mapping[str, str]) -> set[str]:
    return {hashes.get(path, path) for sample in samples for path in sample.images}


def _identify_question(sample: VQASample, hashes: Mapping[str, str]) -> tuple[str, ...]:
    return (normalize_answer(sample.question), *(hashes.get(path, path) for path in sample.images))

"""What a data set holds, what is odd about it, and whether one may train on it.

The result of `audit_samples` is one document of plain JSON values:

```
splits      {split: counts, see `describe_split`}
baselines   {split other than training: {"closed" | "open": {"questions": n, baseline: accuracy in 0-1 or null}}}
leakage     [one object for each pair of splits, see `find_leakage`]
duplicates  {split: {"same_question": n, "same_answer": n}}
images      {"distinct": n, "unreadable": {path: reason}, "identical": n shown by another file too}
verdict     {"ready": bool, "faults": [{code, message}], "warnings": [{code, message, value, threshold}]}
```

Only faults forbid training: no question, no image, a missing or unreadable image, a question without a text, an answer
that is not among its options. Leakage and imbalance warn, and belong beside every number such data give.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.images import hash_image
from medvqa_cli.data.leakage import find_duplicates, find_leakage
from medvqa_cli.errors import DataError
from medvqa_cli.progress import SILENT, Progress, track
from medvqa_cli.scoring.answers import normalize_answer
from medvqa_cli.scoring.baselines import Example, score_baselines

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from medvqa_cli.records import VQASample

MAX_MAJORITY_SHARE = 0.6
"""Above this share of one answer among a split's closed questions the split counts as imbalanced."""
MAX_QUESTION_ONLY_ACCURACY = 0.6
"""Above this accuracy of the question-only baseline on closed questions the pictures matter too little."""
MAX_DUPLICATE_SHARE = 0.01
"""Above this share of questions asked twice about one picture a split counts as redundant."""
NUM_FREQUENT_ANSWERS = 10
FACETS = {"answer_types": "answer_type", "question_types": "question_type", "modalities": "modality", "organs": "organ",
          "languages": "language"}


@dataclass(frozen=True, slots=True)
class ImageReport:
    """What decoding every picture gave: path -> hash of its pixels, or why it cannot be read."""

    hashes: Mapping[str, str] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)


def inspect_images(samples: Iterable[VQASample], max_pixels: int, progress: Progress = SILENT) -> ImageReport:
    """Decode every distinct picture once."""
    hashes: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    paths = list(dict.fromkeys(path for sample in samples for path in sample.images))
    for path in track(paths, progress, "Looking at images", len(paths), "image"):
        try:
            hashes[path] = hash_image(path, max_pixels)
        except DataError as error:
            unreadable[path] = error.message
    return ImageReport(hashes, unreadable)


def audit_samples(splits: Mapping[str, Sequence[VQASample]], images: ImageReport, *,
                  train_split: str = "train") -> dict[str, Any]:
    """Return the analysis described at the top of this module.

    Args:
        splits: Split -> its samples.
        images: What `inspect_images` found.
        train_split: The split the baselines learn from.
    """
    document: dict[str, Any] = {
        "splits": {split: describe_split(samples) for split, samples in splits.items()},
        "baselines": {split: _score_split(splits.get(train_split, ()), samples)
                      for split, samples in splits.items() if split != train_split},
        "leakage": find_leakage(splits, images.hashes),
        "duplicates": {split: find_duplicates(samples, images.hashes) for split, samples in splits.items()},
        "images": {"distinct": len(images.hashes) + len(images.unreadable), "unreadable": dict(images.unreadable),
                   "identical": len(images.hashes) - len(set(images.hashes.values()))},
    }
    faults, warnings = _find_faults(splits, images), _find_warnings(document, train_split)
    document["verdict"] = {"ready": not faults, "faults": faults, "warnings": warnings}
    return document


def describe_split(samples: Sequence[VQASample]) -> dict[str, Any]:
    """Return a split's counts.

    Returns:
        "questions", "images" (distinct); for each of answer_types, question_types, modalities, organs and languages
        value -> questions, the most frequent first ("" where not stated); "question_words" and "answer_words"
        {mean, max}; "empty_answers"; for "closed" and "open" questions {"distinct_answers", "frequent_answers": the ten
        most frequent normalized answers -> questions, "majority_share": of the most frequent one, 0-1 or null}.
    """
    return {
        "questions": len(samples),
        "images": len({path for sample in samples for path in sample.images}),
        **{name: dict(Counter(getattr(sample, facet) for sample in samples).most_common())
           for name, facet in FACETS.items()},
        "question_words": _describe_lengths([sample.question for sample in samples]),
        "answer_words": _describe_lengths([sample.answer for sample in samples]),
        "empty_answers": sum(not sample.answer.strip() for sample in samples),
        **{kind: _describe_answers([sample.answer for sample in samples if sample.answer_type == kind])
           for kind in ("closed", "open")},
    }


def _describe_lengths(texts: Sequence[str]) -> dict[str, float]:
    """Return mean and maximum number of words; in Chinese, written without blanks, a text counts as one word."""
    lengths = [len(text.split()) for text in texts] or [0]
    return {"mean": round(sum(lengths) / len(lengths), 2), "max": max(lengths)}


def _describe_answers(answers: Sequence[str]) -> dict[str, Any]:
    counts = Counter(map(normalize_answer, answers))
    frequent = counts.most_common(NUM_FREQUENT_ANSWERS)
    return {"distinct_answers": len(counts), "frequent_answers": dict(frequent),
            "majority_share": frequent[0][1] / len(answers) if answers else None}


def _score_split(train: Sequence[VQASample], samples: Sequence[VQASample]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for kind in ("closed", "open"):
        known, asked = (_to_examples(part, kind) for part in (train, samples))
        document[kind] = {"questions": len(asked), **score_baselines(known, asked)}
    return document


def _to_examples(samples: Sequence[VQASample], kind: str) -> list[Example]:
    return [Example(sample.question, sample.question_type, sample.answer)
            for sample in samples if sample.answer_type == kind]


def _find_faults(splits: Mapping[str, Sequence[VQASample]], images: ImageReport) -> list[dict[str, Any]]:
    samples = [sample for part in splits.values() for sample in part]
    silent = [sample.question_id for sample in samples if not sample.question.strip()]
    strays = [sample.question_id for sample in samples if sample.options and not _is_offered(sample)]
    found = {
        "no_questions": "There is no question." if not samples else "",
        "no_images": "No question has an image." if samples and not any(sample.images for sample in samples) else "",
        "unreadable_images": _name_some("Missing or unreadable images", list(images.unreadable.values())),
        "empty_questions": _name_some("Questions without a text", silent),
        "answers_outside_options": _name_some("Questions whose answer is not among their options", strays),
    }
    return [{"code": code, "message": message} for code, message in found.items() if message]


def _is_offered(sample: VQASample) -> bool:
    return normalize_answer(sample.answer) in set(map(normalize_answer, sample.options))


def _name_some(what: str, examples: Sequence[str]) -> str:
    return f"{what}: {len(examples)}, such as: {examples[0]}" if examples else ""


def _find_warnings(document: Mapping[str, Any], train_split: str) -> list[dict[str, Any]]:
    return [*_warn_of_leakage(document["leakage"]), *_warn_of_imbalance(document, train_split),
            *_warn_of_rows(document, train_split)]


def _warn_of_leakage(pairs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [_warn("shared_images", f"{pair['shared_images']} of {pair['images']} images of '{pair['splits'][1]}' are "
                  f"also in '{pair['splits'][0]}'; questions asked there about the same image: "
                  f"{pair['shared_questions']}.",
                  pair["shared_images"], 0) for pair in pairs if pair["shared_images"]]


def _warn_of_imbalance(document: Mapping[str, Any], train_split: str) -> list[dict[str, Any]]:
    warnings = []
    for split, counts in document["splits"].items():
        share = counts["closed"]["majority_share"] or 0.0
        if share > MAX_MAJORITY_SHARE:
            answer = next(iter(counts["closed"]["frequent_answers"]))
            warnings.append(_warn("imbalance", f"'{answer}' answers {share:.1%} of the closed questions of '{split}'.",
                                  share, MAX_MAJORITY_SHARE))
    for split, kinds in document["baselines"].items():
        accuracy = kinds["closed"]["same_question_text"] or 0.0
        if accuracy > MAX_QUESTION_ONLY_ACCURACY:
            warnings.append(_warn("question_only", f"The question alone, looked up in '{train_split}', answers "
                                  f"{accuracy:.1%} of the closed questions of '{split}'.", accuracy,
                                  MAX_QUESTION_ONLY_ACCURACY))
    return warnings


def _warn_of_rows(document: Mapping[str, Any], train_split: str) -> list[dict[str, Any]]:
    warnings = []
    for split, counts in document["splits"].items():
        number, share = document["duplicates"][split]["same_question"], 0.0
        if counts["questions"]:
            share = number / counts["questions"]
        if share > MAX_DUPLICATE_SHARE:
            warnings.append(_warn("duplicates", f"{number} questions of '{split}' are asked twice about an image.",
                                  share, MAX_DUPLICATE_SHARE))
        if counts["empty_answers"]:
            warnings.append(_warn("empty_answers", f"Empty answers in '{split}': {counts['empty_answers']}.",
                                  counts["empty_answers"], 0))
        if not counts["questions"]:
            warnings.append(_warn("empty_split", f"No question of '{split}' is selected.", 0, 1))
    if train_split not in document["splits"]:
        warnings.append(_warn("no_training_split", f"There is no split '{train_split}' to train on.", 0, 1))
    return warnings


def _warn(code: str, message: str, value: float, threshold: float) -> dict[str, Any]:
    return {"code": code, "message": message, "value": round(value, 4), "threshold": threshold}

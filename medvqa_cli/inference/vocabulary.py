"""Answers of a training split's closed questions: how options are spelt, and what is offered where none are named."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import DataError
from medvqa_cli.records import write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from medvqa_cli.records import VQASample

FORMAT = 1
HINT = "Delete it, or leave out --closed-vocab: then one is built from the training split."


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Closed answers and how often each occurs.

    Attributes:
        dataset: Data set they come from; empty for none.
        split: Its split.
        fingerprint: Of its prepared data.
        answers: Language -> answer as written -> number of questions.
    """

    dataset: str = ""
    split: str = ""
    fingerprint: str = ""
    answers: Mapping[str, Mapping[str, int]] | None = None

    def list_answers(self, language: str) -> Mapping[str, int]:
        """Return the answers in one language with their numbers, the most frequent first."""
        return (self.answers or {}).get(language, {})

    def describe(self) -> dict[str, Any]:
        """Return what stands beside numbers: where the answers come from, how many there are, their hash."""
        content = json.dumps(self.answers or {}, sort_keys=True, ensure_ascii=False)
        return {"dataset": self.dataset, "split": self.split, "fingerprint": self.fingerprint,
                "answers": sum(map(len, (self.answers or {}).values())),
                "hash": hashlib.sha256(content.encode()).hexdigest()[:16]}


def build_vocabulary(samples: Iterable[VQASample], *, dataset: str, split: str, fingerprint: str) -> Vocabulary:
    """Return the vocabulary of the closed questions among some samples."""
    counts: dict[str, Counter[str]] = {}
    for sample in samples:
        if sample.answer_type == "closed" and sample.answer.strip():
            counts.setdefault(sample.language, Counter())[" ".join(sample.answer.split())] += 1
    answers = {language: dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
               for language, found in sorted(counts.items())}
    return Vocabulary(dataset, split, fingerprint, answers)


def write_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    """Write a vocabulary file, replacing the one that may be there."""
    write_json(path, {"format": FORMAT, "dataset": vocabulary.dataset, "split": vocabulary.split,
                      "fingerprint": vocabulary.fingerprint, "answers": vocabulary.answers or {}})


def read_vocabulary(path: Path) -> Vocabulary:
    """Return the vocabulary of a file.

    Raises:
        DataError: If the file is missing, or is no vocabulary file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"The vocabulary file '{path}' cannot be read: {error.strerror}.",
                        "Name another, or leave out --closed-vocab: then one is built from the training split."
                        ) from error
    except ValueError as error:
        raise _refuse(path, str(error)) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _refuse(path, f'it has no "format": {FORMAT}')
    if fault := _find_fault(content):
        raise _refuse(path, fault)
    return Vocabulary(content["dataset"], content["split"], content["fingerprint"], content["answers"])


def _find_fault(content: Mapping[str, Any]) -> str:
    for key in ("dataset", "split", "fingerprint"):
        if not isinstance(content.get(key), str):
            return f'"{key}" should be a text, but is {content.get(key)!r}'
    answers = content.get("answers")
    if not isinstance(answers, dict) or not all(isinstance(found, dict) for found in answers.values()):
        return '"answers" should hold, for each language, answers and their numbers'
    for found in answers.values():
        for answer, number in found.items():
            if not isinstance(number, int) or isinstance(number, bool) or number < 1 or not answer.strip():
                return f"the answer {answer!r} should have a whole number above 0, but has {number!r}"
    return ""


def _refuse(path: Path, fault: str) -> DataError:
    return DataError(f"'{path}' is no vocabulary file: {fault}.",
                     HINT)

"""What is counted of a split, one sample at a time: nothing is kept but the counts."""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medvqa_cli.records import VQASample

NUM_FREQUENT_ANSWERS = 10
MAX_ANSWER_LENGTH = 100
"""Of a longer answer only its beginning and a checksum are kept, so that a million reports fit into memory."""
FACETS = {"answer_types": "answer_type", "question_types": "question_type", "modalities": "modality", "organs": "organ",
          "languages": "language"}
_IDEOGRAPH = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


def count_words(text: str) -> int:
    """Return the number of words: pieces between blanks.

    In a text with Chinese characters, which no blanks divide, each of them is a word, and a piece without any letter or
    digit is none.
    """
    if text.isascii() or not _IDEOGRAPH.search(text):
        return len(text.split())
    rest = _IDEOGRAPH.sub(" ", text).split()
    return len(_IDEOGRAPH.findall(text)) + sum(any(map(str.isalnum, piece)) for piece in rest)


def _name_answer(answer: str) -> str:
    if len(answer) <= MAX_ANSWER_LENGTH:
        return answer
    return f"{answer[:MAX_ANSWER_LENGTH]}… ({zlib.crc32(answer.encode(errors='surrogatepass')):08x})"


class SplitTally:
    """Counts of one split."""

    def __init__(self) -> None:
        self.questions = 0
        self._facets: dict[str, Counter[str]] = {name: Counter() for name in FACETS}
        self._lengths: dict[str, Counter[int]] = {"question_words": Counter(), "answer_words": Counter()}
        self._answers: dict[str, Counter[str]] = {"closed": Counter(), "open": Counter()}
        self._places: Counter[int] = Counter()
        self._groups: Counter[tuple[str, ...]] = Counter()

    def add(self, sample: VQASample, answer: str) -> None:
        """Count a sample; `answer` is its normalized answer."""
        self.questions += 1
        for name, facet in FACETS.items():
            self._facets[name][getattr(sample, facet)] += 1
        self._lengths["question_words"][count_words(sample.question)] += 1
        self._lengths["answer_words"][count_words(sample.answer)] += 1
        self._answers[sample.answer_type][_name_answer(answer)] += 1
        self._groups[sample.images] += 1
        if sample.options and sample.answer in sample.options:
            self._places[sample.options.index(sample.answer) + 1] += 1

    def describe(self) -> dict[str, Any]:
        """Return the counts, as `audit` describes them."""
        return {
            "questions": self.questions,
            "images": len({path for images in self._groups for path in images}),
            **{name: dict(counts.most_common()) for name, counts in self._facets.items()},
            **{name: describe_lengths(counts) for name, counts in self._lengths.items()},
            "questions_per_image": describe_lengths(Counter(number for images, number in self._groups.items()
                                                            if images)),
            "without_image": self._groups[()],
            "empty_answers": sum(counts[""] for counts in self._answers.values()),
            "yes_no": describe_polarity(sum(self._answers.values(), Counter())),
            "option_places": {str(place): self._places[place] for place in sorted(self._places)},
            **{kind: describe_answers(counts) for kind, counts in self._answers.items()},
        }


def describe_lengths(counts: Mapping[int, int]) -> dict[str, Any]:
    """Return mean, median (the lower of two) and maximum of numbers, and how often each occurs; all 0 if there is none.

    Args:
        counts: Number -> how often.
    """
    total, ordered = sum(counts.values()), sorted(counts)
    median = seen = 0
    for length in ordered:
        median, seen = length, seen + counts[length]
        if 2 * seen >= total:
            break
    mean = sum(length * number for length, number in counts.items()) / total if total else 0.0
    return {"mean": round(mean, 2), "median": median, "max": max(ordered, default=0),
            "histogram": {str(length): counts[length] for length in ordered}}


def describe_polarity(answers: Mapping[str, int]) -> dict[str, Any]:
    """Return how often the answer is yes and no, and the share of yes among both: 0-1, or None if there is neither."""
    yes, no = answers.get("yes", 0), answers.get("no", 0)
    return {"yes": yes, "no": no, "positive_share": yes / (yes + no) if yes + no else None}


def describe_answers(counts: Counter[str]) -> dict[str, Any]:
    """Return how many distinct answers there are, the ten most frequent, the share of the first, and their balance.

    The balance is the number of equally frequent answers that would be as hard to guess: e to the power of the answers'
    entropy (Hill, Ecology 54(2), 1973, the number of order 1). It is 2 for as many yes as no, 1 for a single answer.
    """
    total, frequent = sum(counts.values()), counts.most_common(NUM_FREQUENT_ANSWERS)
    entropy = -sum(number / total * math.log(number / total) for number in counts.values())
    return {"distinct_answers": len(counts), "frequent_answers": dict(frequent),
            "majority_share": frequent[0][1] / total if total else None,
            "effective_answers": round(math.exp(entropy), 2) if total else None}

"""Is an answer right? Normalization, yes/no parsing, exact match, token overlap.

The profile `medvqa` of `normalize_answer` is named beside every number it makes. The rules, in order: Unicode NFKC,
lower case, white space collapsed, punctuation stripped from both ends of the text.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PROFILE = "medvqa"
YesNo = Literal["yes", "no"]

_EDGES = string.punctuation + string.whitespace + "\u2018\u2019\u201c\u201d\u2026\u2013\u2014"
_CUE = re.compile(r"^(the\s+)?(final\s+)?answer\s*(is|:)\s*", re.IGNORECASE)
_FIRST = re.compile(r"^(yes|no)(?![\w'\u2019-])(?!\s*(?:/|or\b)\s*(?:yes|no)\b)(?!\s+(?:doubt|idea|way to)\b)")
_NEGATED = re.compile(r"\bnot\b|n['\u2019]t\b|\bnor\b|\bneither\b")
_WORDS = {"yes": re.compile(r"(?<![\w-])yes(?![\w-])"), "no": re.compile(r"(?<![\w-])no(?![\w'\u2019-])")}


@dataclass(frozen=True, slots=True)
class TokenScore:
    """Overlap of two bags of words, each number in 0-1."""

    precision: float
    recall: float
    f1: float


def normalize_answer(text: str) -> str:
    """Return a text in the profile `medvqa`: NFKC, lower case, single blanks, no punctuation at either end."""
    folded = unicodedata.normalize("NFKC", text).lower()
    return " ".join(folded.split()).strip(_EDGES)


def parse_yes_no(text: str) -> YesNo | None:
    """Return what a free answer says to a yes/no question, or None if it says neither.

    An answer that begins with the word yes or no (after an "Answer:" or "The answer is") says that. Another one says
    what it contains if it holds one of the two words, as a whole word, and not the other, and no negation: "I would
    say yes". "Yes or no" says neither. A "no" inside a sentence usually denies a noun ("there is no lesion") and
    answers "Is it normal?" with yes, so it counts only as the last word. "normal", "know", "nodule" are other words.
    """
    answer = _CUE.sub("", normalize_answer(text)).strip(_EDGES)
    first = _FIRST.match(answer)
    if first:
        return _as_yes_no(first.group(1))
    found = [word for word, pattern in _WORDS.items() if pattern.search(answer)]
    if len(found) == 1 and not _NEGATED.search(answer) and (found[0] == "yes" or answer.endswith(" no")):
        return _as_yes_no(found[0])
    return None


def _as_yes_no(word: str) -> YesNo:
    return "yes" if word == "yes" else "no"


def match_exactly(answer: str, golds: Iterable[str]) -> bool:
    """Return whether an answer equals one of the gold answers once both are normalized.

    Comma lists match in any order: "Spinal Cord, Lung" is "Lung, Spinal Cord".
    """
    found = _as_list(answer)
    return any(found == _as_list(gold) for gold in golds)


def _as_list(text: str) -> list[str]:
    return sorted(normalize_answer(part) for part in normalize_answer(text).split(","))


def score_tokens(answer: str, golds: Sequence[str]) -> TokenScore:
    """Return the word overlap with the gold answer it fits best (by F1); words count as often as they occur.

    Two empty texts agree fully; an empty and a non-empty one not at all.

    Source:
        Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1 (F1). Differs: articles are kept, and words lose the
        punctuation around them only.
    """
    return max((_overlap(_tokens(answer), _tokens(gold)) for gold in golds), key=lambda score: score.f1)


def _overlap(found: Sequence[str], wanted: Sequence[str]) -> TokenScore:
    if not found or not wanted:
        same = float(not found and not wanted)
        return TokenScore(same, same, same)
    common = sum((Counter(found) & Counter(wanted)).values())
    precision, recall = common / len(found), common / len(wanted)
    return TokenScore(precision, recall, 2 * precision * recall / (precision + recall) if common else 0.0)


def _tokens(text: str) -> list[str]:
    return [token for token in (word.strip(_EDGES) for word in normalize_answer(text).split()) if token]


def is_closed_correct(answer: str, gold: str, alternatives: Sequence[str] = ()) -> bool:
    """Return whether an answer to a closed question is right.

    Where the gold answer is yes or no the answer is parsed for it; else it must match exactly.
    """
    wanted = parse_yes_no(gold) if normalize_answer(gold) in ("yes", "no") else None
    if wanted:
        return parse_yes_no(answer) == wanted
    return match_exactly(answer, (gold, *alternatives))

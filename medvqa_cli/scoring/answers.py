"""Is an answer right? Yes/no parsing, exact match, token overlap, each under a named profile of normalization."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from medvqa_cli.scoring.profiles import EDGES, MEDVQA, Profile, normalize_answer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["TokenScore", "YesNo", "is_closed_correct", "is_yes_no", "match_exactly", "normalize_answer",
           "parse_yes_no", "recall_openly", "score_tokens"]

YesNo = Literal["yes", "no"]

_SEPARATORS = re.compile("[,;\u3001]")
_VERDICT = re.compile(r"\banswer\b[^.:;!?]{0,40}?(?:\bis\b|\bwould be\b|:)")
_REFUSALS = "doubt|idea|clue|way to|answer|comment|opinion|information|image"
_FIRST = re.compile(rf"(yes|no)(?![\w'\u2019-])(?!\W*(?:/|\bor\b)\W*(?:yes|no)\b)(?!\s+(?:{_REFUSALS})\b)")
_HEDGES = {"yes", "no", "or", "and"}
_NEGATED = re.compile(r"\bnot\b|n['\u2019]t\b|\bnor\b|\bneither\b")
_WORDS = {"yes": re.compile(r"(?<![\w-])yes(?![\w-])"), "no": re.compile(r"(?<![\w-])no(?![\w'\u2019-])")}


@dataclass(frozen=True, slots=True)
class TokenScore:
    """Overlap of two bags of words, each number in 0-1."""

    precision: float
    recall: float
    f1: float


def parse_yes_no(text: str) -> YesNo | None:
    """Return what a free answer says to a yes/no question, or None if it says neither.

    The rules, in order; "normal", "know" and "nodule" are other words in each of them:

    1. What follows the last "answer is", "answer would be" or "answer:" is read by rules 2 and 3, so that "There is
       no fracture. The answer is yes" is yes. If it says neither, the whole text is read by them.
    2. A text that begins with the word yes or no says that: "Yes, there is a nodule", "No evidence of it". Not so a
       choice left open ("yes or no", "(yes) / (no)", "yes, no") or a refusal ("No idea", "No image was given").
    3. A text says yes if it holds that word and neither the word no nor a negation: "I would say yes". It says no if
       that is its last word, and there is neither a yes nor a negation. A no inside a sentence usually denies a noun
       and says nothing by itself: "There is no lesion" answers "Is it normal?" with yes, "Is there one?" with no.
    """
    answer = normalize_answer(text)
    verdict = _VERDICT.split(answer)[-1]
    return _read(verdict) or (_read(answer) if verdict != answer else None)


def is_yes_no(gold: str) -> bool:
    """Return whether a gold answer makes its question a yes/no question: it is yes or no once normalized."""
    return normalize_answer(gold) in ("yes", "no")


def _read(text: str) -> YesNo | None:
    answer = text.strip(EDGES)
    words = set(re.findall(r"\w+", answer))
    if {"yes", "no"} <= words <= _HEDGES:
        return None
    first = _FIRST.match(answer)
    if first:
        return _as_yes_no(first.group(1))
    found = [word for word, pattern in _WORDS.items() if pattern.search(answer)]
    if len(found) == 1 and not _NEGATED.search(answer) and (found[0] == "yes" or answer.endswith(" no")):
        return _as_yes_no(found[0])
    return None


def _as_yes_no(word: str) -> YesNo:
    return "yes" if word == "yes" else "no"


def match_exactly(answer: str, golds: Iterable[str], profile: Profile = MEDVQA) -> bool:
    """Return whether an answer equals one of the gold answers once both are normalized.

    Lists (`,` or `;` between their parts) match in any order: "Spinal Cord, Lung" is "Lung, Spinal Cord". A text of
    which a profile leaves nothing ("A" where articles are dropped) matches only itself, in lower case.
    """
    whole, parts = _normalize_whole(answer, profile), _as_list(answer, profile)
    return any(whole == _normalize_whole(gold, profile) or (parts and parts == _as_list(gold, profile))
               for gold in golds)


def _normalize_whole(text: str, profile: Profile) -> str:
    return profile.normalize(text) or text.strip().lower()


def _as_list(text: str, profile: Profile) -> list[str]:
    parts = _SEPARATORS.split(unicodedata.normalize("NFKC", text))
    return sorted(part for part in map(profile.normalize, parts) if part)


def score_tokens(answer: str, golds: Sequence[str], profile: Profile = MEDVQA) -> TokenScore:
    """Return the word overlap with the gold answer it fits best (by F1); words count as often as they occur.

    Words are what blanks part, so a Chinese sentence is one word. Two texts without words agree fully, one without
    and one with words not at all.

    Source:
        Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1 (F1). Differs: in the profile `medvqa` articles are kept,
        and words lose the punctuation around them only.
    """
    found = profile.split(answer)
    return max((_overlap(found, profile.split(gold)) for gold in golds), key=lambda score: score.f1)


def _overlap(found: Sequence[str], wanted: Sequence[str]) -> TokenScore:
    if not found or not wanted:
        same = float(not found and not wanted)
        return TokenScore(same, same, same)
    common = sum((Counter(found) & Counter(wanted)).values())
    precision, recall = common / len(found), common / len(wanted)
    return TokenScore(precision, recall, 2 * precision * recall / (precision + recall) if common else 0.0)


def recall_openly(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Return LLaVA-Med's recall of open answers, in 0-1: hits / (hits + gold words that are missing).

    A hit is a word of the answer that is in the gold answer, counted as often as the *answer* says it, so that
    repeating a right word raises it; `score_tokens` does not have this fault. Without words on either side it is 0.

    Source:
        Li et al. 2023, arXiv:2306.00890, section 5.2, "open-set", and the evaluation code of its version 1.0.
    """
    if not found:
        return 0.0
    hits = sum(word in wanted for word in found)
    missing = sum(word not in found for word in wanted)
    return hits / (hits + missing) if hits else 0.0


def is_closed_correct(answer: str, gold: str, alternatives: Sequence[str] = (), profile: Profile = MEDVQA) -> bool:
    """Return whether an answer to a closed question is right.

    Where the gold answer is yes or no the answer is parsed for it (`parse_yes_no`; alternatives do not count); else it
    must match exactly.
    """
    if is_yes_no(gold):
        return parse_yes_no(answer) == normalize_answer(gold)
    return match_exactly(answer, (gold, *alternatives), profile)

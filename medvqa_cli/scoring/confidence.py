"""How sure a model is of an answer: by the votes of its samples, by its probabilities, by its own words."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from medvqa_cli.errors import DataError
from medvqa_cli.scoring.answers import normalize_answer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Vote:
    """What sampled answers say to a yes/no question; `confidence` and `p_yes` in 0-1."""

    answer: Literal["yes", "no"]
    confidence: float
    p_yes: float
    is_valid: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several candidates with its probability, and those of all, in 0-1; no answer if nothing spoke for any."""

    answer: str | None
    confidence: float
    probabilities: Mapping[str, float]


def vote_yes_no(num_yes: int, num_no: int) -> Vote:
    """Return the majority of the valid answers: p_yes = yes / (yes + no), confidence = max(p_yes, 1 - p_yes).

    A tie says yes. Without any valid answer both probabilities are 0.5 and the vote is marked as not valid: it is
    neither guessed nor hidden.
    """
    valid = num_yes + num_no
    p_yes = num_yes / valid if valid else 0.5
    return Vote("yes" if p_yes >= 0.5 else "no", max(p_yes, 1 - p_yes), p_yes, valid > 0)


def vote_candidates(counts: Mapping[str, int], candidates: Sequence[str]) -> Choice:
    """Return the candidate that most sampled answers name, with its share of those that name any.

    `vote_yes_no` for any set of candidates: answers match once normalized, those that match none do not count, a tie
    goes to the candidate that stands first. Without any valid answer every candidate has the same probability.

    Args:
        counts: Sampled answer -> how often it was drawn.
        candidates: The answers on offer.

    Source:
        Wang et al. 2022, arXiv:2203.11171 (self-consistency): the share of the majority.

    Raises:
        ValueError: If there is no candidate, or two are the same once normalized.
    """
    votes = {normalize_answer(candidate): 0 for candidate in candidates}
    if not candidates or len(votes) < len(candidates):
        raise ValueError("candidates are missing or doubled")
    for text, count in counts.items():
        if (name := normalize_answer(text)) in votes:
            votes[name] += count
    valid = sum(votes.values())
    if not valid:
        return Choice(None, 1 / len(candidates), dict.fromkeys(candidates, 1 / len(candidates)))
    return _choose({candidate: votes[normalize_answer(candidate)] / valid for candidate in candidates})


def count_options(counts: Mapping[str, int], options: Sequence[Sequence[str]]) -> dict[str, int]:
    """Return how many sampled answers name each option by any of its forms; those that name none are left out.

    An option goes by the form that was drawn most, by its first where none was. Forms match once normalized; one that
    two options have counts for the first.

    Args:
        counts: Sampled answer -> how often it was drawn.
        options: The forms of each answer on offer.
    """
    drawn: dict[str, int] = {}
    for text, count in counts.items():
        drawn[normalize_answer(text)] = drawn.get(normalize_answer(text), 0) + count
    votes: dict[str, int] = {}
    known: set[str] = set()
    for forms in options:
        own = {normalize_answer(form): form for form in reversed(forms)}
        found = {form: drawn.get(name, 0) for name, form in reversed(own.items()) if name not in known}
        known |= set(own)
        if found:
            votes[max(found, key=found.__getitem__)] = sum(found.values())
    return votes


def weigh_candidates(logprobs: Mapping[str, float], num_tokens: Mapping[str, int] | None = None) -> Choice:
    """Return the likeliest candidate: the softmax of their log-probabilities as the answer.

    Args:
        logprobs: Candidate -> log-probability, in nats, summed over its tokens and the end token.
        num_tokens: Candidate -> its tokens: then the mean per token takes the place of the sum (Brown et al. 2020,
            arXiv:2005.14165, section 2.4), which does not favour short candidates.

    Raises:
        DataError: If a log-probability is no number, or all are minus infinity.
        ValueError: If there is no candidate.
    """
    if not logprobs:
        raise ValueError("there are no candidates")
    scores = {name: check_logprob(value, f"of candidate '{name}'") / (num_tokens[name] if num_tokens else 1)
              for name, value in logprobs.items()}
    highest = max(scores.values())
    if highest == -math.inf:
        raise DataError("No candidate has a probability above 0.", "Were they written in the model's alphabet?")
    weights = {name: math.exp(score - highest) for name, score in scores.items()}
    total = sum(weights.values())
    return _choose({name: weight / total for name, weight in weights.items()})


def _choose(probabilities: Mapping[str, float]) -> Choice:
    best = max(probabilities, key=probabilities.__getitem__)
    return Choice(best, probabilities[best], probabilities)


def measure_likelihood(logprob: float, num_tokens: int | None = None) -> float:
    """Return the probability of the answer's tokens, in 0-1; with `num_tokens` their geometric mean.

    Source:
        Malinin and Gales 2021, arXiv:2002.07650 (length normalization).

    Raises:
        DataError: If the log-probability is no number, or above 0.
        ValueError: If there are no tokens.
    """
    if num_tokens is not None and num_tokens < 1:
        raise ValueError("an answer has at least one token")
    return math.exp(check_logprob(logprob, "of an answer") / (num_tokens or 1))


def compare_true_false(logprob_true: float, logprob_false: float) -> float:
    """Return P(True): the probability of "True" against "False" as the reply to "is this answer right?".

    Source:
        Kadavath et al. 2022, arXiv:2207.05221. Differs: the two are normalized to sum to 1.

    Raises:
        DataError: If a log-probability is no number, or both are minus infinity.
    """
    return weigh_candidates({"True": logprob_true, "False": logprob_false}).probabilities["True"]


def check_logprob(value: float, what: str = "") -> float:
    """Return a log-probability, a rounding error above 0 taken as 0.

    Raises:
        DataError: If it is no number, or above 0.
    """
    if math.isnan(value) or value > 1e-4:
        raise DataError(f"The log-probability {what} is '{value}': it should be a number of at most 0.",
                        "Number formats overflow: try --dtype float32. Then sample or answer anew with --overwrite.")
    return min(value, 0.0)


_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_VALUE = re.compile(rf"(?<![\w.,/-]){_NUMBER}(?:\s*(%|per\s?cent\b)|\s*(?:/|\bout of\b)\s*{_NUMBER}(?!\s*[/%]))?"
                    r"(?!\w|[.,/-]\d|%|\s*(?:ci|confidence interval)\b)")
_NOUN = r"\b(?:confidence|certainty|probability|likelihood)\b"
_BEFORE = re.compile(rf"(?:{_NOUN}|\b(?:sure|certain|confident)\b)[^\d.,;!?]{{0,30}}$")
_AFTER = re.compile(rf"\s*(?:{_NOUN}|(?:sure|certain|confident)\b)")
_WORD = re.compile(rf"{_NOUN}(?:\s+level)?\**\s*(?:is|[:=])?\s*\**\s*"
                   r"(very high|very low|high|medium|moderate|low)\b(?!-)")
_LEVELS = {"very high": 0.95, "high": 0.8, "medium": 0.5, "moderate": 0.5, "low": 0.2, "very low": 0.05}


def parse_verbalized(text: str) -> float | None:
    """Return the confidence (0-1) that a text states, or None: the last well-formed statement counts.

    Well-formed are a percentage ("90%", "90 percent"), a fraction ("9/10", "9 out of 10"), a number from 0 to 1, and a
    word after "confidence" ("Confidence: high"): very high 0.95, high 0.8, medium 0.5, low 0.2, very low 0.05.
    What a text says about its confidence, certainty, probability or likelihood, or how sure it is, goes before any
    other number: "70% stenosis, confidence 0.9" states 0.9. Elsewhere a plain number counts only where it stands
    alone on its line, in brackets or in tags: "a lesion of 0.9 cm" states nothing. What lies outside 0-1 ("150%",
    "11/10", "90"), a range ("80-90%") and a number inside a word, a date or an interval's level do not count.

    Source:
        Tian et al. 2023, arXiv:2305.14975 (verbalized probabilities, and words). Differs: the words and their numbers
        are ours.
    """
    folded = re.sub(r"[^\S\n]+", " ", text.lower())
    found = [(True, match.start(), _LEVELS[match.group(1)]) for match in _WORD.finditer(folded)]
    for match in _VALUE.finditer(folded):
        value, is_stated = _read_number(match), _is_stated(match, folded)
        if value is not None and (is_stated or match.group(2) or match.group(3) or _stands_alone(match, folded)):
            found.append((is_stated, match.start(), value))
    return max(found)[2] if found else None


def _read_number(match: re.Match[str]) -> float | None:
    number, unit, whole = match.groups()
    scale = 100.0 if unit else float(whole) if whole else 1.0
    value = float(number) / scale if scale else math.inf
    return value if value <= 1 else None


def _is_stated(match: re.Match[str], text: str) -> bool:
    return bool(_BEFORE.search(text[:match.start()]) or _AFTER.match(text[match.end():]))


def _stands_alone(match: re.Match[str], text: str) -> bool:
    before, after = text[:match.start()].rstrip(" *"), text[match.end():].lstrip(" *.")
    return before[-1:] in ("", "\n", "(", "[", ">") and after[:1] in ("", "\n", ")", "]", "<")

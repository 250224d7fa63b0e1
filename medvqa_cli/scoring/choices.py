"""Multiple choice: which option an answer names, by its letter or its text."""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING

from medvqa_cli.scoring.profiles import normalize_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

_VERDICT = re.compile(r"\b(?:answer|option|choice)\b(?:\s+(?:is|would be)\b)?\s*:?\s*", re.IGNORECASE)
_MARKED = re.compile(r"\(?([A-Za-z])[).:\]]+\s*(.*)", re.DOTALL)
_ALONE = re.compile(r"[(\[]?([A-Za-z])[)\]]?[.:]?")


def read_choice(answer: str, options: Sequence[str]) -> int | None:
    """Return which option an answer names, counted from 0, or None if it names none or more than one.

    An option's own text counts first. Then a letter (A is the first option) that stands alone or is marked as one: "B",
    "(b)", "B.", "B) heart", "The answer is B". A letter followed by another option's text is a contradiction and
    names none; "A large mass" holds an article, no letter. Two options of the same text are not told apart.
    """
    texts = [normalize_answer(option) for option in options]
    for part in dict.fromkeys((answer, _VERDICT.split(answer)[-1])):
        found = _find_text(part, texts)
        if found is None:
            found = _find_letter(part.strip(), texts)
        if found is not None:
            return found
    return None


def _find_text(answer: str, texts: Sequence[str]) -> int | None:
    text = normalize_answer(answer)
    return texts.index(text) if texts.count(text) == 1 else None


def _find_letter(answer: str, texts: Sequence[str]) -> int | None:
    match = _ALONE.fullmatch(answer) or _MARKED.fullmatch(answer)
    if match is None:
        return None
    place = string.ascii_lowercase.index(match[1].lower())
    if place >= len(texts):
        return None
    named = _find_text(match[2], texts) if match.re is _MARKED else None
    return None if named not in (None, place) else place


def is_choice_correct(answer: str, gold: str, options: Sequence[str]) -> bool | None:
    """Return whether an answer names the option that the gold answer names; None if the gold answer names none."""
    wanted = read_choice(gold, options)
    return None if wanted is None else read_choice(answer, options) == wanted

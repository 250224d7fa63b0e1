"""Answers that fit every question: they name the picture, or decline."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from medvqa_cli.scoring.profiles import normalize_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

FREQUENT = 10
"""So many of the most frequent training answers are looked for among the answers."""
PICTURE_WORDS = frozenset({"image", "medical image", "photo", "photograph", "picture", "scan", "x-ray", "xray"})
_ARTICLE = re.compile(r"^(?:(?:a|an|the|this|it|is)\s+)+")
_DECLINES = re.compile(
    r"(?:unknown|unsure|unclear|unanswerable|not (?:sure|certain|known|applicable|clear)|n/?a"
    r"|(?:i am|i['\u2019]?m) (?:not sure|unsure|unable|sorry)\b.*|(?:i )?(?:do not|don['\u2019]?t) know\b.*"
    r"|(?:i )?(?:cannot|can not|can['\u2019]?t|unable to|impossible to) (?:be )?"
    r"(?:tell|told|say|determined?|answer(?:ed)?|identif(?:y|ied))\b.*|no idea|sorry\b.*)")


def is_generic(answer: str, golds: Sequence[str] = ()) -> bool:
    """Return whether an answer only names the picture, or declines, where the question does not ask for that.

    An answer that is a gold answer ("X-Ray" to the question for the modality) is not generic; neither is an empty one.
    """
    text = normalize_answer(answer)
    if text in {normalize_answer(gold) for gold in golds}:
        return False
    return _ARTICLE.sub("", text) in PICTURE_WORDS or _DECLINES.fullmatch(text) is not None

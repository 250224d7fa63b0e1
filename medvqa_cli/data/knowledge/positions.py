"""Which of a picture's boxes a question points at: "the organ on the upper left", "the main organ"."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from medvqa_cli.records import Box

SIDES = {
    "x": (re.compile("left|左", re.IGNORECASE), re.compile("right|右", re.IGNORECASE)),
    "y": (re.compile(r"\b(?:top|upper)|上|顶", re.IGNORECASE), re.compile(r"\b(?:bottom|lower)|下|底", re.IGNORECASE)),
}
_CENTRE = re.compile(r"\bcent(?:er|re)|\bmiddle|中心(?!脏)|中央", re.IGNORECASE)
_LARGEST = re.compile(r"\b(?:main|most severe|largest|biggest)\b|主要|最大|最严重", re.IGNORECASE)


def rank_labels(boxes: Sequence[Box], question: str) -> list[str]:
    """Return the labels of the boxes, best first: those nearest to where the question says the thing is.

    Left and right, upper and lower are those of the picture as it is shown. The centre is that of all boxes together.
    Without such a word, and among equals, the order of the boxes stays.
    """
    rate = _choose_rating(boxes, question)
    best: dict[str, float] = {}
    for box in boxes:
        best[box.label] = max(rate(box), best.get(box.label, -math.inf))
    return sorted(best, key=lambda label: -best[label])


def _choose_rating(boxes: Sequence[Box], question: str) -> Callable[[Box], float]:
    across, down = (_find_direction(question, axis) for axis in "xy")
    if across or down:
        return lambda box: across * (box.x1 + box.x2) + down * (box.y1 + box.y2)
    if _LARGEST.search(question):
        return lambda box: (box.x2 - box.x1) * (box.y2 - box.y1)
    if _CENTRE.search(question) and boxes:
        x, y = ((min(low) + max(high)) / 2 for low, high in (
            ([box.x1 for box in boxes], [box.x2 for box in boxes]),
            ([box.y1 for box in boxes], [box.y2 for box in boxes])))
        return lambda box: -math.hypot((box.x1 + box.x2) / 2 - x, (box.y1 + box.y2) / 2 - y)
    return lambda _box: 0.0


def _find_direction(question: str, axis: str) -> int:
    """Return -1 for left or upper, 1 for right or lower, 0 for neither or both."""
    less, more = (bool(side.search(question)) for side in SIDES[axis])
    return more - less

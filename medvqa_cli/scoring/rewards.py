"""Rewards of reinforcement learning: numbers that can be verified, from strings, by the rules that evaluation uses.

What is trained must be what is reported, so right and wrong are decided by `scoring.answers` and `scoring.choices`.
Each rule also has to hold against a model that looks for holes in it: naming every option, stuffing words, empty
thoughts and boxes by the dozen earn nothing.
"""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING

from medvqa_cli.scoring.answers import is_closed_correct, match_exactly, score_tokens
from medvqa_cli.scoring.assignment import assign_most
from medvqa_cli.scoring.choices import is_choice_correct, read_choice
from medvqa_cli.scoring.confidence import parse_verbalized
from medvqa_cli.scoring.profiles import normalize_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.records import Box

Corners = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the source image; x2 and y2 exclusive."""

_THINK = re.compile(r"\s*<think>(?P<thought>.*?)</think>\s*(?:<confidence>[^<]*</confidence>\s*)?"
                    r"<answer>(?P<answer>.*?)</answer>\s*(?:<confidence>[^<]*</confidence>\s*)?",
                    re.IGNORECASE | re.DOTALL)
_BARE = re.compile(r"\s*<answer>(?P<answer>.*?)</answer>\s*(?:<confidence>[^<]*</confidence>\s*)?",
                   re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)
_WORDS = re.compile(r"[^\W_]+")
_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_BOX = re.compile(rf"[\[(]{','.join([_NUMBER] * 4)}[\])]")


def is_right(answer: str, gold: str, alternatives: Sequence[str] = (), *, is_closed: bool) -> bool:
    """Return whether an answer is right, as `medvqa eval answers` counts it: closed accuracy, or exact match."""
    return (is_closed_correct(answer, gold, alternatives) if is_closed
            else match_exactly(answer, (gold, *alternatives)))


def list_named(text: str, options: Sequence[str]) -> set[int]:
    """Return the options that a text names by their words or by a capital letter of their own, counted from 0.

    An option inside a longer one that is named too ("lung" in "left lung") does not count by itself.
    """
    folded = _fold(text)
    words = {place: _fold(option) for place, option in enumerate(options)}
    found = {place for place, wanted in words.items() if wanted.strip() and wanted in folded}
    inner = {place for place in found for other in found if place != other and len(words[place]) < len(words[other])
             and words[place] in words[other] and folded.count(words[place]) <= folded.count(words[other])}
    letters = {string.ascii_uppercase.index(letter) for letter in re.findall(r"(?<![\w'-])[A-Z](?![\w'-])", text)}
    return (found - inner) | {place for place in letters if place < len(options)}


def _fold(text: str) -> str:
    """Return the words of a text in lower case with a blank around each."""
    return f" {' '.join(_WORDS.findall(text.casefold()))} "


def rate_choice(answer: str, gold: str, options: Sequence[str]) -> float | None:
    """Return 1.0 for the right option and nothing else, 0.5 for it among other words, else 0.0.

    The right option is its letter, its text, or both. Naming a second option earns nothing. None where the gold answer
    is none of the options.

    Source:
        The graded form of MedVLM-R1's reward (Pan et al. 2025, arXiv:2502.19634). Differs: an option's text counts too.
    """
    if is_choice_correct(answer, gold, options) is None:
        return None
    wanted = read_choice(gold, options)
    named = read_choice(answer, options)
    if named is None:
        return 0.5 if list_named(answer, options) == {wanted} else 0.0
    if named != wanted:
        return 0.0
    return 1.0 if _is_bare(answer, string.ascii_uppercase[wanted: wanted + 1], options[wanted]) else 0.5


def _is_bare(answer: str, letter: str, option: str) -> bool:
    text = normalize_answer(option)
    mark = re.match(rf"\W*{letter}\b\W*", answer, re.IGNORECASE) if letter else None
    return normalize_answer(answer) == text or (mark is not None
                                                and normalize_answer(answer[mark.end():]) in {"", text})


def rate_overlap(answer: str, gold: str, alternatives: Sequence[str] = (), options: Sequence[str] = ()) -> float:
    """Return the token F1 with the gold answer it fits best, in 0-1 (see `scoring.answers.score_tokens`).

    An answer that names two or more options, where the gold answer names fewer, gets 0: half the words of "left right"
    would else be worth more than a guess.
    """
    named = list_named(answer, options)
    if len(named) > 1 and not named <= list_named(gold, options):
        return 0.0
    return score_tokens(answer, (gold, *alternatives)).f1


def rate_form(text: str) -> float:
    """Return 1.0 for exactly one thought and one answer, `<think>...</think><answer>...</answer>`, both with words.

    0.5 for one answer element and nothing else. 0.0 for anything else: an empty thought, a second answer, text
    outside of the elements. A `<confidence>` element may stand before or behind the answer.

    Source:
        Med-R1 (Lai et al. 2025, arXiv:2503.13939) and MedVLM-R1 (arXiv:2502.19634). Differs: an empty thought, or tags
        that occur more often than once, earn nothing.
    """
    match = _THINK.fullmatch(text) or _BARE.fullmatch(text)
    if not match or any(_TAG.search(part) or not re.search(r"\w", part) for part in match.groupdict().values()):
        return 0.0
    return 1.0 if "thought" in match.groupdict() else 0.5


def rate_length(num_tokens: int, most: int, *, is_ended: bool) -> float:
    """Return 0 for a completion in the first three quarters of the tokens allowed, falling to -1 at the last one.

    Args:
        num_tokens: Its tokens.
        most: Tokens allowed.
        is_ended: Whether the model ended it; one that was cut off gets -1.

    Source:
        Soft overlong punishment of DAPO (Yu et al. 2025, arXiv:2503.14476, equation 13), its cache a quarter of `most`.
    """
    margin = max(1, most // 4)
    return -1.0 if not is_ended else max(-1.0, min(0.0, (most - margin - num_tokens) / margin))


def read_boxes(text: str) -> list[Corners]:
    """Return every well-formed box "[x1, y1, x2, y2]" of a text, whose corners are in this order, in its order."""
    boxes = [tuple(map(float, match.groups())) for match in _BOX.finditer(text)]
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in boxes if x1 < x2 and y1 < y2]


def find_iou(first: Corners, second: Corners) -> float:
    """Return the intersection of two boxes over their union, in 0-1."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (first, second))
    return width * height / (areas - width * height)


def rate_boxes(found: Sequence[Corners], wanted: Sequence[Box]) -> float | None:
    """Return the IoU of boxes matched one to one so that it is largest, summed, over the larger number of boxes.

    So a box too many costs as much as a missing one. None where no box is wanted.

    Source:
        The matching is that of DETR (Carion et al. 2020, arXiv:2005.12872), by IoU alone.
    """
    if not wanted:
        return None
    golds: list[Corners] = [(box.x1, box.y1, box.x2, box.y2) for box in wanted]
    overlaps = [[find_iou(box, gold) for gold in golds] for box in found]
    return assign_most(overlaps) / max(len(found), len(golds))


def rate_calibration(text: str, *, is_correct: bool) -> float:
    """Return correct - (q - correct)^2, in -1 to 1, where q in 0-1 is the confidence that the text states last.

    q is read as `medvqa eval calibration --method verbalized` reads it. A text that states none is treated as the
    worst: q = 1 - correct.

    Source:
        RLCR (Damani et al. 2025, arXiv:2507.16806): correctness minus the Brier score of the confidence.
    """
    stated = parse_verbalized(text)
    correct = float(is_correct)
    q = 1.0 - correct if stated is None else stated
    return correct - (q - correct) ** 2

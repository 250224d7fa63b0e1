"""Rows by which samples are exchanged with other programs: dialogues, the marks in them, and fields given back.

The reader of conversations and the export that writes them both follow what is stated here.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.files.fields import is_unicode, quote
from medvqa_cli.data.prepared.rows import MAPPINGS
from medvqa_cli.records import VQASample

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import TypeAdapter

    from medvqa_cli.data.files.fields import Row

FIELDS = frozenset(spec.name for spec in dataclasses.fields(VQASample))
MARK = "<image>"
OWN_KEY = "medvqa"
"""Key of a row under which our own export keeps the fields of a sample that a conversation has no place for."""
MARKED_KEY = "marked_question"
"""Key of a sample's extra that holds the question with its marks, where they stand inside the text."""
TURN_KEYS = ("conversations", "message")
"""Where LLaVA and UniMedVL keep the turns."""
MARK_HINT = (f"Put one {MARK} for each picture into the text, in the order of the pictures: into human turns for input "
             "pictures, into gpt turns for output pictures.")
CHANGED = "The file was changed after its export, or made by another version of medvqa."
ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "system": "system"}


@dataclass(frozen=True, slots=True)
class Dialogue:
    """The turns of one row.

    Attributes:
        system: Text of the system turn; empty if there is none.
        marked: The questions with their marks.
        pairs: The (question, answer) pairs without marks.
        shown: Number of input pictures before each question, and at last that of all.
        drawn: Number of output pictures before each answer, and at last that of all.
    """

    system: str
    marked: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    shown: tuple[int, ...]
    drawn: tuple[int, ...]

    def has_marks_inside(self, number: int) -> bool:
        """Tell whether a question has marks elsewhere than at the start or the end of the first question."""
        pieces = [piece for piece in self.marked[number].split(MARK) if piece.strip()]
        return MARK in self.marked[number] and (number > 0 or len(pieces) > 1)


def read_dialogue(row: Row, num_inputs: int, num_outputs: int) -> Dialogue:
    """Return the turns of a row that has so many input and output pictures.

    Raises:
        DataError: If the turns are missing, empty or of the wrong kind, human and gpt do not take turns, or the marks
            in the questions or the answers are not as many as the pictures.
    """
    system, texts = _read_texts(row)
    questions, answers = texts[::2], texts[1::2]
    shown = _sum_marks(row, questions, num_inputs, "questions", "input picture")
    drawn = _sum_marks(row, answers, num_outputs, "answers", "output picture")
    return Dialogue(system, tuple(questions),
                    tuple((remove_marks(question), remove_marks(answer))
                          for question, answer in zip(questions, answers, strict=True)), shown, drawn)


def remove_marks(text: str) -> str:
    """Return a text without its image marks and the white space around them; one blank where one stood inside."""
    return " ".join(part for piece in text.split(MARK) if (part := piece.strip()))


def restore_sample(row: Row, values: Mapping[str, Any], place: str = "") -> VQASample:
    """Return a sample of plain JSON values, each checked for its kind.

    Args:
        row: Where they come from.
        values: Fields of a sample; those with a default may be missing.
        place: Key of the row under which they stand, for an error.

    Raises:
        DataError: If a field is unknown, missing or of the wrong kind; file, row and field are named.
    """
    from pydantic import ValidationError

    prefix = f"{place}." if place else ""
    if unknown := [key for key in values if key not in FIELDS]:
        raise row.error(f"{quote(f'{prefix}{unknown[0]}')} is no field of a sample", CHANGED)
    try:
        sample = _make_checker().validate_python(dict(values))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        name = quote(prefix + ".".join(map(str, fault["loc"])))
        raise row.error(f"{name} is {quote(fault['input'])}: {fault['msg'].lower()}",
                        CHANGED) from error
    for key in MAPPINGS:
        try:
            json.dumps(getattr(sample, key), ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:  # half a character, NaN, thousands of nested lists
            raise row.error(f"'{prefix}{key}' cannot be kept as JSON: {error}") from error
    return sample


@functools.cache
def _make_checker() -> TypeAdapter[VQASample]:
    from pydantic import TypeAdapter

    return TypeAdapter(VQASample)


def _read_texts(row: Row) -> tuple[str, list[str]]:
    """Return the system text, and the other texts: questions and answers by turns."""
    key = next((key for key in TURN_KEYS if key in row.values), "")
    if not key:
        raise row.error("neither 'conversations' (LLaVA) nor 'message' (UniMedVL) is there",
                        f"The keys found are: {quote(list(row.values))}.")
    turns = row.value(key)
    if not isinstance(turns, list) or not turns:
        raise row.wrong(key, "a list of turns")
    read = [_read_turn(row, key, number, turn) for number, turn in enumerate(turns, start=1)]
    start = 1 if read[0][0] == "system" else 0
    if start and MARK in read[0][1]:
        raise row.error(f"the system turn in '{key}' has an {MARK} mark", MARK_HINT)
    for number, (role, _) in enumerate(read[start:]):
        expected = ("human", "gpt")[number % 2]
        if role != expected:
            raise row.error(f"turn {start + number + 1} in '{key}' is from {role}, where {expected} should speak")
    if len(read) == start or (len(read) - start) % 2:
        raise row.error(f"'{key}' ends without an answer")
    return read[0][1].strip() if start else "", [text for _, text in read[start:]]


def _read_turn(row: Row, key: str, number: int, turn: Any) -> tuple[str, str]:
    role, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
    if isinstance(text, int) and not isinstance(text, bool):
        text = str(text)
    if not isinstance(role, str) or role.lower() not in ROLES or not isinstance(text, str):
        raise row.error(f"turn {number} in '{key}' should have a 'from' (human, gpt or system) and a text as 'value', "
                        f"but is {quote(turn)}")
    if not is_unicode(text):
        raise row.error(f"turn {number} in '{key}' should be valid Unicode, but is {quote(text)}")
    return ROLES[role.lower()], text


def _sum_marks(row: Row, texts: list[str], expected: int, where: str, what: str) -> tuple[int, ...]:
    sums = tuple(itertools.accumulate((text.count(MARK) for text in texts), initial=0))
    if sums[-1] != expected:
        raise row.error(f"the {where} have {_count(sums[-1], MARK + ' mark')}, but the row has "
                        f"{_count(expected, what)}", MARK_HINT)
    return sums


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"

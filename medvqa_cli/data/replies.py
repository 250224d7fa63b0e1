"""What a model wrote to the answer it gave, by the form that the prompt asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from medvqa_cli.data.prompts import choose_style, letter_options
from medvqa_cli.scoring.answers import normalize_answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.data import PromptSettings, PromptStyle

_VERDICT = re.compile(r"\banswer is:?\s*\(", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\)(?=\.(?:\s|$)|\s*$)")
_ELEMENT = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
_THOUGHT_END = re.compile(r"</think>", re.IGNORECASE)
_THOUGHT = re.compile(r"<think>", re.IGNORECASE)
_CUE = re.compile(r"\s*answer:", re.IGNORECASE)
_NEXT_QUESTION = re.compile(r"\n\s*question:", re.IGNORECASE)
_CONFIDENCE = re.compile(r"<confidence>[^<]*</confidence>", re.IGNORECASE)
_LETTER = re.compile(r"(?:the\s+)?(?:option\s+)?\(?([a-z])(?:[).:]+\s*(.*))?", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it is scored, and whether it stood in the form that was asked for."""

    answer: str
    is_well_formed: bool


def read_reply(text: str, sample: VQASample, prompt: PromptSettings) -> Reply:
    """Return the answer that a model gave to a sample's question.

    Where nothing stands in the form asked for, the whole text is the answer. Where the prompt lettered the options, a
    letter ("B", "(B)", "B) heart") becomes the option's text, unless the reply is itself an option's text. What stands
    in <confidence> elements is no part of an answer.
    """
    text = _CONFIDENCE.sub("", text)
    found = extract_answer(text, choose_style(sample, prompt))
    answer = text.strip() if found is None else found
    return Reply(_read_letter(answer, letter_options(sample, prompt)), found is not None)


def extract_answer(text: str, style: PromptStyle) -> str | None:
    """Return the last well-formed answer in a text, without white space around it, or None if there is none.

    plain: the text. short, minimal: the text without a leading "Answer:" and without a further "Question:" that a
    model goes on to ask itself. chain_of_thought: X of the last "The answer is (X)", which ends where the parenthesis
    closes; an X with closing parentheses of its own ("1) left 2) right") ends with the sentence. think: the last
    <answer> element outside of <think>; in a thought that does not end nothing counts.
    """
    if style == "chain_of_thought":
        return _read_verdict(text)
    if style == "think":
        return _read_element(text)
    if style == "plain":
        return text.strip()
    return _NEXT_QUESTION.split(_CUE.sub("", text, count=1) if _CUE.match(text) else text)[0].strip()


def _read_verdict(text: str) -> str | None:
    said = _VERDICT.split(text)
    if len(said) == 1:
        return None
    rest = said[-1]
    closing = _find_closing(rest)
    ends = [match.start() for match in _SENTENCE_END.finditer(rest)]
    if closing not in ends and ends and rest[: ends[-1]].count(")") > rest[: ends[-1]].count("("):
        closing = ends[-1]
    return rest[:closing].strip() or None if closing is not None else None


def _find_closing(text: str) -> int | None:
    """Return where a parenthesis closes that was opened just before the text, if it does."""
    depths = accumulate((character == "(") - (character == ")") for character in text)
    return next((index for index, depth in enumerate(depths) if depth < 0), None)


def _read_element(text: str) -> str | None:
    thought = _THOUGHT_END.split(text)
    said = thought[-1] if len(thought) > 1 else _THOUGHT.split(text)[0]
    found = [answer.strip() for answer in _ELEMENT.findall(said)]
    return (found[-1] or None) if found else None


def _read_letter(answer: str, lettered: Mapping[str, str]) -> str:
    if not lettered or normalize_answer(answer) in map(normalize_answer, lettered.values()):
        return answer
    match = _LETTER.fullmatch(answer.strip())
    option = lettered.get(match[1].upper(), "") if match else ""
    rest = normalize_answer(match[2] or "") if match else ""
    return option if option and rest in ("", normalize_answer(option)) else answer

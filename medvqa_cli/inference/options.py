"""The options that an English question names: "liver or heart?", "CT/MRI", "solid vs. cystic", "A) left B) right".

Everything is read off the words. An option may be meant in more than one way: in "the left or right kidney" the first
is "left" and, with the head that both share, "left kidney". All such forms are returned, the shortest first.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

_AUXILIARIES = "is are was were am be does do did doe has have had can could will would shall should may might must"
_ASKING = "what which where when who whom whose how why"
_PREPOSITIONS = "in on at of to from for with by than about under over through into as between among"
_OTHERS = ("and this that these those there here it its image images picture patient patients more most appear appears "
           "seem seems seen shown located found present used taken highlighted deviated suspect expect")
AUXILIARIES = frozenset(_AUXILIARIES.split())
ASKING = frozenset(_ASKING.split())
ARTICLES = frozenset(("a", "an", "the"))
PREPOSITIONS = frozenset(_PREPOSITIONS.split())
_LINKS = ARTICLES | PREPOSITIONS | AUXILIARIES | ASKING | frozenset(_OTHERS.split())
"""Words at which a phrase ends: neither the last word of the option before "or" nor a later word of that after it."""
_LINKS_AFTER = _LINKS - {"more", "most"}

_LETTERED = re.compile(r"(?:^|(?<=[\s(,;:?]))\(?([A-Z])[).:]\s+")
_MARK = re.compile(r"\s*,?\s+(?:or|vs\.?|versus)\s+(?:else\s+|just\s+)?", re.IGNORECASE)
_SLASH_AT_END = re.compile(r"\b([\w-]+(?:\s*/\s*[\w-]+)+)\W*$")
_OR_NOT = re.compile(r"\s+or\s+not\b", re.IGNORECASE)
_BRACKETS = re.compile(r"\([^()]*\)")
_CLAUSE = re.compile(r"\s*[,:;]\s*")
_EXISTS = re.compile(r"\b(?:(?:is|are)\s+there|any|evidence)\b|^\W*(?:can|could)\b", re.IGNORECASE)
_NON = re.compile(r"\bnon\s+(?=\w)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Named:
    """The options a question names, each by the forms it may be meant in; `may_be_denied` if yes or no fits too."""

    options: tuple[tuple[str, ...], ...] = ()
    may_be_denied: bool = False


def find_options(question: str) -> Named:
    """Return the options that an English question names, at least two, or none."""
    text = _NON.sub("non-", " ".join(question.split()))
    if lettered := _find_lettered(text):
        return Named(tuple((option,) for option in lettered))
    text = _OR_NOT.sub("", _BRACKETS.sub(" ", text)).rstrip(" ?.!:")
    pieces = _MARK.split(text)
    if len(pieces) == 1:
        return _find_slashed(text)
    if pieces[0].endswith("-"):  # "hypo- or hyperdense areas": one noun, no choice
        return Named()
    phrases = _list_phrases(pieces)
    is_open = starts_with(text, AUXILIARIES) and bool(_EXISTS.search(pieces[0]))
    return Named(tuple(phrases) if len(phrases) > 1 else (), is_open or starts_with(text, {"any"}))


def is_yes_no_question(question: str) -> bool:
    """Return whether a question that names no options asks for yes or no.

    It begins with an auxiliary verb ("Is", also "Is/Are"), or it does so after a comma, or no question word stands in
    it ("Any fracture?", "Notice anything abnormal?").
    """
    clauses = _CLAUSE.split(question)
    return any(starts_with(clause, AUXILIARIES) for clause in clauses) or not _asks_openly(question)


def starts_with(text: str, words: frozenset[str] | set[str]) -> bool:
    """Return whether the first word of a text, read up to a slash, is one of some."""
    found = re.match(r"\W*(\w+)", text.lower())
    return bool(found and found[1] in words)


def _find_lettered(text: str) -> list[str]:
    """Return the texts after A), B)... if the letters stand in their order; the last one ends with the question."""
    marks = list(_LETTERED.finditer(text))
    if len(marks) < 2 or [mark[1] for mark in marks] != list(string.ascii_uppercase[: len(marks)]):
        return []
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    return [text[mark.end():end].strip(" ,;?.") for mark, end in zip(marks, ends, strict=True)]


def _find_slashed(text: str) -> Named:
    """Return words with slashes between them that end a question; elsewhere a slash joins words into a name."""
    found = _SLASH_AT_END.search(text)
    if not found or _words(found[1].lower())[0] in AUXILIARIES:
        return Named()
    return Named(tuple((part.strip(),) for part in found[1].split("/")))


def _list_phrases(pieces: list[str]) -> list[tuple[str, ...]]:
    """Return the forms of each option of a question split at its or's."""
    before, last = _CLAUSE.split(pieces[0]), _words(_CLAUSE.split(pieces[-1])[0])
    lead = next((n for n in reversed(range(len(before))) if _asks(before[n])), 0)
    middle = [_words(part) for piece in pieces[1:-1] for part in _CLAUSE.split(piece)]
    listed = [_words(part) for part in before[lead + 1:]] + middle
    is_list = len(before) > lead + 1 and not starts_with(before[lead], AUXILIARIES)
    with_preposition = bool(last) and last[0].lower() in PREPOSITIONS | {"without", "within"}
    first = [] if is_list else [_cut_before(_words(before[lead]), keep_preposition=with_preposition)]
    phrases = [*first, *(_cut_after(words) for words in listed), _cut_after(last)]
    return _write_forms([phrase for phrase in phrases if phrase])


def _asks(clause: str) -> bool:
    return starts_with(clause, AUXILIARIES) or _asks_openly(clause)


def _asks_openly(text: str) -> bool:
    return bool(ASKING & set(re.findall(r"\w+", text.lower())))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\s,;:/]+", text)


def _cut_before(words: list[str], *, keep_preposition: bool = False) -> list[str]:
    """Return the phrase that ends a clause: "Is the lesion in the left" -> "left".

    A preposition that ends the clause is the phrase ("with or without contrast"); with `keep_preposition`, the one
    before the phrase is part of it ("with contrast or without contrast").
    """
    if words and words[-1].lower() in PREPOSITIONS:
        return words[-1:]
    start = len(words) - 1
    while start > 0 and not _is_link(words[start - 1], _LINKS):
        start -= 1
    if keep_preposition and start > 0 and words[start - 1].lower() in PREPOSITIONS:
        start -= 1
    return words[max(start, 0):]


def _cut_after(words: list[str]) -> list[str]:
    """Return the phrase that begins a clause, without its article: "the right side of it" -> "right side"."""
    start = next((n for n, word in enumerate(words) if word.lower() not in ARTICLES), len(words))
    end = next((n for n in range(start + 1, len(words)) if _is_link(words[n], _LINKS_AFTER)), len(words))
    return words[start:end]


def _is_link(word: str, links: frozenset[str]) -> bool:
    return word.lower() in links or word.lower().endswith(("'s", "\u2019s"))


def _write_forms(phrases: list[list[str]]) -> list[tuple[str, ...]]:
    """Return each phrase as it stands, the first cut to the length of a later one, and with the head of the last."""
    last = phrases[-1]
    longest = max(map(len, phrases[1:]), default=0)
    forms = [_unique(_read_forms(phrase, last)) for phrase in phrases[:-1]]
    if len(phrases) > 1:
        forms[0] = _unique([" ".join(phrases[0][-longest:]), *forms[0]])
    heads = {len(phrase) for phrase in phrases[:-1] if len(phrase) < len(last) and phrase[-1] != last[-1]}
    return [*forms, _unique([" ".join(last[:length]) for length in sorted(heads)] + [" ".join(last)])]


def _read_forms(phrase: list[str], last: list[str]) -> list[str]:
    shares = len(phrase) < len(last) and phrase[-1] != last[-1]
    return [" ".join(phrase), *([" ".join([*phrase, *last[len(phrase):]])] if shares else [])]


def _unique(forms: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(forms))

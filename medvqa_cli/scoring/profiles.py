"""How a text is made comparable: named profiles of normalization; every metric's key ends with the one it used.

`medvqa` (ours), in this order: Unicode NFKC, lower case, white space collapsed, punctuation stripped from both ends of
the text. Punctuation is ASCII's, without the signs `+ < > %`, which carry meaning (">5 cm" is not "<5 cm"), and that of
`_TYPOGRAPHIC`. A text of nothing but punctuation stays as it is: "-" is not "+", and neither is empty.
"""

from __future__ import annotations

import re
import string
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medvqa_cli.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

# Quotes, dashes, bullets, Spanish marks; then the comma, full stop and brackets of Chinese and Japanese.
_TYPOGRAPHIC = ("\u2018\u2019\u201a\u201c\u201d\u201e\u2039\u203a\xab\xbb\u2010\u2011\u2012\u2013\u2014\u2015"
                "\u2022\xb7\xa1\xbf\u3001\u3002\u3008\u3009\u300a\u300b\u300c\u300d\u300e\u300f\u3010\u3011")
EDGES = "".join(sorted(set(string.punctuation) - set("+<>%"))) + string.whitespace + _TYPOGRAPHIC

_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {word: str(number) for number, word in enumerate(
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"))} | {"none": "0"}
_VQA_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
    he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't
    not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
    would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
_RESTORED = {word[:place] + word[place + 1:]: word
             for word in _CONTRACTIONS.split() for place, character in enumerate(word) if character == "'"}

_SQUAD_ARTICLES = re.compile(r"\b(a|an|the)\b")
_SQUAD_MARKS = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, slots=True)
class Profile:
    """A way to make texts comparable.

    `normalize` gives the text that exact match compares; `split` the words that overlaps are counted over.
    """

    name: str
    rule: str
    normalize: Callable[[str], str]
    split: Callable[[str], list[str]]


def normalize_answer(text: str) -> str:
    """Return a text in the profile `medvqa`: NFKC, lower case, single blanks, no punctuation at either end."""
    folded = " ".join(unicodedata.normalize("NFKC", text).lower().split())
    return folded.strip(EDGES) or folded


def _split_answer(text: str) -> list[str]:
    return [token for token in (word.strip(EDGES) for word in normalize_answer(text).split()) if token]


def normalize_vqa(text: str) -> str:
    """Return a text as the VQA challenge and LLaVA-Med compare it.

    A mark that stands beside a blank somewhere in the text is deleted, any other becomes a blank; all are deleted if
    the text has a comma between digits. Full stops go unless a digit follows. Then lower case, number words to digits
    ("none" is 0), articles dropped, apostrophes put back into contractions.

    Source:
        Antol et al. 2015, arXiv:1505.00468, section 5, and the challenge's evaluation code (v2); LLaVA-Med 1.0 uses a
        copy of it. Differs: every full stop counts, there only the first 32 do.
    """
    found = " ".join(text.split("\n"))
    has_number = _DIGIT_COMMA.search(found) is not None
    marked = found
    for mark in _VQA_MARKS:
        is_loose = has_number or f"{mark} " in found or f" {mark}" in found
        marked = marked.replace(mark, "" if is_loose else " ")
    words = (_NUMBERS.get(word, word) for word in _FULL_STOP.sub("", marked).lower().split())
    return " ".join(_RESTORED.get(word, word) for word in words if word not in _ARTICLES)


def normalize_squad(text: str) -> str:
    """Return a text as SQuAD 1.1 compares it: lower case, no ASCII punctuation, no articles, single blanks.

    Source:
        Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1, and its evaluation code.
    """
    return " ".join(_SQUAD_ARTICLES.sub(" ", text.lower().translate(_SQUAD_MARKS)).split())


MEDVQA = Profile("medvqa", "NFKC, lower case, punctuation stripped from both ends (signs + < > % kept)",
                 normalize_answer, _split_answer)
VQA = Profile("vqa", "VQA challenge: punctuation removed, number words to digits, articles dropped, contractions "
              "restored", normalize_vqa, lambda text: normalize_vqa(text).split())
LLAVA_MED = Profile("llava-med", "LLaVA-Med 1.0: the VQA challenge's rules", normalize_vqa,
                    lambda text: normalize_vqa(text).split())
SQUAD = Profile("squad", "SQuAD 1.1: lower case, ASCII punctuation removed, articles dropped", normalize_squad,
                lambda text: normalize_squad(text).split())
PROFILES = {profile.name: profile for profile in (MEDVQA, VQA, LLAVA_MED, SQUAD)}


def find_profile(name: str) -> Profile:
    """Return a profile by name.

    Raises:
        SettingsError: If there is none of that name.
    """
    if name not in PROFILES:
        raise SettingsError(f"There is no text profile '{name}'.", f"Choose one of: {', '.join(PROFILES)}.")
    return PROFILES[name]


def name_key(metric: str, profile: str) -> str:
    """Return the key of a metric under a profile, such as "token_f1@squad"."""
    return f"{metric}@{profile}"

"""Which candidates a closed question offers: from its text and a vocabulary of training answers, never from its gold.

The routes of `auto`, in order: the options it names (or the data set lists), yes or no, the vocabulary. An option may
have several forms ("left", "left kidney"); the best one stands for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from medvqa_cli.inference import chinese, options
from medvqa_cli.scoring.answers import normalize_answer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medvqa_cli.inference.vocabulary import Vocabulary
    from medvqa_cli.records import VQASample

Mode = Literal["auto", "yesno", "options", "vocab"]
Route = Literal["yesno", "options", "vocab", "none"]
MAX_CANDIDATES = 6
"""On the routes yesno and options, all forms counted; a question with more options offers one form of each."""
MAX_VOCABULARY = 50
_YES_NO = {"yes", "no"}
_CHINESE_YES_NO = {form for sides in chinese.POLAR.values() for side in sides for form in side} - {"没有"}
_FILLERS = options.ARTICLES | options.PREPOSITIONS - {"with"}


@dataclass(frozen=True, slots=True)
class Offer:
    """What a closed question offers: each option by one or more forms; nothing on the route none."""

    route: Route
    options: tuple[tuple[str, ...], ...] = ()

    @property
    def candidates(self) -> tuple[str, ...]:
        """All forms of all options."""
        return tuple(form for option in self.options for form in option)


class CandidateRouter:
    """Routes closed questions.

    Args:
        vocabulary: Closed answers of the training split.
        mode: `auto` takes the first route that fits; `yesno` offers yes and no, `options` what the question names
            (nothing where it names none), `vocab` the vocabulary, whatever the question is.
    """

    def __init__(self, vocabulary: Vocabulary, mode: Mode = "auto") -> None:
        self.vocabulary = vocabulary
        self.mode = mode
        self._spellings: dict[str, dict[str, str]] = {}

    def route(self, sample: VQASample) -> Offer:
        """Return what a question offers. Of the sample, its question, options and language are read, nothing else."""
        question, language = " ".join(sample.question.split()), sample.language
        if self.mode == "yesno":
            return Offer("yesno", self._list_yes_no(question, language))
        if self.mode == "vocab":
            return self._offer_vocabulary(question, language, every=True)
        offer = self._offer_options(question, language, sample.options)
        if offer.route != "none" or self.mode == "options":
            return offer
        if (chinese if _is_chinese(question) else options).is_yes_no_question(question):
            return Offer("yesno", self._list_yes_no(question, language))
        return self._offer_vocabulary(question, language, every=False)

    def _offer_options(self, question: str, language: str, listed: Sequence[str]) -> Offer:
        if len(set(listed)) > 1:
            is_yes_no = {normalize_answer(option) for option in listed} == _YES_NO
            return Offer("yesno" if is_yes_no else "options", tuple((option,) for option in dict.fromkeys(listed)))
        if _is_chinese(question):
            named = options.Named(chinese.find_options(question))
        else:
            named = options.find_options(question)
        if not named.options:
            return Offer("none")
        if {normalize_answer(option[0]) for option in named.options} == _YES_NO:
            return Offer("yesno", self._list_yes_no(question, language))
        extra = self._list_yes_no(question, language) if named.may_be_denied else ()
        spelt = _tell_apart((*self._spell(named.options, language, MAX_CANDIDATES - len(extra)), *extra))
        return Offer("options", spelt) if len(spelt) > 1 else Offer("none")

    def _list_yes_no(self, question: str, language: str) -> tuple[tuple[str, ...], ...]:
        if _is_chinese(question):
            return tuple(side[:chinese.MOST_FORMS] for side in chinese.list_polar_forms(question))
        known = self._index(language)
        return ((known.get("yes", "Yes"),), (known.get("no", "No"),))

    def _offer_vocabulary(self, question: str, language: str, *, every: bool) -> Offer:
        """Offer the answers that share the most words with the question, the frequent ones first among equals."""
        words = set(re.findall(r"\w+", question.lower()))
        answers = [answer for answer in self._index(language).values() if every or not is_polar(answer)]
        ranked = sorted(answers, key=lambda answer: -len(words & set(re.findall(r"\w+", answer.lower()))))
        return Offer("vocab", tuple((answer,) for answer in ranked[:MAX_VOCABULARY])) if ranked else Offer("none")

    def _index(self, language: str) -> dict[str, str]:
        """Return folded answer -> its most frequent spelling, the most frequent answers first."""
        if language not in self._spellings:
            known: dict[str, str] = {}
            for answer in self.vocabulary.list_answers(language):
                known.setdefault(_fold(answer), answer)
            self._spellings[language] = known
        return self._spellings[language]

    def _spell(self, named: Sequence[Sequence[str]], language: str, most: int) -> tuple[tuple[str, ...], ...]:
        """Spell options as the training answers do, known forms first; a form that fits two options fits neither."""
        known = self._index(language)
        spelt = [_find_spellings(forms, known) for forms in named]
        is_known = all(any(_fold(form) in known for form in forms) for forms in named)
        if is_known and _fold(named[-1][-1]) in known:  # "heart or right lung": no "heart lung"
            spelt = [[form for form in forms if _fold(form) in known] for forms in spelt]
        folded = [{_fold(form) for form in forms} for forms in spelt]
        own = [[form for form in forms if sum(_fold(form) in other for other in folded) == 1] for forms in spelt]
        room = max(1, most // len(named))
        return tuple(tuple((mine or [forms[-1]])[:room]) for mine, forms in zip(own, named, strict=True))


def _tell_apart(named: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """Leave out forms that an earlier option has, and options left without a form."""
    seen: set[str] = set()
    kept = []
    for forms in named:
        new = tuple({_fold(form): form for form in reversed(forms) if _fold(form) not in seen}.values())[::-1]
        seen |= {_fold(form) for form in new}
        kept.append(new)
    return tuple(forms for forms in kept if forms)


def is_polar(answer: str) -> bool:
    """Return whether an answer affirms or denies, in English or Chinese."""
    return normalize_answer(answer) in _YES_NO | _CHINESE_YES_NO


def _is_chinese(text: str) -> bool:
    return re.search(r"[\u4e00-\u9fff]", text) is not None


def _find_spellings(forms: Sequence[str], known: Mapping[str, str]) -> list[str]:
    """Return the known spelling of each form, else of the longest known part of one; then the unknown forms."""
    whole = [known[_fold(form)] for form in forms if _fold(form) in known]
    part = [] if whole else _find_parts(forms[0], known)[:1]
    return list(dict.fromkeys([*whole, *part, *(form for form in forms if _fold(form) not in known)]))


def _find_parts(form: str, known: Mapping[str, str]) -> list[str]:
    """Return the spellings of the parts of a form that are known answers, the longest first."""
    pieces, glue = (list(form), "") if _is_chinese(form) else (form.split(), " ")
    parts = (glue.join(pieces[start:start + length]) for length in range(len(pieces) - 1, 0, -1)
             for start in range(len(pieces) - length + 1))
    return [known[_fold(part)] for part in parts if _fold(part) in known]


def _fold(text: str) -> str:
    """Return what two spellings of one answer share: no case, articles, prepositions, blanks or hyphens."""
    words = normalize_answer(text).replace("-", " ").split()
    return "".join(word for word in words if word not in _FILLERS) or "".join(words)

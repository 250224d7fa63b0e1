"""What a graph says to a question about a picture: things and relation to facts, best first. No answer is looked at."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medvqa_cli.data.knowledge.graph import BELONG_TO, Fact, Graph, says, split_stems
from medvqa_cli.data.knowledge.positions import rank_labels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from medvqa_cli.records import Box

PLACEHOLDERS = ("", "_", "vhead", "ktail")
"""Parts of SLAKE's triples that say nothing: what is shown, and what is asked for."""
RELATIONS = {
    "en": {
        r"treat|therap|\bcure": ("treatment", "therapeutic method"),
        r"prevent": ("prevention",),
        r"symptom": ("symptom",),
        r"\bcauses?\b": ("cause",),
        r"belong|part of": ("belong to",),
        r"function|effect|\brole\b|\bused? (?:for|to)\b|^(?:can|could)$|\bthat (?:can|could)\b": ("function", "effect"),
        r"infecti|contagi": ("infectivity", "route of transmission"),
        r"\bwhere\b|locat|position": ("location", "position"),
    },
    "zh": {
        "治疗": ("治疗方法",),
        "预防": ("预防",),
        "症状": ("主要症状",),
        "病因|原因": ("病因",),
        "属于": ("属于",),
        "功能|作用|用于|可以": ("功能", "作用"),
        "性质": ("性质",),
        "位置|部位": ("发病部位", "位置"),
    },
}
"""For each language: words that ask for a relation, and the attributes that answer. The first that fits counts."""
MAX_WORDS = 30
"""Longer values are cut."""
MAX_SIGNS = 60
"""The same for Chinese, in characters."""
CHINESE = {
    "Lung": "肺", "Heart": "心脏", "Liver": "肝脏", "Spleen": "脾脏", "Kidney": "肾脏", "Bladder": "膀胱",
    "Stomach": "胃", "Small Intestine": "小肠", "Duodenum": "十二指肠", "Colon": "结肠", "Rectum": "直肠",
    "Esophagus": "食道", "Trachea": "气管", "Larynx": "喉", "Brain": "大脑", "Brainstem": "脑干",
    "Spinal Cord": "脊髓", "Eye": "眼", "Ear": "耳", "Parotid": "腮腺", "Tooth": "牙齿",
    "Atelectasis": "肺不张", "Cardiomegaly": "心脏肥大", "Pleural Effusion": "胸腔积液",
    "Pulmonary Infiltration": "肺浸润", "Pulmonary Mass": "肺肿块", "Pulmonary Nodules": "肺结节",
    "Pneumonia": "肺炎", "Pneumothorax": "气胸", "Brain Edema": "脑水肿", "Brain Tumour": "脑瘤",
    "Liver Cancer": "肝癌", "Lung Cancer": "肺癌",
}
"""Heads of the English graph and of the Chinese one: labels are English whatever the question's language."""


@dataclass(frozen=True, slots=True)
class Query:
    """What of a sample a look-up may see: its answer is not part of it."""

    question: str
    triples: tuple[tuple[str, str, str], ...]
    boxes: tuple[Box, ...]
    organ: str


@dataclass(frozen=True, slots=True)
class Thing:
    """A head of the graph that a question is about, and the picture's label it comes from, if any."""

    head: str
    label: str = ""


class Lookup:
    """Finds facts in a graph.

    Args:
        graph: The graph in the language of the questions.
        english: The graph in the language of the labels.
    """

    def __init__(self, graph: Graph, english: Graph) -> None:
        self._graph = graph
        self._english = english
        self._links: dict[tuple[str, frozenset[str]], str] = {}

    def find_lines(self, query: Query, limit: int) -> tuple[str, ...]:
        """Return the best facts for a query, at most `limit`, each as a line "head: attribute: value"."""
        named = [Thing(head) for head in self._graph.find_named(query.question)]
        relation, wanted = query.triples[0][1:] if query.triples else (query.question, "")
        attributes = self._find_attributes(relation)
        if relation in PLACEHOLDERS or (not query.triples and not attributes):
            facts = self._describe(named, self._find_attributes(query.question))
        else:
            things = named + self._find_things(query, named)
            wanted = self._find_wanted(wanted, attributes, named)
            facts = self._look_back(attributes, wanted, things) or list(self._look_up(attributes, things))
        lines = dict.fromkeys(write_fact(fact, thing.label) for fact, thing in facts)
        return tuple(lines)[:limit]

    def _find_attributes(self, text: str) -> tuple[str, ...]:
        table = RELATIONS[self._graph.language]
        return next((table[words] for words in table if re.search(words, text, re.IGNORECASE)), ())

    def _find_wanted(self, tail: str, attributes: Sequence[str], named: Sequence[Thing]) -> str:
        """Return what a fact's value should say: the triple's tail, or the system that a question names."""
        if tail not in PLACEHOLDERS:
            return tail
        if BELONG_TO[self._graph.language] not in attributes:
            return ""
        return next((thing.head for thing in named if thing.head in self._graph.systems), "")

    def _find_things(self, query: Query, named: Sequence[Thing]) -> list[Thing]:
        """Return what the picture holds, best first: what its boxes show, its organ, the organs of its diseases."""
        words = (query.organ, *re.split(r"[\W_]+", query.organ))
        organs = [Thing(head) for word in words if (head := self._english.find_exact(word))]
        places = frozenset(organ.head for organ in organs)
        seen = [Thing(self._link(label, places), label) for label in rank_labels(query.boxes, query.question)]
        seen = [thing for thing in seen if thing.head]
        diseased = {thing.head: self._english.find_location(thing.head) for thing in seen}
        implied = [Thing(head) for heads in diseased.values() for head in sorted(heads)]
        things = [self._translate(thing) for thing in (*seen, *organs, *implied)]
        asked = {thing.head for thing in named}
        here = [thing for thing in things if thing.head]
        return _drop_repeated(sorted(here, key=lambda thing: not self._graph.find_location(thing.head) & asked))

    def _link(self, label: str, places: frozenset[str]) -> str:
        if (label, places) not in self._links:
            self._links[label, places] = self._english.link(label, places)
        return self._links[label, places]

    def _translate(self, thing: Thing) -> Thing:
        return thing if self._graph is self._english else Thing(CHINESE.get(thing.head, ""))

    def _look_back(self, attributes: Sequence[str], wanted: str, things: Sequence[Thing]) -> list[tuple[Fact, Thing]]:
        """Return the facts whose value says what is wanted: those of the things, in their order, or else all."""
        if not wanted:
            return []
        facts = [fact for attribute in attributes for fact in self._graph.by_attribute.get(attribute, [])
                 if says(fact.value, wanted)]
        here = [(fact, thing) for thing in things for fact in facts if fact.head == thing.head]
        return here or [(fact, Thing(fact.head)) for fact in facts]

    def _look_up(self, attributes: Sequence[str], things: Sequence[Thing]) -> Iterator[tuple[Fact, Thing]]:
        for thing in things:
            for fact in self._graph.by_head.get(thing.head, ()):
                if fact.attribute in attributes:
                    yield fact, thing

    def _describe(self, things: Sequence[Thing], attributes: Sequence[str]) -> list[tuple[Fact, Thing]]:
        """Return all facts of the things, those with one of the attributes first."""
        facts = [(fact, thing) for thing in things for fact in self._graph.by_head.get(thing.head, ())]
        return sorted(facts, key=lambda pair: pair[0].attribute not in attributes)


def _drop_repeated(things: Sequence[Thing]) -> list[Thing]:
    first: dict[str, Thing] = {}
    for thing in things:
        first.setdefault(thing.head, thing)
    return list(first.values())


def write_fact(fact: Fact, label: str) -> str:
    """Return a fact as a line; the picture's own word for the head stands in brackets where it is another."""
    words = [word for word in split_stems(label) if word not in ("left", "right")]
    is_same = "".join(words) in ("", "".join(split_stems(fact.head)))
    return f"{fact.head if is_same else f'{fact.head} ({label})'}: {fact.attribute}: {_shorten(fact.value)}"


def _shorten(value: str) -> str:
    if not value.isascii():
        return value if len(value) <= MAX_SIGNS else value[:MAX_SIGNS] + "..."
    words = value.split()
    return value if len(words) <= MAX_WORDS else " ".join(words[:MAX_WORDS]) + " ..."

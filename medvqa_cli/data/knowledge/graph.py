"""A knowledge graph of (head, attribute, value) facts in CSV files, and how names of things are found in it.

SLAKE's graph, in English and in Chinese:

```
KG/en_disease.csv    disease#attribute#value      KG/disease.csv     disease,relation,object
KG/en_organ.csv      organ#attribute#value        KG/organ.csv       entity,property,value
KG/en_organ_rel.csv  organ#attribute#value        KG/organ_rel.csv   entity,property,value
```

The English values contain commas, so their separator is '#'. Facts that stand twice count once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from medvqa_cli.data.reading import quote, read_csv_rows
from medvqa_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

FOLDER = "KG"
RESTORE = "Extract the graph again: SLAKE's download holds it in the folder KG."
_ENGLISH = ("organ", "attribute", "value")
_CHINESE = ("entity", "property", "value")
FILES = {
    "en": ("#", {"en_disease.csv": ("disease", "attribute", "value"), "en_organ.csv": _ENGLISH,
                 "en_organ_rel.csv": _ENGLISH}),
    "zh": (",", {"disease.csv": ("disease", "relation", "object"), "organ.csv": _CHINESE, "organ_rel.csv": _CHINESE}),
}
"""For each language: the separator, and the columns of each file."""
ALIAS = {"en": "alias", "zh": "\u522b\u79f0"}
LOCATION = {"en": "location", "zh": "\u53d1\u75c5\u90e8\u4f4d"}
BELONG_TO = {"en": "belong to", "zh": "\u5c5e\u4e8e"}
_ENDING = re.compile(r"(?<=\w{3})(?:ing|ion|ed|es|e|s)$")
PREFIX = 6
"""So many equal letters make two stems the same word."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One row of a graph."""

    head: str
    attribute: str
    value: str


def read_graph(root: Path, language: str) -> Graph:
    """Return the graph of a language ("zh" or anything else: English) in the folder KG below the root.

    Raises:
        DataError: If the folder or a file is missing, a header is not as above, or a row is cut or has an empty value.
    """
    language = language if language in FILES else "en"
    folder = root / FOLDER
    if not folder.is_dir():
        raise DataError(f"The knowledge graph '{folder}' is missing.",
                        f"{RESTORE} Without it, --knowledge record takes the triples that stand with the questions.")
    if (folder / FOLDER).is_dir():  # as an archive may unpack
        folder = folder / FOLDER
    separator, files = FILES[language]
    facts = (fact for name, columns in files.items() for fact in _read_facts(folder / name, separator, columns))
    return Graph(tuple(dict.fromkeys(facts)), language)


def _read_facts(path: Path, separator: str, columns: tuple[str, ...]) -> Iterator[Fact]:
    row = None
    for row in read_csv_rows(path, delimiter=separator, quotes=False):
        if tuple(row.values) != columns:
            raise DataError(f"{path}: the header should be '{separator.join(columns)}', but is "
                            f"{quote(separator.join(row.values))}.", RESTORE)
        head, attribute, value = (row.required_text(column) for column in columns)
        yield Fact(head, attribute, value)
    if row is None:
        raise DataError(f"{path}: there are no facts in it.", RESTORE)


@dataclass(frozen=True)
class Graph:
    """Facts in the order of their files."""

    facts: tuple[Fact, ...]
    language: str

    @cached_property
    def by_head(self) -> dict[str, list[Fact]]:
        """The facts of each head."""
        return _group((fact.head, fact) for fact in self.facts)

    @cached_property
    def by_attribute(self) -> dict[str, list[Fact]]:
        """The facts of each attribute."""
        return _group((fact.attribute, fact) for fact in self.facts)

    @cached_property
    def systems(self) -> set[str]:
        """What something belongs to."""
        return {fact.value for fact in self.by_attribute.get(BELONG_TO[self.language], [])}

    @cached_property
    def names(self) -> dict[str, str]:
        """Every name, and the head it stands for: heads, what they belong to, and aliases."""
        aliases = {alias.strip(): fact.head for fact in self.by_attribute.get(ALIAS[self.language], [])
                   for alias in re.split("[,\uff0c]", fact.value)}
        return aliases | {system: system for system in self.systems} | {head: head for head in self.by_head}

    @cached_property
    def _by_key(self) -> dict[str, str]:
        return {"".join(split_stems(name)): head for name, head in self.names.items()}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        names = sorted(self.names, key=len, reverse=True)
        if self.language == "zh":
            return re.compile("|".join(map(re.escape, names)))
        return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?:e?s)?(?!\w)", re.IGNORECASE)

    def find_named(self, text: str) -> tuple[str, ...]:
        """Return the heads that a text names, in its order: whole words, longest first, singular or plural."""
        if text not in self._named:
            found = (self._by_key.get("".join(split_stems(match.group()))) for match in self._pattern.finditer(text))
            self._named[text] = tuple(dict.fromkeys(head for head in found if head))
        return self._named[text]

    @cached_property
    def _named(self) -> dict[str, tuple[str, ...]]:
        """Texts that were searched: many questions are asked of many pictures."""
        return {}

    def find_location(self, head: str) -> set[str]:
        """Return the organs where a disease is found."""
        location = LOCATION[self.language]
        return {name for fact in self.by_head.get(head, []) if fact.attribute == location
                for name in self.find_named(fact.value)}

    def find_exact(self, name: str) -> str:
        """Return the head with this name, or alias, in any form of its words; an empty text if there is none."""
        return self._by_key.get("".join(split_stems(name)), "") if name else ""

    def link(self, label: str, places: Collection[str]) -> str:
        """Return the head that a label of a picture stands for; an empty text if there is none.

        Rules in order; "left" and "right" do not count:

        1. a head or alias of the same words ("Left Lung" is Lung, "Brain Stem" is Brainstem);
        2. a head with these words and others, if its location is one of `places` or it is the only one ("Nodule" is
           Pulmonary Nodules in a picture of the lung);
        3. the longest head made of some of these words, the last among them ("Brain Enhancing Tumor" is Brain Tumour).
        """
        words = [word for word in split_stems(label) if word not in ("left", "right")]
        if not words:
            return ""
        return self._by_key.get("".join(words)) or self._find_wider(words, places) or self._find_narrower(words)

    def _find_wider(self, words: list[str], places: Collection[str]) -> str:
        wider = [head for head in self.by_head if set(words) < set(split_stems(head))]
        local = [head for head in wider if self.find_location(head) & set(places)]
        return local[0] if local else wider[0] if len(wider) == 1 else ""

    def _find_narrower(self, words: list[str]) -> str:
        heads = (head for head in self.by_head if set(split_stems(head)) < set(words))
        return max((head for head in heads if split_stems(head)[-1] == words[-1]), key=len, default="")


def _group(pairs: Iterable[tuple[str, Fact]]) -> dict[str, list[Fact]]:
    groups: dict[str, list[Fact]] = {}
    for key, fact in pairs:
        groups.setdefault(key, []).append(fact)
    return groups


@lru_cache(maxsize=1 << 16)
def split_stems(text: str) -> tuple[str, ...]:
    """Return the words of a text in lower case and without their endings, tumour as tumor: crude, for matching only."""
    words = re.findall(r"[^\W_]+", text.lower().replace("tumour", "tumor"))
    return tuple(_ENDING.sub("", word) for word in words)


def says(value: str, wanted: str) -> bool:
    """Tell whether a fact's value says what is wanted: every word of it, in any form ("food delivery", "deliver food").

    Chinese has no word boundaries: there it has to stand in the value as it is.
    """
    if not wanted.isascii():
        return wanted in value
    words = split_stems(value)
    return bool(wanted) and all(any(_is_same(word, other) for other in words) for word in split_stems(wanted))


def _is_same(one: str, other: str) -> bool:
    length = min(len(one), len(other), PREFIX)
    return one == other or (length > 3 and one[:length] == other[:length])

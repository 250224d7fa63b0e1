"""What a page is built from: sections of blocks, plain data that the template draws by their kind.

A new part of the report is one function that returns a section; the template changes only for a new kind of block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medvqa_cli.reporting.figures import Figure


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence that stands out: something to know, or something to beware of."""

    kind: ClassVar[str] = "note"
    text: str
    level: Literal["info", "warning"] = "info"


@dataclass(frozen=True, slots=True)
class Warnings:
    """Several sentences to beware of, folded behind one line that counts them."""

    kind: ClassVar[str] = "warnings"
    title: str
    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """Terms and what they are; `folded` hides them until asked for."""

    kind: ClassVar[str] = "facts"
    title: str
    rows: Sequence[tuple[str, str]]
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Meter:
    """A share between 0 and 1 drawn beside its text: the value, its interval, a baseline to compare it with."""

    text: str
    value: float | None
    low: float | None = None
    high: float | None = None
    baseline: float | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the first cell of a row names it, all others are numbers (right-aligned) unless `textual` says not.

    `narrow` tables stand side by side where there is room; a folded one shows when asked for.
    """

    kind: ClassVar[str] = "table"
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Meter]]
    note: str = ""
    textual: Sequence[str] = ()
    narrow: bool = False
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Headline:
    """One number of the summary, with its interval, how many answers it rests on, and how it was measured."""

    label: str
    value: str
    interval: str
    basis: str
    protocol: str


@dataclass(frozen=True, slots=True)
class Headlines:
    """The few numbers a reader looks for first."""

    kind: ClassVar[str] = "headlines"
    items: Sequence[Headline]

    @property
    def protocols(self) -> list[tuple[str, str]]:
        """How the numbers were measured, each way once, under the labels that share it; these empty if all do."""
        labels: dict[str, list[str]] = {}
        for item in self.items:
            if item.protocol:
                labels.setdefault(item.protocol, []).append(item.label)
        return [("; ".join(names) if len(labels) > 1 else "", protocol) for protocol, names in labels.items()]


@dataclass(frozen=True, slots=True)
class Plots:
    """Figures, side by side where there is room."""

    kind: ClassVar[str] = "plots"
    figures: Sequence[Figure]


@dataclass(frozen=True, slots=True)
class Gallery:
    """Questions with their pictures, filtered and sorted in the browser.

    `questions` are JSON objects that name their picture in `pictures` (key -> data URI), so that a picture is in the
    page once whatever the number of its questions. `filters` maps a field of a question to its label and values.
    """

    kind: ClassVar[str] = "gallery"
    shown: str
    questions: Sequence[Mapping[str, Any]]
    pictures: Mapping[str, str]
    filters: Mapping[str, tuple[str, Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures beside each other: what each is, its data URI (empty if it cannot be shown), and what they share."""

    names: tuple[str, str]
    pictures: tuple[str, str]
    text: str


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pictures to be compared, two by two."""

    kind: ClassVar[str] = "pairs"
    title: str
    items: Sequence[Pair]


Block = Note | Warnings | Facts | Table | Headlines | Plots | Gallery | Pairs


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page. `key` is its anchor; `lead` says what it is."""

    key: str
    title: str
    lead: str
    blocks: Sequence[Block]

"""Facts put before a question: the triple that stands with it, or what the data set's knowledge graph says.

In the graph a question's facts are found from what is asked and what is in the picture, never from the answer:

- Things: heads the question names; and, where it asks for a relation, what the picture holds: the labels of its boxes,
  the organ of the record, and the organs where the diseases among them are found.
- Relation: the middle part of the record's triple ("treat"); where a record has no triple, words of the question. A
  triple of placeholders says that no relation is asked for: then the picture's labels stay out, as they alone would
  answer a question such as "What disease is in the picture?", and only what the question names is described.
- Facts: those of the things that fit the relation. Where the question says what it wants ("belong to the urinary
  system", "can digest food"), the look-up runs backwards: the heads whose value says so, those in the picture if any.
- Order: things the question names; then those where it says the thing is ("upper left", "main", "on the heart"), read
  off the boxes; then the file's order.

Labels, boxes and organ are annotations of the picture, so the report calls the facts privileged information.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.knowledge.graph import read_graph
from medvqa_cli.data.knowledge.lookup import PLACEHOLDERS, Lookup, Query
from medvqa_cli.data.knowledge.report import summarize_facts
from medvqa_cli.progress import SILENT, Progress, track

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.data import KnowledgeSettings

    FindLines = Callable[[VQASample], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class KnowledgeResult:
    """Samples with facts in their `context`, in the order given, and the report (`data/knowledge/report.py`)."""

    samples: list[VQASample]
    report: dict[str, Any]


def attach_knowledge(samples: Sequence[VQASample], settings: KnowledgeSettings, root: Path, *,
                     progress: Progress = SILENT) -> KnowledgeResult:
    """Return samples with at most `settings.max_triples` facts added to their context, a line each.

    Args:
        samples: The questions. Chinese ones are looked up in the Chinese graph, all others in the English one.
        settings: Where facts come from: "record" takes a sample's own triples without their placeholders, "graph" looks
            them up.
        root: Folder of the data set's original files, in which the graph is the folder KG; "record" does not need it.
        progress: Counts questions.

    Raises:
        DataError: If the graph is missing, or one of its files has a wrong header or a cut row.
        ValueError: If the mode is "off".
    """
    if settings.mode == "off":
        raise ValueError("the mode 'off' attaches nothing")
    limit = settings.max_triples
    find_lines = _write_triples if settings.mode == "record" else _open_graphs(samples, root, limit)
    lines = [find_lines(sample)[:limit]
             for sample in track(samples, progress, "Looking up facts", len(samples), "question")]
    informed = [dataclasses.replace(sample, context=(*sample.context, *found)) if found else sample
                for sample, found in zip(samples, lines, strict=True)]
    return KnowledgeResult(informed, summarize_facts(samples, lines, settings))


def _write_triples(sample: VQASample) -> tuple[str, ...]:
    triples = ([part for part in triple if part not in PLACEHOLDERS] for triple in sample.triples)
    return tuple(dict.fromkeys(": ".join(parts) for parts in triples if parts))


def _open_graphs(samples: Sequence[VQASample], root: Path, limit: int) -> FindLines:
    english = read_graph(root, "en")
    lookups = {False: Lookup(english, english)}
    if any(sample.language == "zh" for sample in samples):
        lookups[True] = Lookup(read_graph(root, "zh"), english)

    def find_lines(sample: VQASample) -> tuple[str, ...]:
        query = Query(sample.question, sample.triples, sample.boxes, sample.organ)
        return lookups[sample.language == "zh"].find_lines(query, limit)

    return find_lines

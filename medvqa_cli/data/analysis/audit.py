"""What a data set holds, what is odd about it, and whether one may train on it.

The result of `audit_samples` is one document of plain JSON values:

```
splits      {split: counts, see below}
baselines   {split other than training: {"closed" | "open": {"questions": n, baseline: accuracy in 0-1 or null}}}
leakage     [one object for each pair of splits, see `leakage.compare_splits`]
duplicates  {split: {"same_question": n, "same_answer": n}}
images      {"distinct": n files, "unreadable": {path: reason}, "identical": n whose pixels another file has too,
             "texts": {path: why it may have text in its pixels}, "near": {"max_distance": bits, "of_bits": n,
             "pairs": n, "distances": {bits: pairs}, "splits": {split: pictures with a near-duplicate in it},
             "examples": see `leakage.list_examples`}}
against     [one object for each data set compared with, see `leakage.compare_datasets`]
verdict     {"ready": bool, "faults": [{code, message}], "warnings": [{code, message, value, threshold}],
             "checks": {code of a warning: its threshold}}
```

A split's counts: "questions", "images" (distinct files), "without_image" (questions), "empty_answers"; for each of
answer_types, question_types, modalities, organs and languages value -> questions, the most frequent first ("" where not
stated); "question_words", "answer_words" (see `tallies.count_words`) and "questions_per_image" {mean, median, max,
histogram: number -> how often}; "yes_no" {yes, no, positive_share: 0-1 or null}; "option_places" {place of the right
answer among the options, from 1: questions}; for "closed" and "open" questions {"distinct_answers", "frequent_answers":
the ten most frequent normalized answers -> questions, "majority_share": of the most frequent one, 0-1 or null,
"effective_answers": see `tallies.describe_answers`}.

Samples are gone through once, and only counts, hashes, and the texts the baselines need are kept of them: 100,000
questions take 2 s and 0.1 GB, a million 44 s and 1 GB (`examples/benchmarks/analysis_scale.py`).
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.analysis.image_hashes import BITS, MAX_DISTANCE
from medvqa_cli.data.analysis.inspection import ImageReport, inspect_images
from medvqa_cli.data.analysis.leakage import (
    Traces,
    compare_datasets,
    find_leakage,
    find_neighbours,
    list_examples,
    normalize,
)
from medvqa_cli.data.analysis.readiness import FaultFinder, judge
from medvqa_cli.data.analysis.tallies import SplitTally
from medvqa_cli.scoring.baselines import Example, score_baselines

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from medvqa_cli.data.analysis.neighbours import Neighbours
    from medvqa_cli.records import VQASample

__all__ = ["ImageReport", "audit_samples", "compare_datasets", "inspect_images"]


class _SplitReader:
    """One split gone through once."""

    def __init__(self, samples: Iterable[VQASample], images: ImageReport, faults: FaultFinder) -> None:
        self.tally, self.traces = SplitTally(), Traces()
        self.examples: defaultdict[str, list[Example]] = defaultdict(list)
        for sample in samples:
            faults.look(sample)
            self.tally.add(sample, normalize(sample.answer))
            self.traces.add(sample, images.hashes)
            self.examples[sample.answer_type].append(Example(sample.question, sample.question_type, sample.answer))

    def score_baselines(self, train: _SplitReader | None) -> dict[str, Any]:
        return {kind: {"questions": len(self.examples[kind]),
                       **score_baselines(train.examples[kind] if train else [], self.examples[kind])}
                for kind in ("closed", "open")}


def audit_samples(splits: Mapping[str, Iterable[VQASample]], images: ImageReport, *, train_split: str = "train",
                  text_only: bool = False, against: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return the analysis described at the top of this module.

    Args:
        splits: Split -> its samples, each gone through once.
        images: What `inspect_images` found.
        train_split: The split the baselines learn from.
        text_only: Whether the data set is meant to have no images. Otherwise it is a fault if no question has one.
        against: What `compare_datasets` found.
    """
    faults = FaultFinder()
    parts = {split: _SplitReader(samples, images, faults) for split, samples in splits.items()}
    traces = {split: part.traces for split, part in parts.items()}
    neighbours = find_neighbours(traces, images)
    document: dict[str, Any] = {
        "splits": {split: part.tally.describe() for split, part in parts.items()},
        "baselines": {split: part.score_baselines(parts.get(train_split))
                      for split, part in parts.items() if split != train_split},
        "leakage": find_leakage(traces, neighbours),
        "duplicates": {split: part.duplicates for split, part in traces.items()},
        "images": _describe_images(images, traces, neighbours),
        "against": list(against),
    }
    document["verdict"] = judge(document, faults, train_split=train_split, text_only=text_only)
    return document


def _describe_images(images: ImageReport, traces: Mapping[str, Traces], neighbours: Neighbours) -> dict[str, Any]:
    return {
        "distinct": len(images.hashes) + len(images.unreadable),
        "unreadable": dict(images.unreadable),
        "identical": len(images.hashes) - len(set(images.hashes.values())),
        "texts": dict(images.texts),
        "near": {
            "max_distance": MAX_DISTANCE,
            "of_bits": BITS,
            "pairs": neighbours.distances.total(),
            "distances": {str(bits): neighbours.distances[bits] for bits in sorted(neighbours.distances)},
            "splits": {split: sum(neighbours.has_near(key, split) for key in part.images)
                       for split, part in traces.items()},
            "examples": list_examples(neighbours, images),
        },
    }

"""Pictures and questions that stand in two splits, in two data sets, or twice in one."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.analysis.neighbours import Neighbours
from medvqa_cli.scoring.answers import normalize_answer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from medvqa_cli.data.analysis.inspection import ImageReport
    from medvqa_cli.records import VQASample

ANY = "any"
"""Stands for all splits of the other data set together."""
normalize = lru_cache(maxsize=1 << 16)(normalize_answer)
"""`normalize_answer`, remembering the texts it has seen: questions repeat."""


@dataclass(slots=True)
class Traces:
    """What is kept of a split to be found in another.

    Texts are kept as hashes of 64 bits: among a million, two share one by chance once in 37 million cases.

    Attributes:
        groups: A question's pictures, each named by the hash of its pixels -> questions about them.
        questions: A question with its pictures -> how often it is asked.
        answered: The same with the answer.
        texts: Question and answer, whatever the picture -> how often.
    """

    groups: Counter[tuple[str, ...]] = field(default_factory=Counter)
    questions: Counter[int] = field(default_factory=Counter)
    answered: set[int] = field(default_factory=set)
    texts: Counter[int] = field(default_factory=Counter)

    @property
    def images(self) -> set[str]:
        """Every distinct picture."""
        return {key for keys in self.groups for key in keys}

    @property
    def duplicates(self) -> dict[str, int]:
        """How many questions ask again what was asked about the same picture, and how many of these answer alike."""
        total = self.questions.total()
        return {"same_question": total - len(self.questions), "same_answer": total - len(self.answered)}

    def add(self, sample: VQASample, hashes: Mapping[str, str]) -> None:
        """Keep a sample's traces; a picture without a hash of its pixels is named by its path."""
        keys = tuple(hashes.get(path, path) for path in sample.images)
        question, answer = normalize(sample.question), normalize(sample.answer)
        self.groups[keys] += 1
        self.questions[hash((question, keys))] += 1
        self.answered.add(hash((question, keys, answer)))
        self.texts[hash((question, answer))] += 1


def trace_samples(samples: Iterable[VQASample], hashes: Mapping[str, str]) -> Traces:
    """Return the traces of a split; the samples are gone through once."""
    traces = Traces()
    for sample in samples:
        traces.add(sample, hashes)
    return traces


def find_neighbours(traces: Mapping[str, Traces], *reports: ImageReport,
                    sides: Mapping[str, str] | None = None) -> Neighbours:
    """Return the near-duplicates among the pictures of several splits; see `Neighbours`."""
    looks = {report.hashes[path]: look for report in reports for path, look in report.looks.items()}
    return Neighbours({name: part.images for name, part in traces.items()}, looks, sides)


def find_leakage(traces: Mapping[str, Traces], neighbours: Neighbours) -> list[dict[str, Any]]:
    """Return for each pair of splits what they share, as `compare_splits` says it."""
    return [compare_splits(pair, traces, neighbours) for pair in itertools.combinations(traces, 2)]


def compare_splits(names: tuple[str, str], traces: Mapping[str, Traces], neighbours: Neighbours) -> dict[str, Any]:
    """Return what of the second split stands in the first.

    Returns:
        "splits": both names. Of the second: "images" (distinct by their pixels), "shared_images" (equal pixels in the
        first), "near_images" (a near-duplicate there, not equal pixels); "questions", "questions_on_shared_images",
        "questions_on_near_images" (and no shared one), "shared_questions" (asked there in the same words about the same
        picture, or without any), "shared_texts" (question and answer stand there, whatever the picture).
    """
    first, second = (traces[name] for name in names)
    images = second.images
    shared = images & first.images
    near = {key for key in images - shared if neighbours.has_near(key, names[0])}
    return {
        "splits": list(names),
        "images": len(images),
        "shared_images": len(shared),
        "near_images": len(near),
        "questions": second.questions.total(),
        "questions_on_shared_images": sum(number for keys, number in second.groups.items()
                                          if not shared.isdisjoint(keys)),
        "questions_on_near_images": sum(number for keys, number in second.groups.items()
                                        if shared.isdisjoint(keys) and not near.isdisjoint(keys)),
        "shared_questions": sum(number for text, number in second.questions.items() if text in first.questions),
        "shared_texts": sum(number for text, number in second.texts.items() if text in first.texts),
    }


def compare_datasets(ours: Mapping[str, Iterable[VQASample]], theirs: Mapping[str, Iterable[VQASample]],
                     our_images: ImageReport, their_images: ImageReport, name: str) -> dict[str, Any]:
    """Return what of a data set stands in another one.

    Args:
        ours: Split -> samples, each gone through once.
        theirs: The same of the other data set; all of it counts, whatever is selected of ours.
        our_images: What `inspect_images` found in ours.
        their_images: The same of the other.
        name: The other data set's name.

    Returns:
        "dataset": its name; "pairs": one object of `compare_splits` for each split of ours with each of theirs, named
        `NAME/split`, and with all of theirs, named `NAME/any`; "examples": as `list_examples`.
    """
    other = {f"{name}/{split}": trace_samples(samples, their_images.hashes) for split, samples in theirs.items()}
    other[f"{name}/{ANY}"] = _merge(other.values())
    own = {split: trace_samples(samples, our_images.hashes) for split, samples in ours.items()}
    traces = own | other
    neighbours = find_neighbours(traces, our_images, their_images,
                                 sides=dict.fromkeys(own, "ours") | dict.fromkeys(other, "theirs"))
    return {
        "dataset": name,
        "pairs": [compare_splits((there, here), traces, neighbours) for here in own for there in other],
        "examples": list_examples(neighbours, our_images, their_images, across=True),
    }


def list_examples(neighbours: Neighbours, *reports: ImageReport, across: bool = False) -> list[dict[str, Any]]:
    """Return a few near-duplicates: "images" (two paths), "splits" (of each), "distance" in bits."""
    paths: dict[str, str] = {}
    for report in reports:
        for path, key in report.hashes.items():
            paths.setdefault(key, path)
    return [{"images": [paths[left], paths[right]], "distance": distance,
             "splits": [[name for name in neighbours.list_splits(key) if not name.endswith(f"/{ANY}")]
                        for key in (left, right)]}
            for left, right, distance in neighbours.choose_examples(across=across)]


def _merge(parts: Iterable[Traces]) -> Traces:
    whole = Traces()
    for part in parts:
        whole.groups += part.groups
        whole.questions += part.questions
        whole.answered |= part.answered
        whole.texts += part.texts
    return whole

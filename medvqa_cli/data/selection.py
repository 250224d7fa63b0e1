"""Which samples are used: by language and type, a seeded subsample, splits that keep an image's questions together."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medvqa_cli.records import VQASample

ALL = "all"


def filter_language(samples: Sequence[VQASample], language: str) -> list[VQASample]:
    """Return the samples in one language, such as "en"; "all" or an empty text keeps every language."""
    if language in ("", ALL):
        return list(samples)
    return [sample for sample in samples if sample.language == language]


def filter_answer_type(samples: Sequence[VQASample], answer_type: str) -> list[VQASample]:
    """Return the "closed" or the "open" samples; "all" keeps both."""
    return [sample for sample in samples if answer_type in (ALL, sample.answer_type)]


def draw_subsample(samples: Sequence[VQASample], size: int, seed: int) -> list[VQASample]:
    """Return `size` samples drawn at random without replacement, in the order they came in.

    The same seed draws the same questions whatever their order, and a smaller draw is part of a larger one: each
    question's rank is a hash of the seed and its id. With `size` at or above their number all are returned.
    """
    if size >= len(samples):
        return list(samples)
    ranked = sorted(range(len(samples)), key=lambda index: hash_key(seed, samples[index].question_id))
    return [samples[index] for index in sorted(ranked[:size])]


def split_by_image(samples: Sequence[VQASample], fractions: Mapping[str, float],
                   seed: int) -> dict[str, list[VQASample]]:
    """Divide samples into named parts so that no picture stands in two of them.

    Args:
        samples: The samples; those with the same image_id, or sharing a picture file, stay together.
        fractions: Part -> its share of the pictures; the shares sum to 1. Sizes are rounded so that they sum up.
        seed: The same seed divides the same pictures alike, whatever their order.

    Raises:
        ValueError: If a share is negative or they do not sum to 1.
    """
    if any(share < 0 for share in fractions.values()) or not math.isclose(sum(fractions.values()), 1.0):
        raise ValueError(f"fractions must be at least 0 and sum to 1, not {dict(fractions)}")
    groups = _group_pictures(samples)
    order = sorted(set(groups), key=lambda group: hash_key(seed, group))
    parts: dict[str, str] = {}
    start, share = 0, 0.0
    for part, fraction in fractions.items():
        share += fraction
        end = round(share * len(order))
        parts.update(dict.fromkeys(order[start:end], part))
        start = end
    divided: dict[str, list[VQASample]] = {part: [] for part in fractions}
    for sample, group in zip(samples, groups, strict=True):
        divided[parts[group]].append(sample)
    return divided


def hash_key(seed: int, text: str) -> bytes:
    """Return bytes that order texts at random, the same for the same seed on every machine."""
    return hashlib.sha256(f"{seed}\n{text}".encode()).digest()


def _group_pictures(samples: Sequence[VQASample]) -> list[str]:
    """Return each sample's group: samples connected through an image_id or a picture file share one.

    A group is named by its smallest key; ids sort before paths, so that no name depends on where the files lie.
    """
    parents: dict[str, str] = {}

    def find(key: str) -> str:
        parents.setdefault(key, key)
        while parents[key] != key:
            parents[key] = parents[parents[key]]
            key = parents[key]
        return key

    for sample in samples:
        for path in sample.images:
            low, high = sorted((find(f"0:{sample.image_id}"), find(f"1:{path}")))
            parents[high] = low
    return [find(f"0:{sample.image_id}") for sample in samples]

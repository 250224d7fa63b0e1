"""What the training data are like: counts, shares, lengths, and how a question looks to the model."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch

from medvqa_cli.scoring.answers import normalize_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.models.encoding import SampleEncoder
    from medvqa_cli.records import VQASample

GROUPS = ("modality", "organ", "question_type", "language")
MOST_VALUES = 20


def describe_samples(samples: Sequence[VQASample]) -> dict[str, float]:
    """Return counts of questions and images, and shares in 0-1 of kinds and of the most frequent values of groups."""
    total = len(samples)
    images = {path for sample in samples for path in sample.images}
    answers = Counter(normalize_answer(sample.answer) for sample in samples)
    facts = {"questions": total, "images": len(images), "questions_per_image": total / max(1, len(images)),
             "closed_share": sum(sample.answer_type == "closed" for sample in samples) / total,
             "without_image_share": sum(not sample.images for sample in samples) / total,
             "distinct_answers": len(answers), "top_answer_share": answers.most_common(1)[0][1] / total}
    facts["open_share"] = 1.0 - facts["closed_share"]
    for group in GROUPS:
        values = Counter(getattr(sample, group) for sample in samples)
        facts |= {f"{group}/{value}": count / total for value, count in values.most_common(MOST_VALUES) if value}
    return facts


def count_lengths(samples: Sequence[VQASample], encoder: SampleEncoder, number: int,
                  seed: int) -> dict[str, torch.Tensor]:
    """Return how many tokens prompts (image tokens included) and answers of some samples have, each [N]."""
    lengths: dict[str, list[int]] = {"prompt": [], "answer": []}
    for sample in random.Random(f"{seed} lengths").sample(samples, min(number, len(samples))):
        encoded = encoder.encode_text(sample, encoder.encode_images(sample))
        lengths["prompt"].append(len(encoded.prompt))
        lengths["answer"].append(len(encoded.answer))
    return {part: torch.tensor(values, dtype=torch.float32) for part, values in lengths.items()}


def preview_sample(sample: VQASample, encoder: SampleEncoder) -> str:
    """Return a sample's prompt as the model sees it, runs of image tokens shortened, and its target."""
    encoded = encoder.encode_text(sample, encoder.encode_images(sample))
    tokenizer = encoder.processor.tokenizer
    return (f"{_spell(encoded.prompt, encoder)}\n"
            f"--- target ({len(encoded.answer)} tokens) ---\n{tokenizer.decode(list(encoded.answer))}")


def _spell(tokens: Sequence[int], encoder: SampleEncoder) -> str:
    tokenizer: Any = encoder.processor.tokenizer
    image = encoder.family.find_image_token(encoder.processor)
    parts = []
    for is_image, run in itertools.groupby(tokens, lambda token: token == image):
        ids = list(run)
        parts.append(f"[{tokenizer.decode(ids[:1])} x {len(ids)}]" if is_image else tokenizer.decode(ids))
    return "".join(parts)

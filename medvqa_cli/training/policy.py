"""What GRPO draws completions from, and how TRL's own path is fed with the same prompts and pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from medvqa_cli.models.batches import join_images, to_device

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL import Image

    from medvqa_cli.inference.protocol import Decoding
    from medvqa_cli.models.encoding import SampleEncoder
    from medvqa_cli.progress import Progress
    from medvqa_cli.records import JsonlWriter, VQASample
    from medvqa_cli.training.completions import Completion
    from medvqa_cli.training.rating import Examiner

FIELDS = frozenset(("pixel_values", "image_grid_thw", "pixel_attention_mask", "spatial_shapes", "image_sizes",
                    "token_type_ids", "mm_token_type_ids", "image_position_ids"))
"""What TRL hands to a model beside ids and mask; a family that needs more cannot take its path."""

COUNTS = "batch_num_images"
"""LLaVA-OneVision's number of images a row, which goes without saying where it is one."""
Stacked = tuple[torch.Tensor, torch.Tensor, int]
"""Ids and mask [B, T], and how many of the last tokens are completions."""


@dataclass
class Policy:
    """What completions are made from, and how.

    `banned` is the image token, which no completion may hold. `shared` says whether prefixes are shared, and may turn
    off once. `events` are kept by the main process alone; `logged` completions go there with each log line.
    """

    encoder: SampleEncoder
    samples: Sequence[VQASample]
    examiner: Examiner
    decoding: Decoding
    banned: int
    progress: Progress
    shared: bool = True
    pack_length: int | None = None
    read_image: Callable[[str], Image.Image] | None = None
    events: JsonlWriter | None = None
    logged: int = 8
    run: str = ""
    unended: int = field(default=0)
    is_checked: bool = False


def list_drawing_fields(policy: Policy, model: Any, asked: Sequence[int],
                        prompt_ids: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return what TRL's generate wants beside prompts: images, one copy a row, and token types as lists."""
    encoder = policy.encoder
    marks: dict[str, list[list[int]]] = {}
    for ids in prompt_ids:
        row = torch.tensor([list(ids)])
        found = encoder.family.mark_tokens(encoder.processor, row, torch.zeros_like(row, dtype=torch.bool))
        for name, values in found.items():
            marks.setdefault(name, []).append(values[0].tolist())
    images = join_images([encoder.encode_images(policy.samples[index]) for index in asked])
    return {**to_device(images, model), **marks}


def list_scoring_fields(policy: Policy, model: Any, asked: Sequence[int], stacked: Stacked) -> dict[str, Any]:
    """Return what TRL's log-probabilities want beside ids and mask."""
    input_ids, attention_mask, width = stacked
    encoder = policy.encoder
    images = [encoder.encode_images(policy.samples[index]) for index in asked]
    answers = attention_mask.bool().clone()
    answers[:, :-width] = False
    marks = encoder.family.mark_tokens(encoder.processor, input_ids, answers)
    numbers = [len(encoder.list_pictures(policy.samples[index])) for index in asked]
    fields: dict[str, Any] = {**to_device({**join_images(images), **marks}, model), "num_images": numbers}
    pixels = fields.get("pixel_values")
    if pixels is not None and "image_grid_thw" not in fields and pixels.shape[0] != sum(numbers):
        fields["num_tiles"] = [len(inputs.tensors["pixel_values"]) for inputs in images]
    if max(numbers, default=0) <= 1:
        fields.pop(COUNTS, None)
    return fields


def find_strange(policy: Policy) -> list[str]:
    """Return the inputs of the first sample that TRL would not hand to the model."""
    sample = policy.samples[0]
    inputs = set(policy.encoder.encode_images(sample).tensors)
    return sorted(inputs - FIELDS - ({COUNTS} if len(policy.encoder.list_pictures(sample)) <= 1 else set()))


def stack_left(policy: Policy, completions: Sequence[Completion], device: torch.device) -> Stacked:
    """Return completions behind their prompts as TRL stacks them, prompts padded on the left."""
    encoder, pad = policy.encoder, policy.encoder.padding_id
    rows = []
    for index, answer in completions:
        sample = policy.samples[index]
        rows.append((encoder.encode_text(sample, encoder.encode_images(sample)).prompt, answer))
    before, width = max(len(prompt) for prompt, _ in rows), max(len(answer) for _, answer in rows)
    gaps = [(before - len(prompt), width - len(answer)) for prompt, answer in rows]
    ids = [[pad] * left + [*prompt, *answer] + [pad] * right
           for (prompt, answer), (left, right) in zip(rows, gaps, strict=True)]
    mask = [[0] * left + [1] * (before + width - left - right) + [0] * right for left, right in gaps]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device), width

"""Shared-image packing: one image prefix, many questions, gradients equal to separate rows.

A row is `[prefix with image][question 1 answer 1][question 2 answer 2]...`. Every segment sees the prefix and,
causally, itself; its positions restart right after the prefix. An unpacked row is a row of one segment. The idea of
sharing a prefix between sequences by mask and positions is that of Molmo's subsegments (Deitke et al. 2024,
arXiv:2409.17146) and PrefixGrouper (Liu et al. 2025, arXiv:2506.05433). Differs: plain calls of unchanged models.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from medvqa_cli.models.encoding import EncodedSample

IGNORE = -100
PADDING_SEGMENT = -1
PACK_LENGTH = 2048
"""Most tokens of a pack behind what its samples share, if nothing else is said."""


@dataclass(frozen=True, slots=True)
class Row:
    """One packed sequence of T tokens, as flat lists of length T.

    `segments` is 0 for the prefix and n for the n-th question. `labels` holds IGNORE where nothing is learned.
    `positions` has such a list for each axis on which the model counts: one, or three for time, height and width.
    """

    ids: list[int]
    labels: list[int]
    positions: list[list[int]]
    segments: list[int]


def find_common_prefix(prompts: Sequence[tuple[int, ...]]) -> int:
    """Return how many leading tokens all prompts share, leaving each at least one token of its own.

    A segment must start with a prompt token: its logits predict the first answer token.
    """
    # What the smallest and the largest share in lexicographic order, all share.
    first, last = min(prompts), max(prompts)
    longest = max(min(len(prompt) for prompt in prompts) - 1, 0)
    return next((index for index in range(longest) if first[index] != last[index]), longest)


def count_up(prefix: Sequence[int]) -> torch.Tensor:
    """Return the positions 0, 1, 2... on one axis, [1, P]."""
    return torch.arange(len(prefix))[None]


def build_row(samples: Sequence[EncodedSample], find_positions: Callable[[Sequence[int]], Any] = count_up) -> Row:
    """Pack samples of one image into a row; one sample gives the plain row.

    Args:
        samples: The samples.
        find_positions: Returns the positions [axes, P] of the shared prefix.
    """
    shared = find_common_prefix([sample.prompt for sample in samples])
    prefix = list(samples[0].prompt[:shared])
    positions = find_positions(prefix)
    start = int(positions.max()) + 1 if shared else 0
    row = Row(prefix, [IGNORE] * shared, positions.tolist(), [0] * shared)
    for number, sample in enumerate(samples, start=1):
        question, answer = sample.prompt[shared:], sample.answer
        length = len(question) + len(answer)
        row.ids.extend((*question, *answer))
        row.labels.extend((*([IGNORE] * len(question)), *answer))
        for axis in row.positions:
            axis.extend(range(start, start + length))
        row.segments.extend([number] * length)
    return row


def cut_behind_images(prompt: tuple[int, ...], image_token: int) -> tuple[int, ...]:
    """Return a prompt up to its last image token: what rows that share its images must share; empty without one."""
    return prompt[:len(prompt) - prompt[::-1].index(image_token)] if image_token in prompt else ()


def divide_prompts(prompts: Sequence[tuple[int, ...]], image_token: int) -> list[list[int]]:
    """Return the indices of prompts about the same images, those together whose common prefix holds all images.

    Exemplars stand before the images and are put in the style of the question, so prompts may part before them.
    """
    parts: dict[tuple[int, ...], list[int]] = {}
    for index, prompt in enumerate(prompts):
        parts.setdefault(cut_behind_images(prompt, image_token), []).append(index)
    return list(parts.values())


def plan_packs(samples: Sequence[EncodedSample], image_token: int, *, max_tokens: int | None,
               max_questions: int) -> list[list[int]]:
    """Split the samples of one image, in order, into packs within both limits; return their indices.

    A pack ends where the next sample differs before the image's end. A sample longer than `max_tokens` by itself makes
    a pack of its own: nothing is ever cut off. Without `max_tokens`, PACK_LENGTH bounds what follows the shared prefix,
    so that pictures of many tokens are shared as well.
    """
    packs: list[list[int]] = []
    runs = itertools.groupby(range(len(samples)), lambda n: cut_behind_images(samples[n].prompt, image_token))
    for run in (list(indices) for _, indices in runs):
        shared = find_common_prefix([samples[index].prompt for index in run])
        room = -1
        for index in run:
            length = len(samples[index].prompt) - shared + len(samples[index].answer)
            if index == run[0] or length > room or len(packs[-1]) == max_questions:
                packs.append([])
                room = PACK_LENGTH if max_tokens is None else max_tokens - shared
            packs[-1].append(index)
            room -= length
    return packs


def stack_rows(rows: Sequence[Row], padding_id: int) -> dict[str, torch.Tensor]:
    """Pad rows on the right to one length T and return the model's inputs.

    Returns:
        input_ids, labels [B, T]; position_ids [B, T], or [axes, B, T] where a model counts on several;
        attention_mask [B, 1, T, T] (bool, True where a token may look).
    """
    length = max(len(row.ids) for row in rows)
    segments = pad_lists([row.segments for row in rows], length, PADDING_SEGMENT)
    positions = torch.stack([pad_lists(axis, length, 0) for axis in zip(*(row.positions for row in rows), strict=True)])
    return {
        "input_ids": pad_lists([row.ids for row in rows], length, padding_id),
        "labels": pad_lists([row.labels for row in rows], length, IGNORE),
        "position_ids": positions[0] if len(positions) == 1 else positions,
        "attention_mask": build_block_mask(segments),
    }


def build_block_mask(segments: torch.Tensor) -> torch.Tensor:
    """Return who may look at whom, [B, 1, T, T], for segment numbers [B, T].

    A token sees earlier tokens of the prefix and of its own segment, and always itself: a padded row without any
    open key would turn SDPA's softmax into NaN.
    """
    steps = torch.arange(segments.shape[1], device=segments.device)
    causal = steps[:, None] >= steps[None, :]
    related = (segments[:, None, :] == 0) | (segments[:, None, :] == segments[:, :, None])
    return (causal & related)[:, None]


def pad_lists(rows: Sequence[Sequence[int]], length: int, value: int) -> torch.Tensor:
    """Return rows of numbers as a tensor [B, length], `value` on the right of short ones."""
    return torch.tensor([[*row, *([value] * (length - len(row)))] for row in rows])

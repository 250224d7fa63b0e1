"""Parts of processors that several families need, with or without torchvision (family plugins may use it)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.data.prompts import Turn


def to_messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Return turns in the form chat templates take: content as a list of image and text parts."""
    return [{"role": turn.role,
             "content": [{"type": "image"}] * turn.num_images + [{"type": "text", "text": turn.text}]}
            for turn in turns]


def tokenize_prompt(tokenizer: Any, text: str) -> list[int]:
    """Return a prompt's token ids with the tokenizer's own special tokens, the first of them never twice."""
    bos = tokenizer.bos_token
    add_special = not (bos and text.startswith(bos))
    ids: list[int] = tokenizer(text, add_special_tokens=add_special).input_ids
    if add_special and ids and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids


def tokenize_continuation(tokenizer: Any, anchor: str, text: str) -> list[int]:
    """Return the ids of `text` as it follows `anchor`.

    Tokenizers treat the start of a string specially (a SentencePiece one puts a blank there), so the text is not
    tokenized alone unless its tokens merge with the anchor's.
    """
    before: list[int] = tokenizer(anchor, add_special_tokens=False).input_ids
    both: list[int] = tokenizer(anchor + text, add_special_tokens=False).input_ids
    if both[: len(before)] == before and len(both) > len(before):
        return both[len(before):]
    alone: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return alone


def expand_placeholders(ids: Sequence[int], placeholder: int, counts: Sequence[int]) -> list[int]:
    """Repeat the n-th placeholder counts[n] times, as the model wants one for every image feature.

    Raises:
        ValueError: If the prompt does not hold exactly one placeholder for each image.
    """
    found = sum(token == placeholder for token in ids)
    if found != len(counts):
        raise ValueError(f"the prompt holds {found} image placeholders for {len(counts)} images")
    expanded: list[int] = []
    remaining = iter(counts)
    for token in ids:
        expanded.extend([token] * (next(remaining) if token == placeholder else 1))
    return expanded

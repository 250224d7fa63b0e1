"""Small random checkpoints: a tokenizer trained on the spot, and numbers that stay put (family plugins may use it)."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pydantic import BaseModel

STOCK_TEXTS = (
    "Is there a lesion in the image?", "Which modality is used to take this image?", "CT", "MRI", "X-ray",
    "Where is the lesion?", "What is the largest organ?", "left lung", "right kidney", "liver",
    "Is the image normal?", "yes", "no", "How many lesions are there?", "one", "two", "none",
)


def write_template(*, user: str, assistant: str, end: str, image: str, start: str = "") -> str:
    """Return a chat template: `start`, then every turn's opening, images, text and `end`, then the answer's cue."""
    return (
        "{{ " + repr(start) + " }}{% for message in messages %}"
        "{{ " + repr(assistant) + " if message['role'] == 'assistant' else " + repr(user) + " }}"
        "{% for part in message['content'] %}{{ " + repr(image) + " if part['type'] == 'image' else part['text'] }}"
        "{% endfor %}{{ " + repr(end) + " }}{% endfor %}"
        "{% if add_generation_prompt %}{{ " + repr(assistant) + " }}{% endif %}"
    )


@functools.cache
def make_scratch_options() -> type[BaseModel]:
    """Return the options of a model built from random weights (model.scratch)."""
    from pydantic import Field

    from medvqa_cli.settings.section import Section

    class ScratchOptions(Section):
        """Size of a model built from random weights (model.scratch)."""

        image_size: int = Field(48, ge=8, le=1024)
        """Side of the square the picture is resized to, in pixels."""
        patch_size: int = Field(12, ge=2, le=64)
        """Side of a patch, in pixels."""
        width: int = Field(64, ge=16, le=4096, multiple_of=16)
        """Hidden size of vision tower and language model."""
        vision_layers: int = Field(2, ge=1, le=48)
        """Layers of the vision tower."""
        text_layers: int = Field(2, ge=1, le=80)
        """Layers of the language model."""
        heads: int = Field(4, ge=1, le=64)
        """Attention heads of both."""
        vocabulary_size: int = Field(512, ge=300, le=64_000)
        """Most tokens in the vocabulary, trained on the training questions and answers."""

    return ScratchOptions


def shape_vision(options: Any, **more: Any) -> dict[str, Any]:
    """Return the configuration of a vision tower of these options' size, in the words of CLIP and SigLIP."""
    return {"hidden_size": options.width, "intermediate_size": 2 * options.width,
            "num_hidden_layers": options.vision_layers, "num_attention_heads": options.heads,
            "image_size": options.image_size, "patch_size": options.patch_size, **more}


def shape_text(tokenizer: Any, options: Any, **more: Any) -> dict[str, Any]:
    """Return the configuration of a Llama-like language model of these options' size."""
    return {"hidden_size": options.width, "intermediate_size": 2 * options.width,
            "num_hidden_layers": options.text_layers, "num_attention_heads": options.heads,
            "num_key_value_heads": options.heads, "vocab_size": len(tokenizer), "max_position_embeddings": 4096,
            "initializer_range": 0.04, "tie_word_embeddings": False, "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, **more}


def name_tile_tokens() -> dict[str, str]:
    """Return the special tokens of Idefics3 and SmolVLM by name: image, what stands around it, tiles of a grid."""
    tiles = {f"row_{row}_col_{column}": f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)}
    return {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>"} | tiles


def list_grids(side: int) -> list[list[int]]:
    """Return the sizes of grids of up to two by two tiles of this side, [height, width] in pixels."""
    return [[side, 2 * side], [2 * side, side], [2 * side, 2 * side]]


def train_tokenizer(texts: Sequence[str], special_tokens: Sequence[str], vocabulary_size: int,
                    named: Mapping[str, str] | None = None) -> Any:
    """Return a byte-level BPE tokenizer trained on `texts`, padding on the left.

    `named` gives special tokens the names by which a processor asks for them, such as image_token.

    Every text is learned as it stands in a prompt, after a blank and after a line end. Ids 0, 1, 2 are
    <pad>, <s>, </s>; the special tokens follow. No text is unknown: single bytes remain.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size, special_tokens=["<pad>", "<s>", "</s>", *special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    bpe.train_from_iterator([mark + text for text in (texts or STOCK_TEXTS) for mark in (" ", "\n")], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
                                   padding_side="left", clean_up_tokenization_spaces=False,
                                   extra_special_tokens=dict(named or {}))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run with torch's random numbers set to `seed`, and put the old state back."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield

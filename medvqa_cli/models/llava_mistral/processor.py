"""Tokenizer, image processor and chat template of an original checkpoint."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import ModelError
from medvqa_cli.models.sentencepiece_file import load_sentencepiece

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

IMAGE_TOKEN = "<image>"
PAD_TOKEN = "<pad>"
TEMPLATE = (
    "{% for message in messages %}{{ ' ' if message['role'] == 'assistant' else '[INST] ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{{ '<image>\\n' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}"
    "{{ eos_token if message['role'] == 'assistant' else ' [/INST]' }}{% endfor %}"
)
"""The original's mode `mistral_instruct`: [INST] <image>, a line end, the question [/INST] answer</s>."""


def load_tokenizer(folder: Path) -> Any:
    """Return a checkpoint's tokenizer, from tokenizer.json or SentencePiece's tokenizer.model.

    Raises:
        ModelError: If it has neither, or the file is damaged.
    """
    from transformers import PreTrainedTokenizerFast

    if (folder / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left")
    if not (folder / "tokenizer.model").is_file():
        raise ModelError(f"'{folder}' holds no tokenizer: neither tokenizer.json nor tokenizer.model.",
                         "The download is incomplete; download the checkpoint again.")
    return load_sentencepiece(folder / "tokenizer.model", _read_settings(folder / "tokenizer_config.json"))


def add_tokens(tokenizer: Any, rows: int, folder: Path) -> tuple[str, ...]:
    """Give a tokenizer the image token, and a padding token unless it has one that means nothing else.

    Returns:
        The tokens that it did not have.

    Raises:
        ModelError: If it had more tokens than the embeddings have rows.
    """
    if len(tokenizer) > rows:
        raise ModelError(f"The tokenizer of '{folder}' has {len(tokenizer)} tokens, the embeddings have {rows} rows.",
                         "Tokenizer and weights do not belong together.")
    before = set(tokenizer.get_vocab())
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    if tokenizer.pad_token in {None, tokenizer.unk_token, tokenizer.eos_token, tokenizer.bos_token}:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    return tuple(token for token in (IMAGE_TOKEN, tokenizer.pad_token) if token not in before)


def make_processor(config: Any, tokenizer: Any, original: Mapping[str, Any]) -> Any:
    """Return a LlavaProcessor; a picture is padded to a square with CLIP's mean colour if config.json says "pad".

    Differs: the original pads by a pixel more above or to the left, drawn at random, where the margin is odd.
    """
    from transformers import LlavaProcessor
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    side = config.vision_config.image_size
    picture = LlavaImageProcessorPil(do_pad=original.get("image_aspect_ratio") == "pad", size={"shortest_edge": side},
                                     crop_size={"height": side, "width": side})
    return LlavaProcessor(picture, tokenizer, patch_size=config.vision_config.patch_size,
                          vision_feature_select_strategy=config.vision_feature_select_strategy,
                          num_additional_image_tokens=1, chat_template=TEMPLATE)


def _read_settings(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"'{file}' is damaged: {error}.", "Download the checkpoint again.") from error
    return settings if isinstance(settings, dict) else {}

"""LLaVA-1.5 (Liu et al. 2023, arXiv:2310.03744): CLIP vision tower, two-layer projector, Llama or Mistral."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from medvqa_cli.models.processors import expand_placeholders, to_messages, tokenize_continuation, tokenize_prompt
from medvqa_cli.models.protocol import Capabilities, ImageInputs, ModelCard, ModelLayout
from medvqa_cli.models.tiny import seeded, train_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from PIL import Image
    from pydantic import BaseModel

    from medvqa_cli.data.prompts import Turn

IMAGE_TOKEN = "<image>"
ANSWER_CUE = "ASSISTANT:"
POSITION_SPREAD = 8.0
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% elif message['role'] == 'assistant' %}"
    "ASSISTANT: {% endif %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


class Llava:
    """LLaVA-1.5 style checkpoints."""

    card = ModelCard(
        title="LLaVA-1.5",
        summary="CLIP vision tower, two-layer projector, Llama or Mistral; 576 tokens an image at 336 px.",
        homepage="https://llava-vl.github.io",
        citation="Liu et al. 2023, Improved Baselines with Visual Instruction Tuning, arXiv:2310.03744",
        licence="Llama 2 Community License for the published 1.5 checkpoints",
        model_types=("llava",),
        checkpoints={
            "llava_1.5_7b": "llava-hf/llava-1.5-7b-hf",
            "llava_1.5_13b": "llava-hf/llava-1.5-13b-hf",
            "llava_med": "microsoft/llava-med-v1.5-mistral-7b",
        },
        id_patterns=(r"llava-1\.5", r"llava-med"),
        aliases=("llava_1_5",),
    )
    layout = ModelLayout(
        vision_tower="model.vision_tower",
        projector="model.multi_modal_projector",
        language_model="model.language_model",
        lora_targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    )
    capabilities = Capabilities(packs=True)

    @cached_property
    def Options(self) -> type[BaseModel]:  # noqa: N802 - the protocol's name
        """Size of a model built from random weights."""
        from pydantic import Field

        from medvqa_cli.settings.section import Section

        class LlavaOptions(Section):
            """Size of a LLaVA built from random weights (model.scratch)."""

            image_size: int = Field(48, ge=8, le=1024)
            """Side of the square the picture is resized to, in pixels."""
            patch_size: int = Field(12, ge=2, le=64)
            """Side of a patch, in pixels; (image_size / patch_size)^2 image tokens."""
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

        return LlavaOptions

    def load_processor(self, checkpoint: str) -> Any:
        """Return a LlavaProcessor; the patch size and feature selection old checkpoints lack come from config.json."""
        from transformers import AutoConfig, LlavaProcessor

        processor = LlavaProcessor.from_pretrained(checkpoint)
        config = AutoConfig.from_pretrained(checkpoint)
        if processor.patch_size is None:
            processor.patch_size = config.vision_config.patch_size
            processor.num_additional_image_tokens = 1
        if processor.vision_feature_select_strategy is None:
            processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        return processor

    def load_model(self, checkpoint: str, **loading: Any) -> torch.nn.Module:
        """Return a LlavaForConditionalGeneration."""
        from transformers import LlavaForConditionalGeneration

        model: torch.nn.Module = LlavaForConditionalGeneration.from_pretrained(checkpoint, **loading)
        return model

    def encode_images(self, processor: Any, images: Sequence[Image.Image]) -> ImageInputs:
        """Return pixel_values [images, 3, height, width] and the patches each image takes."""
        if not images:
            return ImageInputs()
        pixels = processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        patches = (pixels.shape[-2] // processor.patch_size) * (pixels.shape[-1] // processor.patch_size)
        dropped = 1 if processor.vision_feature_select_strategy == "default" else 0
        count = patches + processor.num_additional_image_tokens - dropped
        return ImageInputs({"pixel_values": pixels}, (count,) * len(images))

    def encode_prompt(self, processor: Any, turns: Sequence[Turn], images: ImageInputs) -> list[int]:
        """Return the prompt by the checkpoint's chat template, or LLaVA-1.5's own where it has none."""
        template = processor.chat_template or TEMPLATE
        text = processor.tokenizer.apply_chat_template(
            to_messages(turns), chat_template=template, add_generation_prompt=True, tokenize=False)
        return expand_placeholders(tokenize_prompt(processor.tokenizer, text), processor.image_token_id,
                                   images.num_tokens)

    def encode_answer(self, processor: Any, answer: str) -> list[int]:
        """Return " answer" and the end-of-sequence token."""
        tokenizer = processor.tokenizer
        return [*tokenize_continuation(tokenizer, ANSWER_CUE, f" {answer}"), tokenizer.eos_token_id]

    def build_tiny(self, directory: Path, *, texts: Sequence[str] = (), options: Any = None, seed: int = 0) -> None:
        """Write a random LLaVA whose picture is resized to a square, not cropped, so that nothing of it is lost."""
        options = options or self.Options()
        if options.image_size % options.patch_size or options.width % options.heads:
            raise ValueError("image_size must be a multiple of patch_size, and width of heads")
        processor = _build_processor(texts, options)
        with seeded(seed):
            _build_model(processor, options).save_pretrained(directory)
        processor.save_pretrained(directory)


def _build_processor(texts: Sequence[str], options: Any) -> Any:
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    side = {"height": options.image_size, "width": options.image_size}
    picture = CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False,
                                    image_mean=[0.5] * 3, image_std=[0.5] * 3)
    tokenizer = train_tokenizer(["USER:", ANSWER_CUE, *texts], [IMAGE_TOKEN], options.vocabulary_size)
    return LlavaProcessor(picture, tokenizer, patch_size=options.patch_size, vision_feature_select_strategy="default",
                          num_additional_image_tokens=1, chat_template=TEMPLATE)


def _build_model(processor: Any, options: Any) -> Any:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    tokenizer = processor.tokenizer
    shape = {"hidden_size": options.width, "intermediate_size": 2 * options.width,
             "num_attention_heads": options.heads}
    vision = {"model_type": "clip_vision_model", "num_hidden_layers": options.vision_layers,
              "image_size": options.image_size, "patch_size": options.patch_size, "hidden_act": "gelu", **shape}
    text = {"model_type": "llama", "num_hidden_layers": options.text_layers, "vocab_size": len(tokenizer),
            "num_key_value_heads": options.heads, "max_position_embeddings": 4096, "initializer_range": 0.04,
            "tie_word_embeddings": False, "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, **shape}
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=processor.image_token_id,
                         vision_feature_layer=-1, vision_feature_select_strategy="default")
    return _spread_positions(LlavaForConditionalGeneration(config))


def _spread_positions(model: Any) -> Any:
    """Draw the tower's position embeddings eight times wider than CLIP does, and return the model.

    CLIP's (standard deviation 0.02) drown in the patch embeddings of a small tower, and where something lies is
    learned late or never.
    """
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("position_embedding.weight"):
                parameter.mul_(POSITION_SPREAD)
    return model


PLUGIN = Llava()

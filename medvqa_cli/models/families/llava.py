"""LLaVA-1.5 (Liu et al. 2023, arXiv:2310.03744): CLIP vision tower, two-layer projector, Llama or Mistral."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.models.family import ChatFamily
from medvqa_cli.models.processors import mark_images
from medvqa_cli.models.protocol import ImageInputs, ModelCard
from medvqa_cli.models.tiny import shape_text, shape_vision, train_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

IMAGE_TOKEN = "<image>"
POSITION_SPREAD = 8.0
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% elif message['role'] == 'assistant' %}"
    "ASSISTANT: {% endif %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


class Llava(ChatFamily):
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
        },
        id_patterns=(r"llava-1\.5",),
        aliases=("llava_1_5",),
    )
    model_class = "LlavaForConditionalGeneration"
    processor_class = "LlavaProcessor"
    template = TEMPLATE

    def load_processor(self, checkpoint: str) -> Any:
        """Return a LlavaProcessor; the patch size and feature selection old checkpoints lack come from config.json."""
        from transformers import AutoConfig

        processor = super().load_processor(checkpoint)
        config = AutoConfig.from_pretrained(checkpoint)
        if processor.patch_size is None:
            processor.patch_size = config.vision_config.patch_size
            processor.num_additional_image_tokens = 1
        if processor.vision_feature_select_strategy is None:
            processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        return processor

    def encode_images(self, processor: Any, images: Sequence[Image.Image]) -> ImageInputs:
        """Return pixel_values [images, 3, height, width] and the patches each image takes."""
        if not images:
            return ImageInputs()
        pixels = processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        patches = (pixels.shape[-2] // processor.patch_size) * (pixels.shape[-1] // processor.patch_size)
        dropped = 1 if processor.vision_feature_select_strategy == "default" else 0
        count = patches + processor.num_additional_image_tokens - dropped
        token = processor.image_token
        return mark_images({"pixel_values": pixels}, [token * count] * len(images), token)

    def build_processor(self, texts: Sequence[str], options: Any) -> Any:
        """Return a processor that resizes a picture to a square, not cropped, so that nothing of it is lost."""
        from transformers import CLIPImageProcessorPil, LlavaProcessor

        side = {"height": options.image_size, "width": options.image_size}
        picture = CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False,
                                        image_mean=[0.5] * 3, image_std=[0.5] * 3)
        tokenizer = train_tokenizer(["USER:", "ASSISTANT:", *texts], [IMAGE_TOKEN], options.vocabulary_size)
        return LlavaProcessor(picture, tokenizer, patch_size=options.patch_size, chat_template=TEMPLATE,
                              vision_feature_select_strategy="default", num_additional_image_tokens=1)

    def build_model(self, processor: Any, options: Any) -> Any:
        """Return a random LLaVA whose tower's position embeddings are eight times wider than CLIP draws them.

        CLIP's (standard deviation 0.02) drown in the patch embeddings of a small tower, and where something lies is
        learned late or never.
        """
        import torch
        from transformers import LlavaConfig, LlavaForConditionalGeneration

        config = LlavaConfig(
            vision_config=shape_vision(options, model_type="clip_vision_model", hidden_act="gelu"),
            text_config=shape_text(processor.tokenizer, options, model_type="llama"),
            image_token_index=processor.image_token_id, vision_feature_layer=-1,
            vision_feature_select_strategy="default")
        model = LlavaForConditionalGeneration(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("position_embedding.weight"):
                    parameter.mul_(POSITION_SPREAD)
        return model


PLUGIN = Llava()

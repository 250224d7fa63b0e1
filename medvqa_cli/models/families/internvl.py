"""InternVL3 (Zhu et al. 2025, arXiv:2504.10479) in transformers' layout (-hf): a picture in tiles of 448 pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.models.family import ChatFamily
from medvqa_cli.models.processors import find_processor_class, make_absent_video_processor
from medvqa_cli.models.protocol import ModelCard
from medvqa_cli.models.tiny import shape_text, shape_vision, train_tokenizer, write_template

if TYPE_CHECKING:
    from collections.abc import Sequence


TOKENS = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
          "video_token": "<video>"}


class InternVL(ChatFamily):
    """InternVL checkpoints whose names end in -hf."""

    card = ModelCard(
        title="InternVL3",
        summary="InternViT on up to 12 tiles of the picture, 256 tokens a tile; 1 to 78 billion parameters.",
        homepage="https://internvl.github.io/blog/2025-04-11-InternVL-3.0/",
        citation="Zhu et al. 2025, InternVL3: Exploring Advanced Training and Test-Time Recipes for Open-Source "
                 "Multimodal Models, arXiv:2504.10479",
        licence="MIT; of the language model: Qwen License or Apache 2.0",
        model_types=("internvl",),
        checkpoints={
            "internvl3_8b": "OpenGVLab/InternVL3-8B-hf",
            "internvl3_2b": "OpenGVLab/InternVL3-2B-hf",
            "internvl3_1b": "OpenGVLab/InternVL3-1B-hf",
        },
        id_patterns=(r"internvl.*-hf",),
        aliases=("intern_vl", "internvl3"),
    )
    model_class = "InternVLForConditionalGeneration"
    processor_class = "InternVLProcessor"
    template = write_template(user="<|im_start|>user\n", assistant="<|im_start|>assistant\n", end="<|im_end|>\n",
                              image="<IMG_CONTEXT>\n")

    def build_processor(self, texts: Sequence[str], options: Any) -> Any:
        """Return a processor of at most two tiles and an overview."""
        from transformers import GotOcr2ImageProcessorPil

        picture = GotOcr2ImageProcessorPil(size={"height": options.image_size, "width": options.image_size},
                                           crop_to_patches=True, min_patches=1, max_patches=2)
        tokenizer = train_tokenizer(texts, [*TOKENS.values(), "<|im_start|>", "<|im_end|>"], options.vocabulary_size,
                                    TOKENS)
        return find_processor_class(self.processor_class)(
            image_processor=picture, tokenizer=tokenizer, video_processor=make_absent_video_processor(),
            image_seq_length=(options.image_size // options.patch_size // 2) ** 2, chat_template=self.template)

    def build_model(self, processor: Any, options: Any) -> Any:
        """Return a random InternVL, its patches merged two by two."""
        from transformers import InternVLConfig, InternVLForConditionalGeneration

        vision = shape_vision(options, image_size=[options.image_size] * 2, patch_size=[options.patch_size] * 2)
        return InternVLForConditionalGeneration(InternVLConfig(
            vision_config=vision, text_config=shape_text(processor.tokenizer, options, model_type="qwen2"),
            image_token_id=processor.image_token_id, image_seq_length=processor.image_seq_length,
            downsample_ratio=0.5))


PLUGIN = InternVL()

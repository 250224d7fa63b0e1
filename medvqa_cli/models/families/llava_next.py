"""LLaVA-NeXT, or LLaVA-1.6 (Liu et al. 2024): LLaVA with a picture also seen in tiles of a fitting grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.models.family import ChatFamily
from medvqa_cli.models.protocol import ModelCard
from medvqa_cli.models.tiny import list_grids, shape_text, shape_vision, train_tokenizer, write_template

if TYPE_CHECKING:
    from collections.abc import Sequence


class LlavaNext(ChatFamily):
    """LLaVA-NeXT checkpoints."""

    card = ModelCard(
        title="LLaVA-NeXT (1.6)",
        summary="CLIP vision tower on the picture and on up to 4 tiles of it; up to 2,880 tokens an image.",
        homepage="https://llava-vl.github.io/blog/2024-01-30-llava-next/",
        citation="Liu et al. 2024, LLaVA-NeXT: Improved reasoning, OCR, and world knowledge",
        licence="of the language model: Apache 2.0 (Mistral), Llama 2 Community License (Vicuna)",
        model_types=("llava_next",),
        checkpoints={
            "llava_next_mistral_7b": "llava-hf/llava-v1.6-mistral-7b-hf",
            "llava_next_vicuna_7b": "llava-hf/llava-v1.6-vicuna-7b-hf",
            "llava_next_vicuna_13b": "llava-hf/llava-v1.6-vicuna-13b-hf",
        },
        id_patterns=(r"llava-v1\.6", r"llava-next"),
        aliases=("llava_1_6", "llava_v1_6"),
    )
    model_class = "LlavaNextForConditionalGeneration"
    processor_class = "LlavaNextProcessor"
    template = write_template(user="[INST] ", assistant="[/INST]", end=" ", image="<image>\n")

    def build_processor(self, texts: Sequence[str], options: Any) -> Any:
        """Return a processor with grids of two by one, one by two and two by two tiles."""
        from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor

        side = options.image_size
        picture = LlavaNextImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side},
                                             image_grid_pinpoints=list_grids(side))
        tokenizer = train_tokenizer(["[INST]", "[/INST]", *texts], ["<image>"], options.vocabulary_size)
        return LlavaNextProcessor(picture, tokenizer, patch_size=options.patch_size, chat_template=self.template,
                                  vision_feature_select_strategy="default", num_additional_image_tokens=1)

    def build_model(self, processor: Any, options: Any) -> Any:
        """Return a random LLaVA-NeXT."""
        from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

        return LlavaNextForConditionalGeneration(LlavaNextConfig(
            vision_config=shape_vision(options, model_type="clip_vision_model"),
            text_config=shape_text(processor.tokenizer, options, model_type="mistral", sliding_window=None),
            image_token_index=processor.image_token_id, image_grid_pinpoints=list_grids(options.image_size)))


PLUGIN = LlavaNext()

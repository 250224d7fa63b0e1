"""LLaVA-OneVision (Li et al. 2024, arXiv:2408.03326): SigLIP vision tower on picture and tiles, Qwen2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.models.family import ChatFamily
from medvqa_cli.models.processors import find_processor_class, make_absent_video_processor
from medvqa_cli.models.protocol import ModelCard
from medvqa_cli.models.tiny import list_grids, shape_text, shape_vision, train_tokenizer, write_template

if TYPE_CHECKING:
    from collections.abc import Sequence


class LlavaOnevision(ChatFamily):
    """LLaVA-OneVision checkpoints."""

    card = ModelCard(
        title="LLaVA-OneVision",
        summary="SigLIP vision tower on the picture and on tiles of it, Qwen2; 0.5 to 72 billion parameters.",
        homepage="https://llava-vl.github.io/blog/2024-08-05-llava-onevision/",
        citation="Li et al. 2024, LLaVA-OneVision: Easy Visual Task Transfer, arXiv:2408.03326",
        licence="Apache 2.0 for the checkpoints of 0.5 and 7 billion parameters",
        model_types=("llava_onevision",),
        checkpoints={
            "llava_onevision_7b": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
            "llava_onevision_0.5b": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        },
        id_patterns=(r"llava-onevision",),
        aliases=("onevision", "llava_ov"),
    )
    model_class = "LlavaOnevisionForConditionalGeneration"
    processor_class = "LlavaOnevisionProcessor"
    template = write_template(user="<|im_start|>user\n", assistant="<|im_start|>assistant\n", end="<|im_end|>\n",
                              image="<image>\n")

    def build_processor(self, texts: Sequence[str], options: Any) -> Any:
        """Return a processor with grids of up to two by two tiles."""
        from transformers import LlavaOnevisionImageProcessorPil

        side = options.image_size
        picture = LlavaOnevisionImageProcessorPil(size={"height": side, "width": side},
                                                  image_grid_pinpoints=list_grids(side))
        tokenizer = train_tokenizer(texts, ["<image>", "<video>", "<|im_start|>", "<|im_end|>"],
                                    options.vocabulary_size)
        return find_processor_class(self.processor_class)(
            image_processor=picture, tokenizer=tokenizer, video_processor=make_absent_video_processor(),
            num_image_tokens=(side // options.patch_size) ** 2, vision_feature_select_strategy="full",
            chat_template=self.template)

    def build_model(self, processor: Any, options: Any) -> Any:
        """Return a random LLaVA-OneVision."""
        from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

        return LlavaOnevisionForConditionalGeneration(LlavaOnevisionConfig(
            vision_config=shape_vision(options, model_type="siglip_vision_model"),
            text_config=shape_text(processor.tokenizer, options, model_type="qwen2"),
            image_token_index=processor.image_token_id, video_token_index=processor.video_token_id,
            image_grid_pinpoints=list_grids(options.image_size), vision_feature_layer=-1))


PLUGIN = LlavaOnevision()

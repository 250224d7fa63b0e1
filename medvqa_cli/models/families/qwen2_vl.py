"""Qwen2-VL (Wang et al. 2024, arXiv:2409.12191): a picture in its own resolution, positions on three axes."""

from __future__ import annotations

from typing import Any

from medvqa_cli.models.protocol import ModelCard
from medvqa_cli.models.qwen import QwenFamily, name_qwen_tokens, shape_qwen_text, shape_qwen_vision


class Qwen2VL(QwenFamily):
    """Qwen2-VL checkpoints."""

    card = ModelCard(
        title="Qwen2-VL",
        summary="Pictures in their own resolution, one token for each 28 x 28 pixels; 2 to 72 billion parameters.",
        homepage="https://qwenlm.github.io/blog/qwen2-vl/",
        citation="Wang et al. 2024, Qwen2-VL: Enhancing Vision-Language Model's Perception of the World at Any "
                 "Resolution, arXiv:2409.12191",
        licence="Apache 2.0 for the checkpoints of 2 and 7 billion parameters",
        model_types=("qwen2_vl",),
        checkpoints={
            "qwen2_vl_2b": "Qwen/Qwen2-VL-2B-Instruct",
            "qwen2_vl_7b": "Qwen/Qwen2-VL-7B-Instruct",
        },
        id_patterns=(r"qwen2-vl",),
        aliases=("qwen_vl",),
    )
    model_class = "Qwen2VLForConditionalGeneration"
    processor_class = "Qwen2VLProcessor"

    def build_model(self, processor: Any, options: Any) -> Any:
        """Return a random Qwen2-VL."""
        from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

        vision = shape_qwen_vision(options, embed_dim=options.width, mlp_ratio=2)
        del vision["intermediate_size"], vision["out_hidden_size"]
        return Qwen2VLForConditionalGeneration(Qwen2VLConfig(
            vision_config=vision, text_config=shape_qwen_text(processor.tokenizer, options),
            **name_qwen_tokens(processor.tokenizer)))


PLUGIN = Qwen2VL()

"""Qwen3-VL (Qwen team 2025, arXiv:2511.21631): vision features of several depths enter the language model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from medvqa_cli.models.protocol import ModelCard
from medvqa_cli.models.qwen import QwenFamily, name_qwen_tokens, shape_qwen_text, shape_qwen_vision


class Qwen3VL(QwenFamily):
    """Qwen3-VL checkpoints without mixture of experts.

    Its projector is every merger: the one behind the vision tower, and those of the depths that enter the language
    model's first layers (DeepStack, arXiv:2406.04334).
    """

    card = ModelCard(
        title="Qwen3-VL",
        summary="Pictures in their own resolution, one token for each 32 x 32 pixels; 2 to 32 billion parameters.",
        homepage="https://github.com/QwenLM/Qwen3-VL",
        citation="Qwen team 2025, Qwen3-VL Technical Report, arXiv:2511.21631",
        licence="Apache 2.0",
        model_types=("qwen3_vl",),
        checkpoints={
            "qwen3_vl_2b": "Qwen/Qwen3-VL-2B-Instruct",
            "qwen3_vl_4b": "Qwen/Qwen3-VL-4B-Instruct",
            "qwen3_vl_8b": "Qwen/Qwen3-VL-8B-Instruct",
        },
        id_patterns=(r"qwen3-vl-(?!\d+b-a)",),
    )
    layout = replace(QwenFamily.layout, projectors_beside=("model.visual.deepstack_merger_list",))
    model_class = "Qwen3VLForConditionalGeneration"
    processor_class = "Qwen3VLProcessor"

    def build_model(self, processor: Any, options: Any) -> Any:
        """Return a random Qwen3-VL whose first vision layers also feed the language model's, but for its last one."""
        from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

        depths = list(range(min(2, options.vision_layers, options.text_layers - 1)))
        vision = shape_qwen_vision(options, deepstack_visual_indexes=depths, num_position_embeddings=64)
        return Qwen3VLForConditionalGeneration(Qwen3VLConfig(
            vision_config=vision, text_config=shape_qwen_text(processor.tokenizer, options, mrope_interleaved=True),
            **name_qwen_tokens(processor.tokenizer)))


PLUGIN = Qwen3VL()

"""Qwen2.5-VL (Bai et al. 2025, arXiv:2502.13923): Qwen2-VL with window attention in its vision tower."""

from __future__ import annotations

from typing import Any

from medvqa_cli.models.protocol import ModelCard
from medvqa_cli.models.qwen import QwenFamily, name_qwen_tokens, shape_qwen_text, shape_qwen_vision


class Qwen25VL(QwenFamily):
    """Qwen2.5-VL checkpoints."""

    card = ModelCard(
        title="Qwen2.5-VL",
        summary="Pictures in their own resolution, one token for each 28 x 28 pixels; 3 to 72 billion parameters.",
        homepage="https://qwenlm.github.io/blog/qwen2.5-vl/",
        citation="Bai et al. 2025, Qwen2.5-VL Technical Report, arXiv:2502.13923",
        licence="Apache 2.0 for the checkpoints of 7 and 32 billion parameters, Qwen Research License for 3",
        model_types=("qwen2_5_vl",),
        checkpoints={
            "qwen2_5_vl_7b": "Qwen/Qwen2.5-VL-7B-Instruct",
            "qwen2_5_vl_3b": "Qwen/Qwen2.5-VL-3B-Instruct",
        },
        id_patterns=(r"qwen2\.5-vl", r"lingshu"),
    )
    model_class = "Qwen2_5_VLForConditionalGeneration"
    processor_class = "Qwen2_5_VLProcessor"

    def build_model(self, processor: Any, options: Any) -> Any:
        """Return a random Qwen2.5-VL whose last vision layer sees the whole picture, the others windows of it."""
        from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

        vision = shape_qwen_vision(options, fullatt_block_indexes=[options.vision_layers - 1],
                                   window_size=4 * options.patch_size)
        return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(
            vision_config=vision, text_config=shape_qwen_text(processor.tokenizer, options),
            **name_qwen_tokens(processor.tokenizer)))


PLUGIN = Qwen25VL()

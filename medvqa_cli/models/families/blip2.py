"""BLIP-2 (Li et al. 2023, arXiv:2301.12597) with Flan-T5, whose encoder reads image and question together."""

from __future__ import annotations

from typing import Any

from medvqa_cli.models.blip import CITATION, BlipFamily, build_blip2
from medvqa_cli.models.protocol import Capabilities, ModelCard, ModelLayout


class Blip2(BlipFamily):
    """BLIP-2 checkpoints with an encoder-decoder."""

    card = ModelCard(
        title="BLIP-2 with Flan-T5",
        summary="EVA-CLIP at 224 px, 32 tokens an image, Flan-T5; one image a question, nothing shared between "
                "questions.",
        homepage="https://github.com/salesforce/LAVIS/tree/main/projects/blip2",
        citation=CITATION,
        licence="MIT; Flan-T5: Apache 2.0",
        model_types=("blip-2",),
        checkpoints={
            "blip2_flan_t5_xl": "Salesforce/blip2-flan-t5-xl",
            "blip2_flan_t5_xxl": "Salesforce/blip2-flan-t5-xxl",
        },
        id_patterns=(r"blip2-flan-t5",),
        aliases=("blip_2", "blip2_t5"),
    )
    layout = ModelLayout(
        vision_tower="vision_model",
        projector="language_projection",
        language_model="language_model",
        lora_targets=("q", "v"),
        task_type="SEQ_2_SEQ_LM",
    )
    capabilities = Capabilities(packs=False, reads_text_alone=False, max_images=1)
    text_type = "t5"

    def build_model(self, processor: Any, options: Any) -> Any:
        """Return a random BLIP-2 with T5."""
        tokenizer = processor.tokenizer
        return build_blip2(processor, options, {
            "model_type": "t5", "vocab_size": len(tokenizer), "d_model": options.width,
            "d_kv": options.width // options.heads, "d_ff": 2 * options.width, "num_layers": options.text_layers,
            "num_heads": options.heads, "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id, "decoder_start_token_id": tokenizer.pad_token_id})


PLUGIN = Blip2()

"""BLIP-2 (Li et al. 2023, arXiv:2301.12597) with OPT, a decoder that reads image and question in order."""

from __future__ import annotations

from typing import Any

from medvqa_cli.models.blip import CITATION, BlipFamily, build_blip2
from medvqa_cli.models.protocol import Capabilities, ModelCard, ModelLayout


class Blip2OPT(BlipFamily):
    """BLIP-2 checkpoints with OPT, whose positions follow from the mask, so that questions share nothing."""

    card = ModelCard(
        title="BLIP-2 with OPT",
        summary="EVA-CLIP at 224 px, 32 tokens an image, OPT; one image a question, nothing shared between questions.",
        homepage="https://github.com/salesforce/LAVIS/tree/main/projects/blip2",
        citation=CITATION,
        licence="MIT; OPT: OPT-175B License Agreement, for research only",
        model_types=("blip-2",),
        checkpoints={
            "blip2_opt_2.7b": "Salesforce/blip2-opt-2.7b",
            "blip2_opt_6.7b": "Salesforce/blip2-opt-6.7b",
        },
        id_patterns=(r"blip2-opt",),
    )
    layout = ModelLayout(
        vision_tower="vision_model",
        projector="language_projection",
        language_model="language_model",
        lora_targets=("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    )
    capabilities = Capabilities(packs=False, reads_text_alone=False, max_images=1)
    text_type = "opt"
    answer_lead = " "

    def build_model(self, processor: Any, options: Any) -> Any:
        """Return a random BLIP-2 with OPT."""
        tokenizer = processor.tokenizer
        return build_blip2(processor, options, {
            "model_type": "opt", "vocab_size": len(tokenizer), "hidden_size": options.width,
            "word_embed_proj_dim": options.width, "ffn_dim": 2 * options.width,
            "num_hidden_layers": options.text_layers, "num_attention_heads": options.heads,
            "max_position_embeddings": 1024, "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id})


PLUGIN = Blip2OPT()

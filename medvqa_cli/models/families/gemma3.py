"""Gemma 3 (Gemma team 2025, arXiv:2503.19786) and MedGemma: SigLIP, 256 tokens an image that see each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.models.family import ChatFamily
from medvqa_cli.models.protocol import Capabilities, ModelCard
from medvqa_cli.models.tiny import shape_text, shape_vision, train_tokenizer, write_template

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

TOKENS = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}


class Gemma3(ChatFamily):
    """Gemma 3 checkpoints with a vision tower, MedGemma among them."""

    card = ModelCard(
        title="Gemma 3, MedGemma",
        summary="SigLIP at 896 px, 256 tokens an image; MedGemma is trained on medical images and texts.",
        homepage="https://developers.google.com/health-ai-developer-foundations/medgemma",
        citation="Gemma team 2025, Gemma 3 Technical Report, arXiv:2503.19786; Sellergren et al. 2025, MedGemma "
                 "Technical Report, arXiv:2507.05201",
        licence="Gemma Terms of Use; MedGemma: Health AI Developer Foundations terms (both gated on the hub)",
        model_types=("gemma3",),
        checkpoints={
            "medgemma_4b": "google/medgemma-4b-it",
            "medgemma_27b": "google/medgemma-27b-it",
            "gemma3_4b": "google/gemma-3-4b-it",
            "gemma3_12b": "google/gemma-3-12b-it",
        },
        id_patterns=(r"medgemma", r"gemma-3-(4|12|27)b"),
        aliases=("medgemma",),
    )
    capabilities = Capabilities(packs=True, bidirectional_images=True)
    model_class = "Gemma3ForConditionalGeneration"
    processor_class = "Gemma3Processor"
    template = write_template(start="<s>", user="<start_of_turn>user\n", assistant="<start_of_turn>model\n",
                              end="<end_of_turn>\n", image="<start_of_image>")

    def find_image_token(self, processor: Any) -> int:
        """Return the soft token; the processor's own image token opens an image."""
        token: int = processor.tokenizer.image_token_id
        return token

    def mark_tokens(self, processor: Any, input_ids: torch.Tensor,
                    answers: torch.Tensor) -> Mapping[str, torch.Tensor]:  # noqa: ARG002 - the protocol's arguments
        """Return token_type_ids [B, T]: 1 where an image feature goes; tokens of one image see each other."""
        return {"token_type_ids": (input_ids == self.find_image_token(processor)).int()}

    def build_processor(self, texts: Sequence[str], options: Any) -> Any:
        """Return a processor that resizes a picture to a square."""
        from transformers import Gemma3ImageProcessorPil, Gemma3Processor

        picture = Gemma3ImageProcessorPil(size={"height": options.image_size, "width": options.image_size})
        tokenizer = train_tokenizer(texts, [*TOKENS.values(), "<start_of_turn>", "<end_of_turn>"],
                                    options.vocabulary_size, TOKENS)
        return Gemma3Processor(picture, tokenizer, chat_template=self.template,
                               image_seq_length=(options.image_size // options.patch_size // 2) ** 2)

    def build_model(self, processor: Any, options: Any) -> Any:
        """Return a random Gemma 3 with patches pooled two by two and, from two layers on, a sliding window.

        transformers begins the projection of image features at zero, so that a picture would not be seen at all.
        """
        import torch
        from transformers import Gemma3Config, Gemma3ForConditionalGeneration

        tokenizer = processor.tokenizer
        kinds = ["sliding_attention" if layer % 2 == 0 else "full_attention" for layer in range(options.text_layers)]
        text = shape_text(tokenizer, options, head_dim=options.width // options.heads, sliding_window=24,
                          layer_types=kinds, query_pre_attn_scalar=options.width // options.heads)
        model = Gemma3ForConditionalGeneration(Gemma3Config(
            vision_config=shape_vision(options), text_config=text, mm_tokens_per_image=processor.image_seq_length,
            boi_token_index=tokenizer.boi_token_id, eoi_token_index=tokenizer.eoi_token_id,
            image_token_index=tokenizer.image_token_id))
        torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.1)
        return model


PLUGIN = Gemma3()

"""PaliGemma (Beyer et al. 2024, arXiv:2407.07726): image and question see each other, only the answer is causal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.models.family import ChatFamily
from medvqa_cli.models.processors import mark_images, tokenize_continuation
from medvqa_cli.models.protocol import Capabilities, ImageInputs, ModelCard
from medvqa_cli.models.tiny import shape_text, shape_vision, train_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from PIL import Image

    from medvqa_cli.data.prompts import Turn


class PaliGemma(ChatFamily):
    """PaliGemma and PaliGemma 2 checkpoints."""

    card = ModelCard(
        title="PaliGemma",
        summary="SigLIP at 224 to 896 px, Gemma; image and question attend to each other, so nothing is shared "
                "between questions.",
        homepage="https://ai.google.dev/gemma/docs/paligemma",
        citation="Beyer et al. 2024, PaliGemma: A versatile 3B VLM for transfer, arXiv:2407.07726",
        licence="Gemma Terms of Use (gated on the hub)",
        model_types=("paligemma",),
        checkpoints={
            "paligemma2_3b": "google/paligemma2-3b-mix-448",
            "paligemma_3b": "google/paligemma-3b-mix-224",
        },
        id_patterns=(r"paligemma",),
        aliases=("paligemma2",),
    )
    capabilities = Capabilities(packs=False, reads_text_alone=False)
    model_class = "PaliGemmaForConditionalGeneration"
    processor_class = "PaliGemmaProcessor"

    def encode_images(self, processor: Any, images: Sequence[Image.Image]) -> ImageInputs:
        """Return pixel_values [images, 3, height, width]."""
        if not images:
            return ImageInputs()
        pixels = processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        token = processor.image_token
        return mark_images({"pixel_values": pixels}, [token * processor.image_seq_length] * len(images), token)

    def encode_prompt(self, processor: Any, turns: Sequence[Turn], images: ImageInputs) -> list[int]:
        """Return image tokens, the beginning of the sequence, the conversation's texts a line each, a line end."""
        tokenizer = processor.tokenizer
        text = "".join(turn.text + "\n" for turn in turns)
        if processor.image_token in text:
            raise ValueError(f"a text holds the image placeholder ({processor.image_token})")
        ids = [processor.image_token_id] * sum(images.num_tokens)
        return [*ids, tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids]

    def encode_answer(self, processor: Any, answer: str) -> list[int]:
        """Return the answer and the end of the sequence."""
        tokenizer = processor.tokenizer
        return [*tokenize_continuation(tokenizer, "\n", answer), tokenizer.eos_token_id]

    def mark_tokens(self, processor: Any, input_ids: torch.Tensor,  # noqa: ARG002 - the protocol's arguments
                    answers: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Return token_type_ids [B, T]: 1 at the answer, which is causal; all before it see each other."""
        return {"token_type_ids": answers.int()}

    def build_processor(self, texts: Sequence[str], options: Any) -> Any:
        """Return a processor that resizes a picture to a square."""
        from transformers import PaliGemmaProcessor, SiglipImageProcessorPil

        picture = SiglipImageProcessorPil(size={"height": options.image_size, "width": options.image_size})
        picture.image_seq_length = (options.image_size // options.patch_size) ** 2
        return PaliGemmaProcessor(picture, train_tokenizer(texts, ["<image>"], options.vocabulary_size,
                                                           {"image_token": "<image>"}))

    def build_model(self, processor: Any, options: Any) -> Any:
        """Return a random PaliGemma."""
        from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

        text = shape_text(processor.tokenizer, options, model_type="gemma", head_dim=options.width // options.heads)
        return PaliGemmaForConditionalGeneration(PaliGemmaConfig(
            vision_config=shape_vision(options, model_type="siglip_vision_model", projection_dim=options.width),
            text_config=text, image_token_index=processor.image_token_id, projection_dim=options.width,
            hidden_size=options.width))


PLUGIN = PaliGemma()

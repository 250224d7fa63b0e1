"""Idefics3 (Laurençon et al. 2024, arXiv:2408.12637): SigLIP on tiles and an overview, Llama 3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.models.family import LLAMA_TARGETS, ChatFamily
from medvqa_cli.models.protocol import ModelCard, ModelLayout
from medvqa_cli.models.tiny import name_tile_tokens, shape_text, shape_vision, train_tokenizer, write_template

if TYPE_CHECKING:
    from collections.abc import Sequence


class Idefics3(ChatFamily):
    """Idefics3 checkpoints."""

    card = ModelCard(
        title="Idefics3",
        summary="SigLIP vision tower on tiles of 364 pixels and an overview, 169 tokens a tile, Llama 3.1.",
        homepage="https://huggingface.co/HuggingFaceM4/Idefics3-8B-Llama3",
        citation="Laurençon et al. 2024, Building and better understanding vision-language models, arXiv:2408.12637",
        licence="Apache 2.0; of the language model: Llama 3.1 Community License",
        model_types=("idefics3",),
        checkpoints={"idefics3_8b": "HuggingFaceM4/Idefics3-8B-Llama3"},
        id_patterns=(r"idefics3",),
    )
    layout = ModelLayout(
        vision_tower="model.vision_model",
        projector="model.connector",
        language_model="model.text_model",
        lora_targets=LLAMA_TARGETS,
    )
    model_class = "Idefics3ForConditionalGeneration"
    processor_class = "Idefics3Processor"
    template = write_template(start="<s>", user="User:", assistant="Assistant:", end="<end_of_utterance>\n",
                              image="<image>")

    def build_processor(self, texts: Sequence[str], options: Any) -> Any:
        """Return a processor with up to two by two tiles and an overview."""
        from transformers import Idefics3ImageProcessorPil, Idefics3Processor

        picture = Idefics3ImageProcessorPil(size={"longest_edge": 2 * options.image_size},
                                            max_image_size={"longest_edge": options.image_size})
        named = name_tile_tokens()
        tokenizer = train_tokenizer(["User:", "Assistant:", *texts], list(named.values()), options.vocabulary_size)
        return Idefics3Processor(picture, tokenizer, chat_template=self.template,
                                 image_seq_len=(options.image_size // options.patch_size // 2) ** 2)

    def build_model(self, processor: Any, options: Any) -> Any:
        """Return a random Idefics3, its patches merged two by two."""
        from transformers import Idefics3Config, Idefics3ForConditionalGeneration

        return Idefics3ForConditionalGeneration(Idefics3Config(
            vision_config=shape_vision(options),
            text_config=shape_text(processor.tokenizer, options, model_type="llama"),
            image_token_id=processor.image_token_id, scale_factor=2,
            pad_token_id=processor.tokenizer.pad_token_id))


PLUGIN = Idefics3()

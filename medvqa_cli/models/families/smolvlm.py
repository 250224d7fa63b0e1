"""SmolVLM (Marafioti et al. 2025, arXiv:2504.05299): Idefics3's design in 0.26 to 2.2 billion parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.models.family import LLAMA_TARGETS, ChatFamily
from medvqa_cli.models.processors import find_processor_class, make_absent_video_processor
from medvqa_cli.models.protocol import ModelCard, ModelLayout
from medvqa_cli.models.tiny import name_tile_tokens, shape_text, shape_vision, train_tokenizer, write_template

if TYPE_CHECKING:
    from collections.abc import Sequence


class SmolVLM(ChatFamily):
    """SmolVLM and SmolVLM2 checkpoints."""

    card = ModelCard(
        title="SmolVLM",
        summary="SigLIP vision tower on tiles and an overview, SmolLM2; runs on a laptop.",
        homepage="https://huggingface.co/blog/smolvlm",
        citation="Marafioti et al. 2025, SmolVLM: Redefining small and efficient multimodal models, arXiv:2504.05299",
        licence="Apache 2.0",
        model_types=("smolvlm",),
        checkpoints={
            "smolvlm2_2.2b": "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
            "smolvlm2_500m": "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
            "smolvlm2_256m": "HuggingFaceTB/SmolVLM2-256M-Video-Instruct",
            "smolvlm_256m": "HuggingFaceTB/SmolVLM-256M-Instruct",
        },
        aliases=("smol_vlm", "smolvlm2"),
    )
    layout = ModelLayout(
        vision_tower="model.vision_model",
        projector="model.connector",
        language_model="model.text_model",
        lora_targets=LLAMA_TARGETS,
    )
    model_class = "SmolVLMForConditionalGeneration"
    processor_class = "SmolVLMProcessor"
    template = write_template(start="<s>", user="User:", assistant="Assistant:", end="<end_of_utterance>\n",
                              image="<image>")

    def build_processor(self, texts: Sequence[str], options: Any) -> Any:
        """Return a processor with up to two by two tiles and an overview."""
        from transformers import SmolVLMImageProcessorPil

        picture = SmolVLMImageProcessorPil(size={"longest_edge": 2 * options.image_size},
                                           max_image_size={"longest_edge": options.image_size})
        named = name_tile_tokens()
        tokenizer = train_tokenizer(["User:", "Assistant:", *texts], list(named.values()), options.vocabulary_size)
        return find_processor_class(self.processor_class)(
            picture, tokenizer, make_absent_video_processor(), chat_template=self.template,
            image_seq_len=(options.image_size // options.patch_size // 2) ** 2)

    def build_model(self, processor: Any, options: Any) -> Any:
        """Return a random SmolVLM, its patches merged two by two."""
        from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

        return SmolVLMForConditionalGeneration(SmolVLMConfig(
            vision_config=shape_vision(options),
            text_config=shape_text(processor.tokenizer, options, model_type="llama"),
            image_token_id=processor.image_token_id, scale_factor=2,
            pad_token_id=processor.tokenizer.pad_token_id))


PLUGIN = SmolVLM()

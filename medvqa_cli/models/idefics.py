"""What Idefics3 and SmolVLM share: SigLIP on tiles and an overview, patches merged two by two, a Llama."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.models.family import LLAMA_TARGETS, ChatFamily
from medvqa_cli.models.processors import find_processor_class, make_absent_video_processor
from medvqa_cli.models.protocol import ModelLayout
from medvqa_cli.models.tiny import name_tile_tokens, shape_text, shape_vision, train_tokenizer, write_template

if TYPE_CHECKING:
    from collections.abc import Sequence


class IdeficsFamily(ChatFamily):
    """A family with Idefics3's tiles and tokens.

    Attributes:
        config_class: Name of the configuration's class in transformers.
        picture_class: Name of the image processor's class in transformers, in its PIL form.
    """

    layout = ModelLayout(
        vision_tower="model.vision_model",
        projector="model.connector",
        language_model="model.text_model",
        lora_targets=LLAMA_TARGETS,
    )
    template = write_template(start="<s>", user="User:", assistant="Assistant:", end="<end_of_utterance>\n",
                              image="<image>")
    config_class: str
    picture_class: str

    def build_processor(self, texts: Sequence[str], options: Any) -> Any:
        """Return a processor with up to two by two tiles and an overview."""
        import transformers

        picture = getattr(transformers, self.picture_class)(
            size={"longest_edge": 2 * options.image_size}, max_image_size={"longest_edge": options.image_size})
        tokenizer = train_tokenizer(["User:", "Assistant:", *texts], list(name_tile_tokens().values()),
                                    options.vocabulary_size)
        processor_class = find_processor_class(self.processor_class)
        takes_video = "video_processor" in processor_class.get_attributes()
        return processor_class(picture, tokenizer, *([make_absent_video_processor()] if takes_video else []),
                               chat_template=self.template,
                               image_seq_len=(options.image_size // options.patch_size // 2) ** 2)

    def build_model(self, processor: Any, options: Any) -> Any:
        """Return a random model, its patches merged two by two."""
        import transformers

        config = getattr(transformers, self.config_class)(
            vision_config=shape_vision(options),
            text_config=shape_text(processor.tokenizer, options, model_type="llama"),
            image_token_id=processor.image_token_id, scale_factor=2, pad_token_id=processor.tokenizer.pad_token_id)
        return getattr(transformers, self.model_class)(config)

"""What the BLIP-2 families share: a Q-Former's 32 outputs before "Question: ... Answer:".

Li et al. 2023, BLIP-2, arXiv:2301.12597; the prompt is that of section 4.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.models.family import ChatFamily
from medvqa_cli.models.processors import mark_images
from medvqa_cli.models.protocol import ImageInputs
from medvqa_cli.models.tiny import shape_vision, train_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL import Image

    from medvqa_cli.data.prompts import Turn

ANSWER_CUE = "Answer:"
CITATION = ("Li et al. 2023, BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and Large "
            "Language Models, arXiv:2301.12597")


class BlipFamily(ChatFamily):
    """BLIP-2 around one kind of language model.

    Attributes:
        text_type: The language model's model_type.
        answer_lead: What stands between prompt and answer.
    """

    model_class = "Blip2ForConditionalGeneration"
    processor_class = "Blip2Processor"
    text_type: str
    answer_lead = ""

    def loads(self, config: Mapping[str, Any]) -> bool:
        """Return whether a BLIP-2 checkpoint has this kind of language model."""
        return super().loads(config) and config.get("text_config", {}).get("model_type") == self.text_type

    def encode_images(self, processor: Any, images: Sequence[Image.Image]) -> ImageInputs:
        """Return pixel_values [images, 3, height, width]."""
        if not images:
            return ImageInputs()
        pixels = processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        token = str(processor.image_token)
        return mark_images({"pixel_values": pixels}, [token * processor.num_query_tokens] * len(images), token)

    def encode_prompt(self, processor: Any, turns: Sequence[Turn], images: ImageInputs) -> list[int]:
        """Return query tokens, then "Question: ... Answer:" for every turn as the paper writes it (section 4.1)."""
        text = " ".join(f"{ANSWER_CUE} {turn.text}." if turn.role == "assistant" else
                        f"Question: {turn.text}" if turn.role == "user" else turn.text for turn in turns)
        if str(processor.image_token) in text:
            raise ValueError(f"a text holds the image placeholder ({processor.image_token})")
        ids = [self.find_image_token(processor)] * sum(images.num_tokens)
        return [*ids, *processor.tokenizer(f"{text} {ANSWER_CUE}").input_ids]

    def encode_answer(self, processor: Any, answer: str) -> list[int]:
        """Return the answer, with what leads it in, and the end of the sequence."""
        tokenizer = processor.tokenizer
        ids: list[int] = tokenizer(f"{self.answer_lead}{answer}", add_special_tokens=False).input_ids
        return [*ids, tokenizer.eos_token_id]

    def find_image_token(self, processor: Any) -> int:
        """Return the token that stands where a query's output goes."""
        token: int = processor.tokenizer.convert_tokens_to_ids(str(processor.image_token))
        return token

    def build_processor(self, texts: Sequence[str], options: Any) -> Any:
        """Return a processor that resizes a picture to a square, eight query tokens an image."""
        from transformers import Blip2Processor, BlipImageProcessorPil

        picture = BlipImageProcessorPil(size={"height": options.image_size, "width": options.image_size})
        tokenizer = train_tokenizer(["Question:", ANSWER_CUE, *texts], ["<image>"], options.vocabulary_size)
        return Blip2Processor(picture, tokenizer, num_query_tokens=8)


def build_blip2(processor: Any, options: Any, text: dict[str, Any]) -> Any:
    """Return a random BLIP-2 around a language model's configuration."""
    from transformers import Blip2Config, Blip2ForConditionalGeneration

    former = {"vocab_size": text["vocab_size"], "hidden_size": options.width, "num_hidden_layers": 2,
              "num_attention_heads": options.heads, "intermediate_size": 2 * options.width,
              "encoder_hidden_size": options.width}
    return Blip2ForConditionalGeneration(Blip2Config(
        vision_config=shape_vision(options), qformer_config=former, text_config=text,
        num_query_tokens=processor.num_query_tokens,
        image_token_index=processor.tokenizer.convert_tokens_to_ids(str(processor.image_token))))

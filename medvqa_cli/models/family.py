"""What most families share: transformers' classes, a chat template, the answer as the template writes it.

A family plugin subclasses `ChatFamily` and overrides what is really different.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.models.processors import (
    expand_placeholders,
    find_answer_form,
    load_processor,
    place_images,
    process_images,
    to_messages,
    tokenize_continuation,
    tokenize_prompt,
)
from medvqa_cli.models.protocol import Capabilities, ImageInputs, ModelCard, ModelLayout
from medvqa_cli.models.tiny import make_scratch_options, seeded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch
    from PIL import Image
    from pydantic import BaseModel

    from medvqa_cli.data.prompts import Turn

LLAMA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Every linear layer of a Llama-like layer: what LLaVA's LoRA script adapts, and what QLoRA (Dettmers et al. 2023,
arXiv:2305.14314, section 4) found needed to match full fine-tuning."""


class ChatFamily:
    """A family whose checkpoints follow transformers' conventions.

    Attributes:
        card: Facts about it.
        layout: Where its parts lie; not given: where most of transformers' models have them.
        capabilities: What it can do.
        model_class: Name of the model's class in transformers.
        processor_class: Name of the processor's class in transformers.
        template: Chat template for checkpoints that have none.
    """

    card: ModelCard
    layout = ModelLayout(
        vision_tower="model.vision_tower",
        projector="model.multi_modal_projector",
        language_model="model.language_model",
        lora_targets=LLAMA_TARGETS,
    )
    capabilities = Capabilities(packs=True)
    model_class: str
    processor_class: str
    template = ""

    @property
    def Options(self) -> type[BaseModel] | None:  # noqa: N802 - the protocol's name
        """Size of a model built from random weights. Kept out of the instance, which data-loader workers may pickle."""
        return make_scratch_options()

    def loads(self, config: Mapping[str, Any]) -> bool:
        """Return whether a checkpoint with this config.json is one of the family: by its model_type."""
        return config.get("model_type") in self.card.model_types

    def load_processor(self, checkpoint: str) -> Any:
        """Return the checkpoint's processor, with or without torchvision."""
        return load_processor(checkpoint, self.processor_class)

    def load_model(self, checkpoint: str, **loading: Any) -> Any:
        """Return the checkpoint's model; `loading` goes to `from_pretrained`."""
        import transformers

        return getattr(transformers, self.model_class).from_pretrained(checkpoint, **loading)

    def encode_images(self, processor: Any, images: Sequence[Image.Image]) -> ImageInputs:
        """Return what the processor makes of the images, and the text that it puts in their place."""
        return process_images(processor, images, self.find_image_token(processor))

    def encode_prompt(self, processor: Any, turns: Sequence[Turn], images: ImageInputs) -> list[int]:
        """Return the prompt by the checkpoint's chat template, or the family's own where it has none."""
        text = processor.tokenizer.apply_chat_template(
            to_messages(turns), chat_template=self.find_template(processor), add_generation_prompt=True,
            tokenize=False)
        return self.tokenize(processor, place_images(text, processor.image_token, images), images)

    def encode_answer(self, processor: Any, answer: str) -> list[int]:
        """Return the answer and the token that ends it, as the chat template writes them."""
        prompt, lead, end = find_answer_form(processor.tokenizer, self.find_template(processor))
        return [*tokenize_continuation(processor.tokenizer, prompt, f"{lead}{answer}"), end]

    def find_image_token(self, processor: Any) -> int:
        """Return the processor's image token."""
        token: int = processor.image_token_id
        return token

    def find_template(self, processor: Any) -> str:
        """Return the chat template: the checkpoint's, else the family's."""
        template: str = processor.chat_template or processor.tokenizer.chat_template or self.template
        return template

    def tokenize(self, processor: Any, text: str, images: ImageInputs) -> list[int]:
        """Return the ids of a prompt's text, its markers' image tokens expanded."""
        ids = tokenize_prompt(processor.tokenizer, text)
        return expand_placeholders(ids, self.find_image_token(processor), images.num_tokens)

    def mark_tokens(self, processor: Any, input_ids: torch.Tensor,  # noqa: ARG002 - the protocol's arguments
                    answers: torch.Tensor) -> Mapping[str, torch.Tensor]:  # noqa: ARG002
        """Return nothing: ids and mask say all."""
        return {}

    def find_positions(self, processor: Any, prefix: Sequence[int],  # noqa: ARG002 - the protocol's arguments
                       images: ImageInputs) -> torch.Tensor | None:  # noqa: ARG002
        """Return None: positions are 0, 1, 2..."""
        return None

    def build_tiny(self, directory: Path, *, texts: Sequence[str] = (), options: Any = None, seed: int = 0) -> None:
        """Write a small random checkpoint of the real architecture, its tokenizer trained on `texts`."""
        options = options or make_scratch_options()()
        if options.image_size % options.patch_size or options.width % options.heads:
            raise ValueError("image_size must be a multiple of patch_size, and width of heads")
        processor = self.build_processor(texts, options)
        with seeded(seed):
            self.build_model(processor, options).save_pretrained(directory)
        processor.save_pretrained(directory)

    def build_processor(self, texts: Sequence[str], options: Any) -> Any:
        """Return a processor of the family's class for a small model."""
        raise NotImplementedError

    def build_model(self, processor: Any, options: Any) -> Any:
        """Return a small model of random weights for a processor."""
        raise NotImplementedError

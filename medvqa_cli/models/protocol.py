"""What a model-family plugin is, and what passes between it and the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch
    from PIL import Image
    from pydantic import BaseModel

    from medvqa_cli.data.prompts import Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """Facts about a family, shown by `medvqa models list`.

    `checkpoints` maps short names to hub ids; the first is the default. `model_types` are the values of
    `model_type` in config.json that this family loads; a family without any is never detected and loads what it is
    told to. `aliases` are other names of the family itself. `files_beside` are files of a checkpoint that loading reads
    besides its descriptions and its weights, such as an adapter in a folder of its own.
    """

    title: str
    summary: str
    homepage: str
    citation: str
    licence: str
    model_types: tuple[str, ...]
    checkpoints: Mapping[str, str]
    id_patterns: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    files_beside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLayout:
    """Where the parts of a model lie, as dotted module paths below the model, and what LoRA adapts by default.

    `lora_targets` are module names matched as whole path components inside `language_model`. `projector` is the module
    out of which image features come last; `projectors_beside` are others that bring features of the tower to the
    language model, or stand before it; a list of modules may be named.
    """

    vision_tower: str
    projector: str
    language_model: str
    lora_targets: tuple[str, ...]
    task_type: Literal["CAUSAL_LM", "SEQ_2_SEQ_LM"] = "CAUSAL_LM"
    projectors_beside: tuple[str, ...] = ()

    @property
    def projectors(self) -> tuple[str, ...]:
        """Every module that counts as the projector."""
        return (self.projector, *self.projectors_beside)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a family can do.

    `packs`: its prompt allows shared-image packing and sample trees. `bidirectional_images`: tokens of one image see
    each other, whatever their order. `reads_text_alone`: it answers questions without an image. `max_images`: most
    images of one sample, None for no bound.
    """

    generates: bool = True
    classifies: bool = False
    packs: bool = False
    edits: bool = False
    bidirectional_images: bool = False
    reads_text_alone: bool = True
    max_images: int | None = None


@dataclass(frozen=True, slots=True)
class ImageInputs:
    """One sample's images as the model takes them.

    `tensors` are keyword arguments of the model's forward, such as pixel_values [images, channels, height, width].
    `markers` is what stands for each image in the prompt's text, with one image token for each run of them;
    `num_tokens` is how many image tokens each run has, in the order of the prompt.
    """

    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    num_tokens: tuple[int, ...] = ()
    markers: tuple[str, ...] = ()


@dataclass(slots=True)
class LoadedModel:
    """A model ready to use, with everything needed to feed it."""

    model: Any
    processor: Any
    family: ModelFamily
    family_name: str
    checkpoint: str
    adapter: str = ""

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def device(self) -> torch.device:
        """The device of the model's first parameter."""
        return next(self.model.parameters()).device


@runtime_checkable
class ModelFamily(Protocol):
    """Knows one family of vision-language models: how to load it and how to feed it."""

    card: ModelCard
    layout: ModelLayout
    capabilities: Capabilities
    Options: type[BaseModel] | None

    def loads(self, config: Mapping[str, Any]) -> bool:
        """Return whether a checkpoint with this config.json is one of the family."""

    def load_processor(self, checkpoint: str) -> Any:
        """Return the processor (tokenizer and image processor) of a checkpoint, without needing torchvision."""

    def load_model(self, checkpoint: str, **loading: Any) -> torch.nn.Module:
        """Return the model of a checkpoint; `loading` goes to `from_pretrained` (dtype, attn_implementation...)."""

    def encode_images(self, processor: Any, images: Sequence[Image.Image]) -> ImageInputs:
        """Turn one sample's images into model inputs."""

    def encode_prompt(self, processor: Any, turns: Sequence[Turn], images: ImageInputs) -> list[int]:
        """Return the prompt's token ids, ending where the answer begins, image placeholders expanded."""

    def encode_answer(self, processor: Any, answer: str) -> list[int]:
        """Return the token ids of an answer as it continues the prompt, the end-of-answer token last."""

    def find_image_token(self, processor: Any) -> int:
        """Return the id of the token that stands where an image feature goes."""

    def mark_tokens(self, processor: Any, input_ids: torch.Tensor, answers: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Return what the forward wants to know of tokens [B, T], such as token types, beside ids and a plain mask.

        `answers` [B, T] is True at answer tokens. Not asked for packed rows, whose mask and positions say everything.
        """

    def find_positions(self, processor: Any, prefix: Sequence[int], images: ImageInputs) -> torch.Tensor | None:
        """Return the positions [axes, P] of a prefix that holds all images, or None for 0, 1, 2...

        What follows continues on every axis from the largest position plus 1.
        """

    def build_tiny(self, directory: Path, *, texts: Sequence[str] = (), options: Any = None, seed: int = 0) -> None:
        """Write a small random checkpoint of the real architecture, its tokenizer trained on `texts`."""

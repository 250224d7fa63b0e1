"""Settings of training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from medvqa_cli.settings.augmentation import AugmentSettings
from medvqa_cli.settings.section import Fraction, PositiveFloat, Section


class LoRASettings(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685)."""

    r: PositiveInt = 16
    """Rank."""
    alpha: PositiveInt = 32
    """Scale; the update is multiplied by alpha / r, with rslora by alpha / sqrt(r)."""
    dropout: Fraction = 0.05
    """Dropout before the adapter."""
    dora: bool = False
    """Learn the length of each row of weights apart from its direction (DoRA, Liu et al. 2024, arXiv:2402.09353)."""
    rslora: bool = False
    """Scale by alpha / sqrt(r), so that large ranks learn too (rsLoRA, Kalajdzievski 2023, arXiv:2312.03732)."""
    targets: tuple[str, ...] = ()
    """Preset (attention, query-value, mlp, all-linear), names, re:PATTERN or none; empty takes the family's own."""
    parts: Annotated[tuple[Literal["language_model", "vision_tower", "projector"], ...], Field(min_length=1)] = (
        "language_model",)
    """Parts to adapt; in the vision tower and the projector, empty targets mean every linear layer."""


class TrainSettings(Section):
    """Supervised fine-tuning."""

    tuning: Literal["auto", "lora", "full"] = "auto"
    """What is trained: auto is LoRA for a pretrained checkpoint and everything for a model from scratch."""
    lora: LoRASettings = LoRASettings()
    """Adapter settings."""
    freeze_vision_tower: bool = False
    """Keep the vision tower as it is (with full training; LoRA touches it only where train.lora says so)."""
    tune_projector: bool = False
    """Train the projector in full beside LoRA, or by itself with train.lora.targets none."""
    unfreeze_last_layers: Annotated[int, Field(ge=0)] = 0
    """Train so many last layers of the language model in full beside LoRA, or by themselves with targets none."""
    epochs: PositiveFloat = 3.0
    """Passes over the training questions."""
    max_steps: PositiveInt | None = None
    """Stop after this many optimiser steps, whatever the epochs say."""
    batch_size: PositiveInt = 4
    """Rows per forward pass; with packing a row is one image with its questions."""
    gradient_accumulation: PositiveInt = 1
    """Forward passes per optimiser step."""
    learning_rate: PositiveFloat = 1e-4
    """Peak learning rate of AdamW."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    """Weight decay of AdamW."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""
    warmup: Fraction = 0.03
    """Share of the steps over which the learning rate rises."""
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    packing: Literal["auto", "on", "off"] = "auto"
    """One image prefix for several questions: auto packs where the family allows it."""
    grouping: Literal["auto", "image", "none"] = "auto"
    """Whether questions of one image go through the model together: auto does so where they are packed."""
    pack_questions: PositiveInt = 32
    """Most questions in one pack."""
    pack_length: PositiveInt | None = None
    """Most tokens in one pack; not given: 2,048, or one question's where that is more. Nothing is ever cut off."""
    gradient_checkpointing: bool = False
    """Trade time for memory."""
    eval_fraction: Fraction = 0.25
    """Measure the validation loss each time this share of the steps is done; 0 never."""
    eval_questions: PositiveInt = 512
    """Validation questions used for it, the first of the split."""
    save_fraction: Fraction = 0.25
    """Write a checkpoint each time this share of the steps is done; 0 only at the end."""
    save_total_limit: PositiveInt = 2
    """Checkpoints kept."""
    log_steps: PositiveInt = 10
    """Optimiser steps between log lines."""
    vision_cache: Literal["off", "memory", "disk"] = "off"
    """Keep what a frozen vision tower makes of each picture: in memory, or in files below the prepared data."""
    vision_cache_mb: PositiveInt = 4096
    """Most MiB of the vision cache; what was not used for longest goes first."""
    augment: AugmentSettings = AugmentSettings()
    """How training pictures are varied."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that load images."""
    image_cache_mb: Annotated[int, Field(ge=0)] = 512
    """Memory for processed images, in MiB (each worker has its own)."""

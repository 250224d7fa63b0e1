"""Settings of training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from medvqa_cli.settings.augmentation import AugmentSettings
from medvqa_cli.settings.section import Fraction, PositiveFloat, Section

GROUP_FIELDS = ("answer_type", "question_type", "modality", "organ", "language", "dataset", "answer")
"""Fields of a question that `loss_weights` may name."""


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
    """What is trained, always in float32: auto is LoRA for a checkpoint and everything for a model from scratch."""
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
    """Most tokens in one pack; not given: 2,048 besides those of its image. Nothing is ever cut off."""
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
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that load images."""
    image_cache_mb: Annotated[int, Field(ge=0)] = 512
    """Memory for processed images, in MiB (each worker has its own)."""
    deepspeed: Path | None = None
    """DeepSpeed's own file (JSON): ZeRO spreads optimiser states, gradients and weights over processes."""
    fsdp: Path | None = None
    """File (JSON) with the keys of transformers' fsdp_config: FSDP 2 spreads the same over processes."""
    vision_cache: Literal["off", "memory", "disk"] = "off"
    """Keep what a frozen vision tower makes of each picture: in memory, or in files below the prepared data."""
    vision_cache_mb: PositiveInt = 4096
    """Most MiB of the vision cache; what was not used for longest goes first."""
    augment: AugmentSettings = AugmentSettings()
    """How training pictures are varied."""
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Decay of the moving average of the weights, which is then validated and kept, such as 0.999; 0 for none."""
    balance: Literal["none", "answer_type", "question_type", "answer"] = "none"
    """Let rare classes of this field count more in the loss, inversely to their number of questions."""
    balance_cap: Annotated[float, Field(ge=1.0)] = 10.0
    """Most that a question of a rare class counts, in questions of the most frequent one."""
    loss_weights: dict[str, PositiveFloat] = Field(default={})
    """How much questions of a group count in the loss, such as {"answer_type=closed": 2.0}."""
    closed_share: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Share of closed questions in every epoch, drawn anew for each; if not given, as the data have it."""
    closed_objective: Literal["sft", "mc", "hybrid"] = "sft"
    """Closed questions are taught as text (sft), as a choice among their candidates (mc), or as both (hybrid)."""
    choice_weight: PositiveFloat = 1.0
    """What the loss of the choices, in nats a question, is multiplied with."""
    best_metric: Literal["eval_loss", "probe_accuracy"] = "eval_loss"
    """What the best weights are best in: validation loss, or share of probe questions answered rightly."""
    early_stopping: Annotated[int, Field(ge=0)] = 0
    """Stop after so many measurements of best_metric without a gain; 0 never."""
    min_delta: Annotated[float, Field(ge=0.0)] = 0.0
    """A gain is more than this."""
    keep: Literal["auto", "last", "best"] = "auto"
    """Which weights become the run's: auto is the best ones with early stopping, else the last ones."""

    @property
    def schedule(self) -> str:
        """The schedule as transformers calls it: its "constant" has no warm-up."""
        return "constant_with_warmup" if self.scheduler == "constant" and self.warmup else self.scheduler

    @property
    def keeps_best(self) -> bool:
        """Whether the best weights become the run's."""
        return self.keep == "best" or (self.keep == "auto" and self.early_stopping > 0)

    @property
    def seeks_best(self) -> bool:
        """Whether best_metric decides anything."""
        return self.keeps_best or self.early_stopping > 0

    @model_validator(mode="after")
    def _groups_name_fields(self) -> TrainSettings:
        for group in self.loss_weights:
            field, _, value = group.partition("=")
            if field not in GROUP_FIELDS or not value:
                raise ValueError(f"loss_weights names '{group}', which is no FIELD=VALUE; "
                                 f"a FIELD is one of {', '.join(GROUP_FIELDS)}")
        return self

    @model_validator(mode="after")
    def _best_is_measured(self) -> TrainSettings:
        if self.seeks_best and self.best_metric == "eval_loss" and not self.eval_fraction:
            raise ValueError("early_stopping and keep 'best' need the validation loss, but eval_fraction is 0")
        return self

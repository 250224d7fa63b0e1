"""What a run is: every setting, its default, its range and one line of documentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt, ValidationError, model_validator

from medvqa_cli.errors import SettingsError
from medvqa_cli.settings.data import DatasetDeclaration, DataSettings, KnowledgeSettings, MaskSettings, PromptSettings
from medvqa_cli.settings.section import Fraction, Section

if TYPE_CHECKING:
    from collections.abc import Mapping

PositiveFloat = Annotated[float, Field(gt=0.0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class PathSettings(Section):
    """Where things are kept."""

    prepared: Path = Path("prepared")
    """Folder of prepared data sets."""
    runs: Path = Path("runs")
    """Folder of runs."""


class AliasSettings(Section):
    """Names of your own for models and data sets."""

    models: dict[str, str] = Field(default={})
    """Model name -> local path or hub id, such as llava-med = "/models/llava-med-hf"."""
    datasets: dict[str, str] = Field(default={})
    """Data set name -> name of a registered data set."""
    roots: dict[str, Path] = Field(default={})
    """Data set name -> folder of its original files."""


class ModelSettings(Section):
    """Which model is used."""

    name: str | None = None
    """Alias, family, hub id or path of a checkpoint (`medvqa models list`)."""
    family: str | None = None
    """Model family; detected from the checkpoint when not given."""
    scratch: bool = False
    """Train a small model of this family from random weights; model.options sets its size."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format; auto is bfloat16 on a GPU that has it, else float32."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where it runs; auto takes a GPU if there is one."""
    attention: Literal["auto", "sdpa", "eager", "flash"] = "auto"
    """Attention implementation; auto is SDPA, which packing and sample trees need."""
    revision: str | None = None
    """Revision of a hub checkpoint."""
    options: dict[str, Any] = Field(default={})
    """The family's own options (`medvqa models info NAME`)."""


class LoRASettings(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685)."""

    r: PositiveInt = 16
    """Rank."""
    alpha: PositiveInt = 32
    """Scale; the update is multiplied by alpha / r."""
    dropout: Fraction = 0.05
    """Dropout before the adapter."""
    targets: tuple[str, ...] = ()
    """Module names to adapt; empty takes the family's preset."""


class TrainSettings(Section):
    """Supervised fine-tuning."""

    tuning: Literal["auto", "lora", "full"] = "auto"
    """What is trained: auto is LoRA for a pretrained checkpoint and everything for a model from scratch."""
    lora: LoRASettings = LoRASettings()
    """Adapter settings."""
    freeze_vision_tower: bool = False
    """Keep the vision tower as it is (with full training; LoRA never touches it)."""
    tune_projector: bool = False
    """Train the projector in full beside LoRA."""
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
    pack_questions: PositiveInt = 32
    """Most questions in one pack."""
    pack_tokens: PositiveInt = 2048
    """Most tokens in one pack; image tokens are never cut off."""
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


class InferenceSettings(Section):
    """How answers are generated."""

    max_new_tokens: PositiveInt = 32
    """Most tokens of an answer."""
    temperature: Annotated[float, Field(ge=0.0)] = 0.0
    """0 is greedy; else answers are sampled."""
    blank_images: bool = False
    """Show the model a uniformly grey picture instead of every image: what is left is not seen but guessed."""
    batch_size: PositiveInt = 8
    """Rows per forward pass where questions cannot share an image prefix."""
    shared_prefix: Literal["auto", "on", "off"] = "auto"
    """Encode an image once for all its questions: auto does so where the family allows it."""


class EvaluationSettings(Section):
    """How answers are scored."""

    confidence_level: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.95
    """Level of the intervals."""
    resamples: PositiveInt = 2000
    """Bootstrap resamples, drawn over images."""


class CalibrationSettings(Section):
    """How confidence is measured."""

    samples: PositiveInt = 100
    """Answers drawn for each question."""
    temperature: PositiveFloat = 0.7
    """Sampling temperature."""
    max_new_tokens: PositiveInt = 8
    """Most tokens of a sampled answer."""
    bins: PositiveInt = 10
    """Equal-width confidence bins, each (lower, upper]."""


class Settings(Section):
    """All settings of a run."""

    seed: Seed = 42
    """Seed of everything random."""
    plugins: tuple[Path, ...] = ()
    """Loose plugin files to load."""
    paths: PathSettings = PathSettings()
    """Where things are kept."""
    aliases: AliasSettings = AliasSettings()
    """Names of your own."""
    datasets: dict[str, DatasetDeclaration] = Field(default={})
    """Data sets of your own: name -> reader, root and options."""
    data: DataSettings = DataSettings()
    """Which questions are used."""
    mask: MaskSettings = MaskSettings()
    """Which part of an image is shown."""
    knowledge: KnowledgeSettings = KnowledgeSettings()
    """Facts put before the question."""
    prompt: PromptSettings = PromptSettings()
    """How a question is put."""
    model: ModelSettings = ModelSettings()
    """Which model is used."""
    train: TrainSettings = TrainSettings()
    """Supervised fine-tuning."""
    infer: InferenceSettings = InferenceSettings()
    """How answers are generated."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How answers are scored."""
    calibration: CalibrationSettings = CalibrationSettings()
    """How confidence is measured."""

    @model_validator(mode="after")
    def _packing_needs_a_mask(self) -> Settings:
        if self.train.packing == "on" and self.model.attention == "flash":
            raise ValueError("train.packing 'on' needs a block mask, which model.attention 'flash' does not take; "
                             "use attention 'sdpa' or packing 'off'")
        return self


def make_settings(tree: Mapping[str, Any] | None = None, origins: Mapping[str, str] | None = None) -> Settings:
    """Validate nested plain values, such as {"data": {"dataset": "slake"}}, into settings.

    Args:
        tree: The values.
        origins: Dotted key -> where its value stands, for errors.

    Raises:
        SettingsError: Naming every wrong key, its value, what is allowed, and where it stands if known.
    """
    try:
        return Settings.model_validate_json(json.dumps(tree or {}, default=str))
    except ValidationError as error:
        raise SettingsError("\n".join(describe_errors(error, origins=origins)),
                            "See `medvqa config schema` for every key.") from error


def describe_errors(error: ValidationError, prefix: str = "", origins: Mapping[str, str] | None = None) -> list[str]:
    """Return one sentence for each fault: where it stands if known, key, value and what is allowed."""
    return [_describe(fault, prefix, origins or {}) for fault in error.errors(include_url=False)]


def _describe(fault: Any, prefix: str, origins: Mapping[str, str]) -> str:
    key = prefix + ".".join(str(part) for part in fault["loc"])
    origin = next((where for known, where in origins.items() if f"{key}.".startswith(f"{known}.")), "")
    start = f"{origin}: s" if origin else "S"
    if fault["type"] == "extra_forbidden":
        return f"Unknown setting '{key}'."
    message = fault["msg"].removeprefix("Value error, ")
    if not key:
        return f"Settings contradict each other: {message}."
    return f"{start}etting '{key}' is {json.dumps(fault['input'], default=str)}: {message[0].lower()}{message[1:]}."


def to_tree(settings: Section) -> dict[str, Any]:
    """Return settings as plain JSON values."""
    tree: dict[str, Any] = settings.model_dump(mode="json")
    return tree

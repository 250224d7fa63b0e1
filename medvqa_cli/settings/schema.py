"""What a run is: every setting, its default, its range and one line of documentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from medvqa_cli.errors import SettingsError
from medvqa_cli.settings.allowed import describe_allowed
from medvqa_cli.settings.data import DatasetDeclaration, DataSettings, KnowledgeSettings, MaskSettings, PromptSettings
from medvqa_cli.settings.grpo import GRPOSettings
from medvqa_cli.settings.inference import InferenceSettings, ServerSettings
from medvqa_cli.settings.model import ModelSettings
from medvqa_cli.settings.section import Fraction, PositiveFloat, Section
from medvqa_cli.settings.tracking import TrackingSettings
from medvqa_cli.settings.train import TrainSettings
from medvqa_cli.settings.upgrading import upgrade_tree

if TYPE_CHECKING:
    from collections.abc import Mapping

NOT_FINITE = ("nan", "inf", "infinity")
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


class EvaluationSettings(Section):
    """How answers are scored."""

    profiles: Annotated[tuple[Literal["medvqa", "vqa", "llava-med", "squad"], ...], Field(min_length=1)] = ("medvqa",)
    """How texts are made comparable; every metric is measured under each, the first stands in tables."""
    metrics: tuple[Literal["tokens", "open_recall", "bleu", "rouge", "choices", "clinical"], ...] = (
        "tokens", "open_recall", "bleu", "rouge", "choices", "clinical")
    """What is measured besides accuracy and exact match."""
    encoder: str | None = None
    """Folder or hub id of a text encoder: measures BERTScore with it."""
    encoder_layer: PositiveInt | None = None
    """Hidden layer of the encoder that is compared, counted from 1; the last if not given."""
    judge: str | None = None
    """Model that judges open answers, as its server names it; verdicts are kept, and no other number is touched."""
    judge_server: ServerSettings = ServerSettings()
    """The OpenAI-compatible server of the judge."""
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
    top_k: NonNegativeInt = 0
    """Sample among so many likeliest tokens; 0: among all."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Sample among the fewest likeliest tokens that together have this probability; 1: among all."""
    max_new_tokens: PositiveInt = 8
    """Most tokens of a sampled answer."""
    bins: PositiveInt = 10
    """Equal-width confidence bins, each (lower, upper]."""
    method: Literal["sampling", "entropy", "logits", "likelihood", "verbalized", "p_true", "all"] = "sampling"
    """Where confidence comes from: samples' agreement or entropy, candidates, tokens, words, P(True), or all."""
    questions: Literal["yes_no", "closed", "open", "all"] | None = None
    """Which questions; not given: those with yes or no, or the open ones where data.question_type is open."""
    cluster_model: str | None = None
    """Entailment model or sentence encoder that says which open answers mean the same; not given: equal texts do."""
    cluster_threshold: Fraction = 0.95
    """Least cosine of two answers of one meaning, where cluster_model is a sentence encoder."""
    calibrate_by: Literal["none", "question_type", "modality", "organ"] = "none"
    """Groups of questions for which a calibrator learns a map of their own, where there are enough."""
    risk: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of wrong answers that the rules to abstain may leave."""


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
    grpo: GRPOSettings = GRPOSettings()
    """Reinforcement learning."""
    tracking: TrackingSettings = TrackingSettings()
    """What is shown of a training while it runs."""
    infer: InferenceSettings = InferenceSettings()
    """How answers are generated."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How answers are scored."""
    calibration: CalibrationSettings = CalibrationSettings()
    """How confidence is measured."""

    @model_validator(mode="after")
    def _one_control(self) -> Settings:
        if self.infer.blank_images and self.infer.control not in {"off", "blank"}:
            raise ValueError(f"infer.blank_images shows a grey picture, but infer.control is '{self.infer.control}'; "
                             "leave one out")
        return self

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
        return Settings.model_validate_json(json.dumps(upgrade_tree(tree or {}), default=str))
    except ValidationError as error:
        allowed = [describe_allowed(Settings, fault["loc"]) for fault in _list_faults(error)]
        hint = "\n".join(dict.fromkeys(filter(None, allowed)))
        raise SettingsError("\n".join(describe_errors(error, origins=origins)),
                            hint or "See `medvqa config show` for every key.") from error


def describe_errors(error: ValidationError, prefix: str = "", origins: Mapping[str, str] | None = None) -> list[str]:
    """Return one sentence for each fault: where it stands if known, key, value and what is allowed."""
    return [_describe(fault, prefix, origins or {}) for fault in _list_faults(error)]


def _list_faults(error: ValidationError) -> list[Any]:
    """Return the faults; a list that is too short only because of a wrong item is none."""
    faults = error.errors(include_url=False)
    places = [fault["loc"] for fault in faults]
    return [fault for fault in faults if not any(
        len(place) > len(fault["loc"]) and place[: len(fault["loc"])] == fault["loc"] for place in places)]


def _describe(fault: Any, prefix: str, origins: Mapping[str, str]) -> str:
    key = prefix + ".".join(str(part) for part in fault["loc"])
    origin = next((where for known, where in origins.items() if f"{key}.".startswith(f"{known}.")), "")
    start = f"{origin}: s" if origin else "S"
    if fault["type"] == "extra_forbidden":
        return f"Unknown setting '{key}'."
    is_number = fault["type"] in {"float_type", "float_parsing", "int_type", "int_parsing"}
    message = ("input should be a finite number" if is_number and str(fault["input"]).lstrip("+-").lower() in NOT_FINITE
               else fault["msg"].removeprefix("Value error, "))
    if not key:
        return f"Settings contradict each other: {message}."
    return f"{start}etting '{key}' is {json.dumps(fault['input'], default=str)}: {message[0].lower()}{message[1:]}."


def to_tree(settings: Section) -> dict[str, Any]:
    """Return settings as plain JSON values."""
    tree: dict[str, Any] = settings.model_dump(mode="json")
    return tree

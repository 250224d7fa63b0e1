"""What is checked: which steps, which models, on how many questions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli import plugins
from medvqa_cli.errors import SettingsError

if TYPE_CHECKING:
    from medvqa_cli.settings.model import ModelSettings
    from medvqa_cli.settings.schema import Settings

BASICS = ("plugins", "configs", "metrics", "data")
"""Steps that need no model."""
PRESETS = {
    "seeds": ("Qwen/Qwen2-VL-2B-Instruct", "OpenGVLab/InternVL3-1B-hf", "llava-hf/llava-1.5-7b-hf",
              "llava-hf/llava-v1.6-mistral-7b-hf", "microsoft/llava-med-v1.5-mistral-7b",
              "Salesforce/blip2-flan-t5-xl"),
}
"""Models by the name of a choice; `seeds`: what the research frameworks that this tool replaces are tested with."""
DEFAULT_FAMILY = "llava"


@dataclass(frozen=True, slots=True, kw_only=True)
class SanityScope:
    """What a sanity check covers; at most one of `families`, `all_families` and `preset` names the models.

    Attributes:
        tiny: Check small random checkpoints of the families: nothing is downloaded, and nothing is learnt that counts.
        families: Families by name; without `tiny` their default checkpoints.
        all_families: Check every registered family; only with `tiny`.
        preset: Name of a choice of models, see `PRESETS`.
        basic: Check settings, plugins, data and metrics alone; needs no model and no torch.
        only: With `basic`, which of `BASICS`.
        inference_only: Leave training and the adapter out.
        skip_calibration: Leave calibration out.
        train_samples: Questions to train on.
        test_samples: Questions to answer, and yes/no questions to measure calibration on.
        calibration_samples: Answers drawn for each of these.
        output: New or empty folder that keeps everything; none takes a temporary one, which is removed.
        keep_outputs: Keep the temporary folder.
    """

    tiny: bool = False
    families: tuple[str, ...] = ()
    all_families: bool = False
    preset: str = ""
    basic: bool = False
    only: tuple[str, ...] = ()
    inference_only: bool = False
    skip_calibration: bool = False
    train_samples: int = 5
    test_samples: int = 5
    calibration_samples: int = 10
    output: Path | None = None
    keep_outputs: bool = False


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to check: a name for people, and the settings that lead to it; a tiny one is made of `model.family`."""

    name: str
    model: ModelSettings
    tiny: bool

    @property
    def folder(self) -> str:
        """A name for its folder."""
        return re.sub(r"[^\w.-]+", "-", self.name).strip("-.") or "model"


def check_scope(scope: SanityScope) -> None:
    """Refuse a scope that contradicts itself.

    Raises:
        SettingsError: Naming both sides, or the unknown name.
    """
    named = [flag for flag, is_given in (("--families", scope.families), ("--all-families", scope.all_families),
                                         ("--preset", scope.preset)) if is_given]
    if len(named) > 1:
        raise SettingsError(f"{named[0]} and {named[1]} both say which models to check.", "Leave one of them out.")
    if scope.basic and (named or scope.tiny):
        raise SettingsError(f"--basic checks no model, but {named[0] if named else '--tiny'} asks for one.",
                            "Leave one of them out.")
    if scope.only and not scope.basic:
        raise SettingsError("--only chooses among the steps of --basic.", "Add --basic.")
    if unknown := [name for name in scope.only if name not in BASICS]:
        raise SettingsError(f"--only '{unknown[0]}' is no step of --basic.", f"Known: {', '.join(BASICS)}.")
    if scope.preset and scope.preset not in PRESETS:
        raise SettingsError(f"Unknown preset '{scope.preset}'.", f"Known: {', '.join(PRESETS)}.")
    if scope.all_families and not scope.tiny:
        raise SettingsError("--all-families without --tiny would fetch a large checkpoint for every family.",
                            "Add --tiny, or name a few with --families.")


def choose_subjects(settings: Settings, scope: SanityScope) -> list[Subject]:
    """Return the models that a scope names, else the configured one, else a tiny one of the default family.

    Raises:
        PluginError: If a family is unknown.
        ModelError: If the configured model is unknown.
        SettingsError: If the family of a tiny checkpoint cannot be told.
    """
    if scope.all_families:
        return [_take_family(name, settings, tiny=True) for name in plugins.models.names()]
    if scope.families:
        names = dict.fromkeys(plugins.models.resolve(name) for name in scope.families)
        return [_take_family(name, settings, tiny=scope.tiny) for name in names]
    if scope.preset:
        models = [_replace_model(settings, name) for name in PRESETS[scope.preset]]
        if not scope.tiny:
            return [Subject(str(model.model.name), model.model, tiny=False) for model in models]
        return [_take_family(name, settings, tiny=True) for name in dict.fromkeys(map(_find_family, models))]
    if scope.tiny or settings.model.scratch or not settings.model.name:
        family = _find_family(settings)
        return [Subject(family, settings.model.model_copy(update={"family": family}), tiny=True)]
    return [Subject(settings.model.name, settings.model, tiny=False)]


def _take_family(name: str, settings: Settings, *, tiny: bool) -> Subject:
    """Return a family's tiny checkpoint, or its default one; options of a model's size are meant for another."""
    checkpoint = None if tiny else next(iter(plugins.models.get(name).card.checkpoints.values()))
    return Subject(name, _replace_model(settings, checkpoint, name).model, tiny=tiny)


def _replace_model(settings: Settings, checkpoint: str | None, family: str | None = None) -> Settings:
    changes: dict[str, Any] = {"name": checkpoint, "family": family, "scratch": False, "options": {}, "revision": None}
    return settings.model_copy(update={"model": settings.model.model_copy(update=changes)})


def _find_family(settings: Settings) -> str:
    """Return the family that the settings name, or their model's, or the default."""
    from medvqa_cli.workflows.models import choose_family, choose_model

    if settings.model.family:
        return plugins.models.resolve(settings.model.family)
    if not settings.model.name:
        return DEFAULT_FAMILY
    choice = choose_model(settings)
    if choice.family_name:
        return choice.family_name
    if Path(choice.checkpoint).is_dir():
        from medvqa_cli.models.loading import read_config

        return choose_family(choice, read_config(choice.checkpoint))
    raise SettingsError(f"The family of '{choice.checkpoint}' cannot be told from its name.", "Name it with --family.")

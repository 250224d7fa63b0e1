"""A small model of random weights, made where no checkpoint is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medvqa_cli import plugins
from medvqa_cli.errors import SettingsError
from medvqa_cli.settings.options import read_options
from medvqa_cli.workflows.models import ModelChoice

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pydantic import BaseModel

    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.schema import Settings


def build_scratch(settings: Settings, samples: Sequence[VQASample], directory: Path) -> ModelChoice:
    """Write a small model of random weights, its tokenizer trained on the samples' prompts and answers.

    Raises:
        PluginError: If there is no such family.
        SettingsError: If no family is named or its options do not fit.
    """
    from medvqa_cli.data.prompts import build_turns, format_target
    from medvqa_cli.models.loading import silence_libraries

    silence_libraries()  # writing the checkpoint shows a bar of its own
    family_name, options = choose_scratch(settings)
    family = plugins.models.get(family_name)
    texts = [text for sample in samples for text in (
        *(turn.text for turn in build_turns(sample, settings.prompt)), format_target(sample, settings.prompt))]
    try:
        family.build_tiny(directory, texts=texts, options=options, seed=settings.seed)
    except ValueError as error:
        raise SettingsError(f"model.options do not fit together: {error}.",
                            f"See `medvqa models info {family_name}`.") from error
    return ModelChoice(str(directory), family_name)


def choose_scratch(settings: Settings) -> tuple[str, BaseModel | None]:
    """Return the name of the family of the model to be made, and its options; nothing is made yet.

    Raises:
        PluginError: If there is no such family.
        SettingsError: If none is named, or its options are wrong.
    """
    name = settings.model.family or settings.model.name
    if not name:
        raise SettingsError("model.scratch needs a family.", "Name one with --model, such as --model llava.")
    family_name = plugins.models.resolve(name)
    return family_name, read_options(plugins.models.get(family_name).Options, settings.model.options, "model.options")

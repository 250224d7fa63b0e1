"""Model names to loaded models."""

from __future__ import annotations

import difflib
import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli import plugins
from medvqa_cli.errors import ModelError, SettingsError
from medvqa_cli.registry import normalize_name
from medvqa_cli.settings.options import read_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.models.encoding import SampleEncoder
    from medvqa_cli.models.protocol import LoadedModel, ModelFamily
    from medvqa_cli.progress import Progress
    from medvqa_cli.records import VQASample
    from medvqa_cli.runs import Run
    from medvqa_cli.settings.schema import Settings

MIB = 2**20


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A checkpoint and, if it is known without reading the checkpoint, its family."""

    checkpoint: str
    family_name: str | None
    adapter: str = ""


def choose_model(settings: Settings) -> ModelChoice:
    """Turn `model.name` into a checkpoint: own alias, folder, short name of a checkpoint, family, or hub id.

    Raises:
        ModelError: If no model is named, or nothing goes by the name.
        PluginError: If `model.family` is unknown.
    """
    name = settings.model.name
    if not name:
        raise ModelError("No model is named.", "Name one with --model (see `medvqa models list`).")
    own = {normalize_name(alias): target for alias, target in settings.aliases.models.items()}
    name = own.get(normalize_name(name), name)
    family = plugins.models.resolve(settings.model.family) if settings.model.family else None
    if Path(name).is_dir():
        return _choose_folder(Path(name), family)
    checkpoints = known_checkpoints()
    wanted = normalize_name(name)
    if wanted in checkpoints:
        found, checkpoint = checkpoints[wanted]
        return ModelChoice(checkpoint, family or found)
    if "/" in name:
        return ModelChoice(name, family or _match_pattern(name))
    close = difflib.get_close_matches(wanted, checkpoints, n=1)
    raise ModelError(f"Unknown model '{name}'.{f' Did you mean {close[0]!r}?' if close else ''}",
                     f"Known: {', '.join(sorted(checkpoints))}; or a folder, or a hub id such as org/name.")


def known_checkpoints() -> dict[str, tuple[str, str]]:
    """Return short name -> (family, hub id): families by their default checkpoint, and each card's own names."""
    known: dict[str, tuple[str, str]] = {}
    for family, plugin in plugins.models.loadable().items():
        default = next(iter(plugin.card.checkpoints.values()))
        known.update({normalize_name(name): (family, default) for name in (family, *plugin.card.aliases)})
        known.update({normalize_name(name): (family, hub_id) for name, hub_id in plugin.card.checkpoints.items()})
    return known


def load_choice(choice: ModelChoice, settings: Settings, progress: Progress, *,
                trainable: bool = False) -> LoadedModel:
    """Load a chosen model, and its adapter if it has one; `trainable` lets the adapter learn on.

    Raises:
        ModelError: If the checkpoint cannot be had, or is of a type no family loads.
    """
    from medvqa_cli.models.adapters import load_adapter
    from medvqa_cli.models.loading import load_checkpoint, read_config

    config = read_config(choice.checkpoint, settings.model.revision)
    family_name = choose_family(choice, str(config["model_type"]))
    progress.say(f"Loading {choice.checkpoint} (family {family_name})"
                 + (f" with adapter {choice.adapter}" if choice.adapter else ""))
    loaded = load_checkpoint(plugins.models.get(family_name), family_name, choice.checkpoint, settings.model)
    if choice.adapter:
        loaded.model = load_adapter(loaded.model, choice.adapter, trainable=trainable).eval()
        loaded.adapter = choice.adapter
    return loaded


def choose_family(choice: ModelChoice, model_type: str) -> str:
    """Return the family that loads a checkpoint: the one it was chosen with, if that loads its type, else by type.

    Raises:
        ModelError: If the family does not load this type, or none does.
    """
    wanted = choice.family_name
    types = plugins.models.get(wanted).card.model_types if wanted else ()
    if wanted and (not types or model_type in types):
        return wanted
    detected = detect_family(model_type, choice.checkpoint)
    if wanted:
        raise ModelError(f"'{choice.checkpoint}' is of the type '{model_type}', which the family '{wanted}' does not "
                         "load.", f"Use --family {detected}, or leave --family out.")
    return detected


def detect_family(model_type: str, checkpoint: str) -> str:
    """Return the family whose card lists a config.json's model_type; of several, a built-in before a plugin.

    Raises:
        ModelError: If none does.
    """
    families = plugins.models.loadable()
    for name in sorted(families, key=lambda name: plugins.models.origin(name) != "built-in"):
        if model_type in families[name].card.model_types:
            return name
    if model_type == "llava_mistral":
        raise ModelError(f"'{checkpoint}' is an original LLaVA-Med checkpoint (model_type 'llava_mistral'), whose "
                         "layout is not that of transformers.",
                         "Convert it to the llava layout, then: --set aliases.models.llava-med=/path/to/converted")
    types = sorted({kind for plugin in families.values() for kind in plugin.card.model_types})
    raise ModelError(f"'{checkpoint}' is of the type '{model_type}', which no installed family loads.",
                     f"Supported types: {', '.join(types)}. A plugin can add a family (`medvqa models list`).")


def build_scratch(settings: Settings, samples: Sequence[VQASample], directory: Path) -> ModelChoice:
    """Write a small model of random weights, its tokenizer trained on the samples' prompts and answers.

    Raises:
        SettingsError: If no family is named or its options do not fit.
    """
    from medvqa_cli.data.prompts import build_turns, format_target

    name = settings.model.family or settings.model.name
    if not name:
        raise SettingsError("model.scratch needs a family.", "Name one with --model, such as --model llava.")
    family_name = plugins.models.resolve(name)
    family = plugins.models.get(family_name)
    options = read_options(family.Options, settings.model.options, "model.options")
    texts = [text for sample in samples for text in (
        *(turn.text for turn in build_turns(sample, settings.prompt)), format_target(sample, settings.prompt))]
    try:
        family.build_tiny(directory, texts=texts, options=options, seed=settings.seed)
    except ValueError as error:
        raise SettingsError(f"model.options do not fit together: {error}.",
                            f"See `medvqa models info {family_name}`.") from error
    return ModelChoice(str(directory), family_name)


def open_run_model(run: Run, settings: Settings, progress: Progress) -> LoadedModel:
    """Load the model a run has trained.

    Raises:
        RunError: If its manifest is damaged.
        ModelError: If it has no trained model, or its base model cannot be had.
    """
    model = run.read_json("manifest.json").get("model", {})
    weights = run.weights
    if weights is None:
        raise ModelError(f"Run '{run.name}' has no trained model yet.",
                         f"Finish it with `medvqa train sft --resume {run.name}`.")
    if weights.name == "adapter":
        choice = ModelChoice(str(model["checkpoint"]), model["family"], str(weights))
    else:
        choice = ModelChoice(str(weights), model["family"])
    return load_choice(choice, settings, progress)


def build_encoder(loaded: LoadedModel, settings: Settings, *, cache_mb: int = 64) -> SampleEncoder:
    """Return the encoder that feeds a model by the settings' prompt and image rules."""
    from medvqa_cli.data.images import read_image
    from medvqa_cli.models.encoding import SampleEncoder

    reader: Any = functools.partial(read_image, max_pixels=settings.data.max_pixels)
    return SampleEncoder(loaded.family, loaded.processor, reader, prompt=settings.prompt,
                         blank_images=settings.infer.blank_images, cache_bytes=cache_mb * MIB)


def describe_model(loaded: LoadedModel) -> dict[str, Any]:
    """Return a model's facts for manifests and protocols."""
    return {"family": loaded.family_name, "checkpoint": loaded.checkpoint, "adapter": loaded.adapter,
            "dtype": str(next(loaded.model.parameters()).dtype).removeprefix("torch."), "device": str(loaded.device),
            "image_processor": type(loaded.processor.image_processor).__name__}


def _choose_folder(folder: Path, family: str | None) -> ModelChoice:
    adapter = folder / "adapter_config.json"
    if adapter.is_file() and not (folder / "config.json").is_file():
        base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
        if not base:
            raise ModelError(f"The adapter '{folder}' names no base model.", "Load the base model and name the run.")
        return ModelChoice(str(base), family, str(folder))
    return ModelChoice(str(folder), family)


def _match_pattern(hub_id: str) -> str | None:
    families: dict[str, ModelFamily] = plugins.models.loadable()
    return next((name for name, plugin in families.items()
                 if any(re.search(pattern, hub_id.lower()) for pattern in plugin.card.id_patterns)), None)

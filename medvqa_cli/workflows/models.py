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
from medvqa_cli.errors import ModelError, RunError
from medvqa_cli.registry import normalize_name
from medvqa_cli.workflows.own_weights import find_base
from medvqa_cli.workflows.tuning import find_tuning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medvqa_cli.data.augmentation import Augmentation
    from medvqa_cli.models.encoding import SampleEncoder
    from medvqa_cli.models.protocol import LoadedModel, ModelFamily
    from medvqa_cli.progress import Progress
    from medvqa_cli.runs import Run
    from medvqa_cli.settings.model import ModelSettings
    from medvqa_cli.settings.schema import Settings

MIB = 2**20
NEAR = 5
"""Names near an unknown one that an error tells."""


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A checkpoint and, if it is known without reading the checkpoint, its family.

    For what a run has trained, `origin` is the checkpoint it began with and `commit` the commit of that on the hub.
    """

    checkpoint: str
    family_name: str | None
    adapter: str = ""
    origin: str = ""
    commit: str = ""


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
    close = difflib.get_close_matches(wanted, checkpoints, n=NEAR)
    others = f"Near it are also: {', '.join(close[1:])}. " if close[1:] else ""
    raise ModelError(f"Unknown model '{name}'.{f' Did you mean {close[0]!r}?' if close else ''}",
                     f"{others}`medvqa models list` shows all; a folder or a hub id such as org/name will do too.")


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
        ModelError: If the checkpoint cannot be had, does not fit into memory, or is of a type no family loads; or the
            adapter is of another base model.
        SettingsError: If settings contradict each other or the checkpoint.
        MissingDependencyError: If bitsandbytes is asked for and not installed.
    """
    from medvqa_cli.models.adapters import load_adapter
    from medvqa_cli.models.loading import load_checkpoint, read_config
    from medvqa_cli.models.quantization import find_quantization, prepare_kbit_training

    if choice.adapter:
        check_base(choice, progress)
    model = _settle(choice, settings.model)
    config = read_config(choice.checkpoint, model.revision)
    family_name = choose_family(choice, config)
    progress.say(f"Loading {choice.checkpoint} (family {family_name})"
                 + (f" with adapter {choice.adapter}" if choice.adapter else ""))
    family = plugins.models.get(family_name)
    shared = settings.train.packing if trainable else settings.infer.shared_prefix
    loaded = load_checkpoint(family, family_name, choice.checkpoint, model, progress=progress,
                             tuning=find_tuning(choice, settings) if trainable else "none",
                             shares_images=family.capabilities.packs and shared != "off")
    if trainable and find_quantization(loaded.model) != "none":
        prepare_kbit_training(loaded.model, gradient_checkpointing=settings.train.gradient_checkpointing)
    if choice.adapter:
        loaded.model = load_adapter(loaded.model, choice.adapter, trainable=trainable,
                                    allow_pickle=model.allow_pickle).eval()
        loaded.adapter = choice.adapter
    return loaded


def _settle(choice: ModelChoice, model: ModelSettings) -> ModelSettings:
    """Return the settings for what is loaded: a run's base at its commit; trust in it holds for what was made of it."""
    trusted = choice.checkpoint if model.trust_remote_code == choice.origin else model.trust_remote_code
    return model.model_copy(update={"revision": choice.commit or model.revision, "trust_remote_code": trusted})


def check_base(choice: ModelChoice, progress: Progress) -> None:
    """Compare the base model an adapter names with the one it is put on; shapes are compared when it is loaded.

    Two hub ids that differ are two models; a folder may be a copy of what the adapter names, so that is only said.

    Raises:
        ModelError: If the adapter is of another model of the hub.
    """
    base = _read_base(Path(choice.adapter))
    if not base or Path(base) == Path(choice.checkpoint):
        return
    checkpoint = Path(choice.checkpoint)
    if checkpoint.name == Path(base).name and checkpoint.parent == Path(choice.adapter).parent:
        return  # both lie in one run's folder, which was moved
    if Path(choice.checkpoint).is_dir() or not re.fullmatch(r"[\w.-]+/[\w.-]+", base):
        progress.warn(f"The adapter '{choice.adapter}' was trained on '{base}' and is put on '{choice.checkpoint}': "
                      "answers mean something only if these are the same weights.")
        return
    raise ModelError(f"The adapter '{choice.adapter}' was trained on '{base}', not on '{choice.checkpoint}'.",
                     f"Use it on its own base: --model {base}.")


def choose_family(choice: ModelChoice, config: Mapping[str, Any]) -> str:
    """Return the family that loads a checkpoint with this config.json: the one it was chosen with, else by its type.

    Raises:
        ModelError: If the family does not load this type, or none does.
    """
    wanted = choice.family_name
    if wanted:
        family = plugins.models.get(wanted)
        if not family.card.model_types or family.loads(config):
            return wanted
    detected = detect_family(config, choice.checkpoint)
    if wanted and choice.checkpoint == (choice.origin or choice.checkpoint):  # what a run saves may be of another type
        raise ModelError(f"'{choice.checkpoint}' is of the type '{config['model_type']}', which the family '{wanted}' "
                         "does not load.", f"Use --family {detected}, or leave --family out.")
    return detected


def detect_family(config: Mapping[str, Any], checkpoint: str) -> str:
    """Return the family that loads checkpoints with this config.json; of several, a built-in before a plugin.

    Raises:
        ModelError: If none does.
    """
    families = plugins.models.loadable()
    for name in sorted(families, key=lambda name: plugins.models.origin(name) != "built-in"):
        if families[name].loads(config):
            return name
    model_type = config["model_type"]
    types = sorted({kind for plugin in families.values() for kind in plugin.card.model_types})
    raise ModelError(f"'{checkpoint}' is of the type '{model_type}', which no installed family loads.",
                     f"Supported types: {', '.join(types)}. A plugin can add a family (`medvqa models list`).")


def open_run_model(run: Run, settings: Settings, progress: Progress) -> LoadedModel:
    """Load the model a run has trained.

    Raises:
        RunError: If its manifest is damaged.
        ModelError: If it has no trained model, or its base model cannot be had.
    """
    return load_choice(choose_trained(run), settings, progress)


def choose_trained(run: Run) -> ModelChoice:
    """Return the model a run has trained.

    Raises:
        RunError: If its manifest is damaged.
        ModelError: If it has no trained model.
    """
    weights = run.weights
    if weights is None:
        raise ModelError(f"Run '{run.name}' has no trained model yet.",
                         f"Finish it with `{run.name_resume()}`.")
    return recall_choice(find_base(run.read_json("manifest.json").get("model", {}), run), weights)


def recall_choice(model: Mapping[str, Any], weights: Path | None = None) -> ModelChoice:
    """Return the model that a run's manifest describes: what it began with, or with `weights` what it has trained."""
    if "checkpoint" not in model:
        raise RunError("A server's model answered in this run: there is nothing to load.", "Name another run or model.")
    origin, commit = str(model["checkpoint"]), str(model.get("commit", ""))
    if weights is None or weights.name == "adapter":
        return ModelChoice(origin, model["family"], str(weights or ""), origin, commit)
    return ModelChoice(str(weights), model["family"], origin=origin)


def build_encoder(loaded: LoadedModel, settings: Settings, *, cache_mb: int = 64,
                  augmentation: Augmentation | None = None) -> SampleEncoder:
    """Return the encoder that feeds a model by the settings' prompt and image rules."""
    from medvqa_cli.data.images import read_image
    from medvqa_cli.models.encoding import SampleEncoder

    reader: Any = functools.partial(read_image, max_pixels=settings.data.max_pixels)
    return SampleEncoder(loaded.family, loaded.processor, reader, prompt=settings.prompt,
                         blank_images=settings.infer.shown == "blank", cache_bytes=cache_mb * MIB,
                         augmentation=augmentation)


def describe_model(loaded: LoadedModel) -> dict[str, Any]:
    """Return a model's facts for manifests and protocols.

    `commit` stands there if the checkpoint came from the hub, `quantization` if its weights are quantised.
    """
    from medvqa_cli.models.attention import find_dtype
    from medvqa_cli.models.quantization import find_quantization

    model = loaded.model.get_base_model() if loaded.adapter else loaded.model
    facts = {"family": loaded.family_name, "checkpoint": loaded.checkpoint, "adapter": loaded.adapter,
             "dtype": str(find_dtype(model)).removeprefix("torch."), "device": str(loaded.device),
             "image_processor": type(loaded.processor.image_processor).__name__}
    commit = getattr(getattr(model, "config", None), "_commit_hash", None)
    mode = find_quantization(model)
    return facts | ({"commit": commit} if commit else {}) | ({"quantization": mode} if mode != "none" else {})


def _choose_folder(folder: Path, family: str | None) -> ModelChoice:
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        base = _read_base(folder)
        if not base:
            raise ModelError(f"The adapter '{folder}' names no base model.", "Load the base model and name the run.")
        return ModelChoice(base, family, str(folder))
    return ModelChoice(str(folder), family)


def _read_base(adapter: Path) -> str:
    """Return the base model that an adapter's configuration names; empty if it names none or is not there."""
    file = adapter / "adapter_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise ModelError(f"'{file}' is damaged: {error}.", "Copy the adapter again.") from error
    return str(config.get("base_model_name_or_path") or "") if isinstance(config, dict) else ""


def _match_pattern(hub_id: str) -> str | None:
    families: dict[str, ModelFamily] = plugins.models.loadable()
    return next((name for name, plugin in families.items()
                 if any(re.search(pattern, hub_id.lower()) for pattern in plugin.card.id_patterns)), None)

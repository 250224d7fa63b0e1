"""What of a model is trained: adapters, parts in full, or everything; counted by part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import ModelError, SettingsError
from medvqa_cli.models.targets import find_owner, find_targets, list_parts, makes_adapters, parse_targets, write_pattern

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medvqa_cli.models.protocol import ModelLayout
    from medvqa_cli.settings.train import TrainSettings

WRAPPER = "base_model.model."
"""What PEFT puts before the names of a model it has wrapped."""
WEIGHTS, PICKLED_WEIGHTS = "adapter_model.safetensors", "adapter_model.bin"


def check_tuning(train: TrainSettings, *, lora: bool) -> None:
    """Refuse settings that contradict each other whatever the model is.

    Raises:
        SettingsError: Naming both sides.
    """
    if not lora:
        if train.unfreeze_last_layers:
            raise SettingsError("train.unfreeze_last_layers does not go with full training, which trains every layer.",
                                "Use --tuning lora, with --lora-targets none to train these layers alone.")
        return
    wanted = parse_targets(train.lora.targets)
    if not makes_adapters(train.lora):
        if not train.tune_projector and not train.unfreeze_last_layers:
            raise SettingsError("train.lora.targets is 'none', so nothing would be trained.",
                                "Add --tune-projector or --unfreeze-last-layers N, or use --tuning full.")
        if train.lora.dora or train.lora.rslora:
            raise SettingsError("train.lora.dora and train.lora.rslora need adapters, but train.lora.targets is "
                                "'none'.", "Leave one of them out.")
    if wanted.pattern:
        return
    if train.freeze_vision_tower and "vision_tower" in train.lora.parts:
        raise SettingsError("train.freeze_vision_tower contradicts train.lora.parts, which names vision_tower.",
                            "Leave one of them out.")
    if train.tune_projector and "projector" in train.lora.parts:
        raise SettingsError("train.tune_projector trains the projector in full, but train.lora.parts would put "
                            "adapters on it.", "Leave one of them out.")


def prepare_training(model: Any, layout: ModelLayout, train: TrainSettings, *, lora: bool) -> Any:
    """Freeze and adapt a model as the settings say; return what the trainer trains.

    With LoRA and the targets `none`, the parts named are trained in place and no adapter is made: what is saved is
    the whole model.

    Raises:
        SettingsError: If settings contradict each other or the model.
        ModelError: If a LoRA target is not in the model.
    """
    check_tuning(train, lora=lora)
    if not lora:
        _refuse_quantised(model, "", "full training")
        for name, parameter in model.named_parameters():
            frozen = train.freeze_vision_tower and find_owner(name, layout) == "vision_tower"
            parameter.requires_grad_(not frozen)
        return model
    if makes_adapters(train.lora):
        return attach_lora(model, layout, train)
    model.requires_grad_(False)
    for path in find_full_parts(model, layout, train):
        model.get_submodule(path).requires_grad_(True)
    return model


def attach_lora(model: Any, layout: ModelLayout, train: TrainSettings) -> Any:
    """Return the model with trainable adapters on its target layers, and copies of the parts trained in full.

    LoRA: Hu et al. 2021, arXiv:2106.09685. DoRA, which learns the length of each row of weights apart from its
    direction: Liu et al. 2024, arXiv:2402.09353. rsLoRA, scaled by alpha / sqrt(r): Kalajdzievski 2023,
    arXiv:2312.03732. A part trained in full carries no adapter: PEFT trains a copy of it, beside the frozen original,
    and keeps that in the adapter's folder.

    Raises:
        SettingsError: If settings contradict each other or the model.
        ModelError: If no module matches the targets; the nearest names are shown.
    """
    from peft import LoraConfig, get_peft_model

    targets = find_targets(model, layout, train.lora)
    full = find_full_parts(model, layout, train)
    adapted = [name for name in targets if not any(f"{name}.".startswith(f"{path}.") for path in full)]
    if not adapted:
        raise SettingsError("Every layer that would get an adapter lies in a part that is trained in full.",
                            "Use --lora-targets none, or unfreeze fewer layers.")
    if train.freeze_vision_tower and any(find_owner(name, layout) == "vision_tower" for name in adapted):
        raise SettingsError("train.freeze_vision_tower contradicts train.lora.targets, which match layers of the "
                            "vision tower.", "Leave one of them out.")
    config = LoraConfig(r=train.lora.r, lora_alpha=train.lora.alpha, lora_dropout=train.lora.dropout,
                        use_dora=train.lora.dora, use_rslora=train.lora.rslora, task_type=layout.task_type,
                        target_modules=write_pattern(targets, model), modules_to_save=full or None)
    return get_peft_model(model, config)


def find_full_parts(model: Any, layout: ModelLayout, train: TrainSettings) -> list[str]:
    """Return the module paths trained in full beside LoRA: those of the projector, the language model's last layers.

    Raises:
        SettingsError: If there are fewer layers than asked for, or a part is quantised.
    """
    layers = find_layers(model, layout)
    count = train.unfreeze_last_layers
    if count > len(layers):
        raise SettingsError(f"train.unfreeze_last_layers is {count}, but the language model has {len(layers)} layers.",
                            f"Choose a number up to {len(layers)}.")
    paths = (list_projectors(model, layout) if train.tune_projector else []) + (layers[-count:] if count else [])
    for path in paths:
        _refuse_quantised(model, path, f"'{path}' in full")
    return paths


def list_projectors(model: Any, layout: ModelLayout) -> list[str]:
    """Return the module paths of the projector; of a list of modules its members', for PEFT copies no list."""
    from torch import nn

    found = []
    for path in layout.projectors:
        module = model.get_submodule(path)
        is_list = isinstance(module, nn.ModuleList)
        found += [f"{path}.{number}" for number in range(len(module))] if is_list else [path]
    return found


def find_layers(model: Any, layout: ModelLayout) -> list[str]:
    """Return the module paths of the language model's layers, first to last; of an encoder-decoder, the decoder's."""
    from torch import nn

    stacks = [name for name, module in model.named_modules()
              if isinstance(module, nn.ModuleList) and find_owner(name, layout) == "language_model"
              and not any(part.isdigit() for part in name.split("."))]
    longest = max(stacks, key=lambda name: (len(model.get_submodule(name)), stacks.index(name)), default=None)
    return [f"{longest}.{number}" for number in range(len(model.get_submodule(longest)))] if longest else []


def _refuse_quantised(model: Any, path: str, what: str) -> None:
    if any(not parameter.is_floating_point() for parameter in model.get_submodule(path).parameters()):
        raise SettingsError(f"Quantised weights cannot be trained: {what} needs them as numbers.",
                            "Use --quantization none, or train adapters only.")


def check_continuation(model: Any, layout: ModelLayout, train: TrainSettings) -> None:
    """Refuse to go on with an adapter that cannot learn what the settings ask for: its own shape stays.

    Raises:
        SettingsError: Naming the settings.
    """
    config = model.peft_config[model.active_adapter]
    full = tuple(config.modules_to_save or ())
    base = model.get_base_model()
    layers = sum(path.endswith(full) for path in find_layers(base, layout)) if full else 0
    tunes_projector = all(path.endswith(full) for path in list_projectors(base, layout))
    asked = {"train.tuning 'full'": train.tuning == "full",
             "train.lora.dora": train.lora.dora and not getattr(config, "use_dora", False),
             "train.lora.rslora": train.lora.rslora and not getattr(config, "use_rslora", False),
             "train.tune_projector": train.tune_projector and not tunes_projector,
             "train.unfreeze_last_layers": train.unfreeze_last_layers not in (0, layers)}
    if refused := [name for name, is_refused in asked.items() if is_refused]:
        raise SettingsError(f"Training goes on with an adapter that was made without {', '.join(refused)}.",
                            "Leave it out; or merge the adapter (`medvqa merge`) and train the merged model.")


def find_part(model: Any, path: str) -> Any:
    """Return the module at a dotted path, below a PEFT wrapper too."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.get_submodule(path)


def count_parameters(model: Any, layout: ModelLayout) -> dict[str, tuple[int, int]]:
    """Return (trainable, all) parameter counts of each part: vision tower, projector, language model, other.

    A weight packed by quantisation counts as the numbers it stands for; of a part trained in full, only the copy.
    """
    counts = {part.replace("_", " "): (0, 0) for part in [*list_parts(layout), "other"]}
    for name, parameter in model.named_parameters():
        if ".original_module." in name:
            continue
        part = find_owner(name.removeprefix(WRAPPER), layout).replace("_", " ")
        packed = getattr(parameter, "quant_state", None)
        size = packed.shape.numel() if packed is not None else parameter.numel()
        trainable, total = counts[part]
        counts[part] = (trainable + size * parameter.requires_grad, total + size)
    return counts


def describe_parameters(counts: Mapping[str, Sequence[int]]) -> str:
    """Return one line such as "Trained: 1.2 M of 76.0 M parameters (1.6 %): language model 1.2 M"."""
    trained = sum(trainable for trainable, _ in counts.values())
    total = sum(size for _, size in counts.values())
    parts = [f"{part} {_shorten(trainable)}" + (" (all of it)" if trainable == size else "")
             for part, (trainable, size) in counts.items() if trainable]
    percent = 100 * trained / max(total, 1)
    share = f"{percent:.0f}" if percent >= 10 else f"{percent:.2g}"
    return (f"Trained: {_shorten(trained)} of {_shorten(total)} parameters ({share} %): "
            + (", ".join(parts) or "nothing"))


def _shorten(number: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)


def load_adapter(model: Any, directory: str | Path, *, trainable: bool, allow_pickle: bool = False) -> Any:
    """Return the model with a saved PEFT adapter on it, every tensor of the file in its place.

    Differs: PEFT only warns of tensors that the file lacks, and says nothing of those the model has no place for.

    Raises:
        ModelError: If the folder is no adapter, is pickled, or does not fit the model.
    """
    from peft import PeftConfig, get_peft_model

    folder = Path(directory)
    _check_folder(folder, allow_pickle=allow_pickle)
    misfit = f"The adapter '{directory}' does not fit the model"
    hint = "Load it on the base model it was trained on (adapter_config.json names it)."
    try:
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = not trainable
        config.base_model_name_or_path = getattr(model, "name_or_path", None)
        adapted = get_peft_model(model, config)
        result = adapted.load_adapter(str(folder), "default", is_trainable=trainable,
                                      torch_device=str(next(model.parameters()).device))
    except KeyError as error:
        raise ModelError(f"{misfit}: its file lacks {error}.", hint) from error
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        raise ModelError(f"{misfit}: {_first_line(error)}", hint) from error
    if result.unexpected_keys:
        raise ModelError(f"{misfit}: the model has no place for {_first_of(result.unexpected_keys)}.", hint)
    if result.missing_keys:
        raise ModelError(f"{misfit}: its file lacks {_first_of(result.missing_keys)}.", hint)
    return adapted


def _check_folder(folder: Path, *, allow_pickle: bool) -> None:
    config = folder / "adapter_config.json"
    if not config.is_file():
        raise ModelError(f"'{folder}' is not a PEFT adapter: adapter_config.json is missing.")
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{config} is damaged: {error}.", "Copy the adapter again.") from error
    if (folder / WEIGHTS).is_file():
        return
    if not (folder / PICKLED_WEIGHTS).is_file():
        raise ModelError(f"'{folder}' is incomplete: {WEIGHTS} is missing.", "Copy the adapter again.")
    if not allow_pickle:
        raise ModelError(f"'{folder}' holds its weights in {PICKLED_WEIGHTS}, a pickle, which may run code.",
                         "Save it again with safetensors (PEFT's save_pretrained does), or use --allow-pickle.")


def _first_of(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    return f"'{keys[0].removeprefix(WRAPPER)}'{more}"


def _first_line(error: Exception) -> str:
    """Return what went wrong: of a list of tensors that do not fit, the first; else the first line."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    return next((line for line in lines if line.startswith("size mismatch")), lines[0])

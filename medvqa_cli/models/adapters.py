"""What of a model is trained: LoRA adapters or weights, counted by part."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.models.protocol import ModelLayout
    from medvqa_cli.settings.train import TrainSettings


def prepare_training(model: Any, layout: ModelLayout, train: TrainSettings, *, lora: bool) -> Any:
    """Freeze and adapt a model as the settings say; return what the trainer trains.

    Raises:
        ModelError: If no module matches the LoRA targets.
    """
    if lora:
        return attach_lora(model, layout, train)
    model.requires_grad_(True)
    if train.freeze_vision_tower:
        find_part(model, layout.vision_tower).requires_grad_(False)
    return model


def attach_lora(model: Any, layout: ModelLayout, train: TrainSettings) -> Any:
    """Return the model with trainable LoRA adapters on its language model.

    Raises:
        ModelError: If no module matches the targets; the names that exist are shown.
    """
    from peft import LoraConfig, get_peft_model

    targets = train.lora.targets or layout.lora_targets
    pattern = target_pattern(layout, targets)
    if not any(re.fullmatch(pattern, name) for name, _ in model.named_modules()):
        raise ModelError(f"No module of the language model is called {', '.join(map(repr, targets))}.",
                         f"Set train.lora.targets to some of: {', '.join(linear_names(model, layout))}.")
    config = LoraConfig(r=train.lora.r, lora_alpha=train.lora.alpha, lora_dropout=train.lora.dropout,
                        target_modules=pattern, task_type=layout.task_type,
                        modules_to_save=[layout.projector.rsplit(".", 1)[-1]] if train.tune_projector else None)
    return get_peft_model(model, config)


def target_pattern(layout: ModelLayout, targets: Sequence[str]) -> str:
    r"""Return the regular expression of the adapted modules.

    The name stands behind a dot: `.*(q|v)` would also match a layer norm called `ln_q`.
    """
    names = "|".join(re.escape(target) for target in targets)
    return rf"{re.escape(layout.language_model)}\.(.*\.)?({names})"


def linear_names(model: Any, layout: ModelLayout) -> list[str]:
    """Return the last names of the language model's linear layers."""
    from torch import nn

    prefix = layout.language_model + "."
    return sorted({name.rsplit(".", 1)[-1] for name, module in model.named_modules()
                   if name.startswith(prefix) and isinstance(module, nn.Linear)})


def find_part(model: Any, path: str) -> Any:
    """Return the module at a dotted path, below a PEFT wrapper too."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.get_submodule(path)


def count_parameters(model: Any, layout: ModelLayout) -> dict[str, tuple[int, int]]:
    """Return (trainable, all) parameter counts of each part: vision tower, projector, language model, other."""
    parts = {"vision tower": layout.vision_tower, "projector": layout.projector,
             "language model": layout.language_model}
    counts: dict[str, tuple[int, int]] = dict.fromkeys([*parts, "other"], (0, 0))
    for name, parameter in model.named_parameters():
        plain = name.removeprefix("base_model.model.")
        part = next((title for title, path in parts.items() if plain.startswith(path + ".")), "other")
        trainable, total = counts[part]
        counts[part] = (trainable + parameter.numel() * parameter.requires_grad, total + parameter.numel())
    return counts


def load_adapter(model: Any, directory: str | Path, *, trainable: bool) -> Any:
    """Return the model with a saved PEFT adapter on it.

    Raises:
        ModelError: If the folder is no adapter, or does not fit the model.
    """
    from peft import PeftModel

    if not (Path(directory) / "adapter_config.json").is_file():
        raise ModelError(f"'{directory}' is not a PEFT adapter: adapter_config.json is missing.")
    try:
        return PeftModel.from_pretrained(model, str(directory), is_trainable=trainable)
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(f"The adapter '{directory}' does not fit the model: {_first_line(error)}",
                         "Load it on the base model it was trained on (adapter_config.json names it).") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

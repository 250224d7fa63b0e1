"""Weights in 4 or 8 bits (bitsandbytes): when, of which modules, and how such a model is made ready to be adapted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from medvqa_cli.errors import MissingDependencyError, ModelError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from medvqa_cli.models.protocol import ModelLayout

Quantization = Literal["none", "8bit", "4bit"]
Tuning = Literal["none", "lora", "full"]
LARGE = 3_000_000_000
"""Parameters above which `auto` quantises on a GPU."""


@dataclass(frozen=True, slots=True)
class QuantizationChoice:
    """How weights are kept, and why where that was left open.

    Attributes:
        mode: What is done to the weights as they are loaded; "none" for those that are stored quantised, too.
        reason: Why, if the setting was `auto`.
    """

    mode: Quantization
    reason: str = ""


def choose_quantization(wanted: str, checkpoint: str, config: Mapping[str, Any], *, device: torch.device,
                        parameters: int | None, tuning: Tuning = "none") -> QuantizationChoice:
    """Return how a checkpoint's weights are kept.

    Args:
        wanted: The setting: "auto", "none", "8bit" or "4bit".
        checkpoint: Its name, for errors.
        config: Its config.json, which says whether the weights are stored quantised.
        device: Where the model will run.
        parameters: How many weights it has; None if unknown.
        tuning: What will be trained: nothing, adapters or everything.

    Raises:
        SettingsError: If quantised weights are to be trained themselves.
        ModelError: If the weights are stored quantised in another way, or the device cannot do it.
        MissingDependencyError: If bitsandbytes is asked for and not installed.
    """
    if stored := config.get("quantization_config"):
        return _keep_stored(wanted, checkpoint, stored, tuning)
    if wanted == "auto":
        return _choose_freely(device, parameters, tuning)
    if wanted == "none":
        return QuantizationChoice("none")
    _refuse_full_tuning(f"model.quantization is '{wanted}'", tuning)
    if not has_bitsandbytes():
        raise MissingDependencyError(f"Quantisation ('{wanted}')", "bitsandbytes", "quantization")
    import bitsandbytes

    if device.type not in bitsandbytes.supported_torch_devices:
        raise ModelError(f"bitsandbytes cannot quantise to {wanted} on the device '{device.type}'.",
                         "Use --device cuda or cpu, or --quantization none.")
    return QuantizationChoice("8bit" if wanted == "8bit" else "4bit")


def make_quantization_config(mode: Quantization, dtype: torch.dtype, layout: ModelLayout) -> Any:
    """Return transformers' BitsAndBytesConfig: LLM.int8 (arXiv:2208.07339), or NF4 with double quantisation (QLoRA)."""
    from transformers import BitsAndBytesConfig

    kept = list_kept_modules(layout)
    if mode == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                              bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=kept)


def list_kept_modules(layout: ModelLayout) -> list[str]:
    """Return what is never quantised, as patterns of transformers: all outside the language model, and its head.

    Vision tower and projector are named as well, where a layout has them inside the language model's module.
    """
    outside = rf"(?!{re.escape(layout.language_model)}(\.|$)).*"
    return [*map(re.escape, (layout.vision_tower, *layout.projectors)), "lm_head", outside]


def find_quantization(model: Any) -> Quantization:
    """Return how bitsandbytes keeps a loaded model's weights, below a PEFT wrapper too."""
    if getattr(model, "is_loaded_in_4bit", False):
        return "4bit"
    return "8bit" if getattr(model, "is_loaded_in_8bit", False) else "none"


def prepare_kbit_training(model: Any, *, gradient_checkpointing: bool) -> Any:
    """Freeze a quantised model and keep what is not quantised in float32, as adapters are trained on it (QLoRA).

    Checkpointing is the non-reentrant one: it gives gradients although no input wants one.

    Args:
        model: A model for which `find_quantization` is not "none"; changed in place.
        gradient_checkpointing: Whether blocks are computed again in the backward pass, to save memory.
    """
    from peft import prepare_model_for_kbit_training

    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=gradient_checkpointing,
                                           gradient_checkpointing_kwargs={"use_reentrant": False})


def has_bitsandbytes() -> bool:
    """Return whether a version of bitsandbytes is installed that transformers can use."""
    from transformers.utils import is_bitsandbytes_available

    return bool(is_bitsandbytes_available())


def _choose_freely(device: torch.device, parameters: int | None, tuning: Tuning) -> QuantizationChoice:
    size = "an unknown number of" if parameters is None else _shorten(parameters)
    if device.type != "cuda":
        return QuantizationChoice("none", f"4bit on CUDA only; {size} parameters")
    if parameters is None or parameters <= LARGE:
        return QuantizationChoice("none", f"{size} parameters, 4bit above 3 billion")
    if tuning == "full":
        return QuantizationChoice("none", "the weights themselves are trained")
    if not has_bitsandbytes():
        return QuantizationChoice("none", f"{size} parameters; 4bit needs bitsandbytes, which is not installed")
    return QuantizationChoice("4bit", f"{size} parameters, 4bit above 3 billion")


def _shorten(number: int) -> str:
    return f"{number / 1e9:.1f} billion" if number >= 1e8 else f"{number / 1e6:.1f} million"


def _keep_stored(wanted: str, checkpoint: str, stored: Any, tuning: Tuning) -> QuantizationChoice:
    method = str(stored.get("quant_method", "unknown")) if isinstance(stored, dict) else "unknown"
    if wanted != "auto":
        raise ModelError(f"'{checkpoint}' is stored quantised already (by {method}): model.quantization cannot be "
                         f"'{wanted}'.", "Leave --quantization out, or take the checkpoint it was made of.")
    _refuse_full_tuning(f"'{checkpoint}' is stored quantised (by {method})", tuning)
    return QuantizationChoice("none", f"stored quantised by {method}")


def _refuse_full_tuning(what: str, tuning: Tuning) -> None:
    if tuning == "full":
        raise SettingsError(f"{what}, and on quantised weights only adapters can be trained.",
                            "Use --tuning lora, or --quantization none.")

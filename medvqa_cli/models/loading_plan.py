"""How a checkpoint is loaded, decided from its headers before a weight is read."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import ModelError
from medvqa_cli.models.headers import estimate_bytes, read_weights
from medvqa_cli.models.placement import Placement, as_gib, count_processes, place_weights
from medvqa_cli.models.quantization import QuantizationChoice, Tuning, choose_quantization, make_quantization_config
from medvqa_cli.settings.model import parse_size

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from medvqa_cli.models.protocol import ModelFamily, ModelLayout
    from medvqa_cli.settings.model import ModelSettings


@dataclass(frozen=True, slots=True)
class LoadingPlan:
    """How a checkpoint is loaded, decided from its headers before a weight is read.

    Attributes:
        dtype: Number format of what is not quantised.
        dtype_reason: Why, where one might expect another one.
        attention: transformers' name of the attention implementation.
        attention_reason: Why, if the setting was `auto`.
        quantization: How the language model's weights are kept.
        placement: Where they go.
        needed: Bytes they take; None if unknown.
    """

    dtype: torch.dtype
    dtype_reason: str
    attention: str
    attention_reason: str
    quantization: QuantizationChoice
    placement: Placement
    needed: int | None

    def describe(self) -> str:
        """Return one sentence for people: every decision, and why where it was left open."""
        limits = self.placement.max_memory
        place = f"spread over {len(limits)} GPUs" if limits else f"on {self.placement.device}"
        size = f", {as_gib(self.needed)} of weights" if self.needed is not None else ""
        dtype = _with_reason(str(self.dtype).removeprefix("torch."), self.dtype_reason)
        return (f"{dtype} {place}{size}; quantisation "
                f"{_with_reason(self.quantization.mode, self.quantization.reason)}; attention "
                f"{_with_reason(self.attention, self.attention_reason)}")

    def arrange(self, layout: ModelLayout) -> dict[str, Any]:
        """Return the arguments of `from_pretrained` for all of it; plain loading on a CPU needs no device map."""
        arguments: dict[str, Any] = {"dtype": self.dtype, "attn_implementation": self.attention}
        if self.quantization.mode != "none":
            arguments["quantization_config"] = make_quantization_config(self.quantization.mode, self.dtype, layout)
        if self.quantization.mode != "none" or self.placement.device.type == "cuda":
            arguments |= self.placement.arguments
        return arguments


def plan_loading(family: ModelFamily, checkpoint: str, folder: Path, settings: ModelSettings, *,
                 tuning: Tuning = "none", shares_images: bool = True) -> LoadingPlan:
    """Decide how a checkpoint is loaded: number format, attention, quantisation, place. Only headers are read.

    Args:
        family: The family that loads it.
        checkpoint: Its name, for errors.
        folder: Where its files lie.
        settings: How to load it.
        tuning: What will be trained.
        shares_images: Whether packing or shared prefixes may run.

    Raises:
        ModelError: If weight files are missing or damaged, the device is not there, or the weights do not fit.
        SettingsError: If quantised weights are to be trained themselves.
        MissingDependencyError: If bitsandbytes is asked for and not installed.
    """
    device = choose_device(settings.device)
    dtype, dtype_reason = choose_dtype(settings.dtype, device, trains=tuning != "none")
    attention, reason = choose_attention(settings.attention, device=device, dtype=dtype, shares_images=shares_images,
                                         model_class=getattr(family, "model_class", ""))
    stored = read_weights(folder, allow_pickle=settings.allow_pickle)
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    quantization = choose_quantization(settings.quantization, checkpoint, config, device=device, tuning=tuning,
                                       parameters=stored.parameters if stored else None)
    needed = estimate_bytes(stored, dtype.itemsize, quantization.mode, family.layout) if stored else None
    limit = parse_size(settings.max_memory_per_gpu) if settings.max_memory_per_gpu else None
    placement = place_weights(checkpoint, needed, device, limit=limit,
                              advice=_advise(dtype, quantization.mode, device))
    return LoadingPlan(dtype, dtype_reason, attention, reason, quantization, placement, needed)


def choose_device(wanted: str) -> torch.device:
    """Return the device for a setting; of several processes each takes the GPU of its number (LOCAL_RANK).

    Raises:
        ModelError: If the device asked for is not there.
    """
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        wanted = next(name for name, there in present.items() if there)
    if not present[wanted]:
        raise ModelError(f"The device '{wanted}' is not available on this machine.", "Use --device auto or cpu.")
    if wanted == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK") or 0) if count_processes() > 1 else 0)
    return torch.device(wanted)


def choose_dtype(wanted: str, device: torch.device, *, trains: bool = False) -> tuple[torch.dtype, str]:
    """Return the number format for a setting, and why where one might expect another one.

    Auto is bfloat16 on a GPU that has it. An older one answers in float16 and trains in float32: float16 has no room
    for small gradients unless losses are scaled, which ours are not. Elsewhere it is float32.
    """
    import torch

    if wanted != "auto":
        return getattr(torch, wanted), ""
    if device.type != "cuda":
        return torch.float32, ""
    if has_bfloat16(device):
        return torch.bfloat16, ""
    if trains:
        return torch.float32, "this GPU only emulates bfloat16, and float16 loses small gradients"
    return torch.float16, "this GPU only emulates bfloat16; --dtype float32 if numbers overflow"


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a GPU computes in bfloat16 itself: CUDA from compute capability 8.0 on, and whatever runs ROCm.

    torch emulates it on older ones (V100, T4): slower than float32.
    """
    import torch

    if device.type != "cuda":
        return False
    return bool(torch.version.hip) or torch.cuda.get_device_properties(device).major >= 8


def choose_attention(wanted: str, *, device: torch.device, dtype: torch.dtype, shares_images: bool = True,
                     model_class: str = "") -> tuple[str, str]:
    """Return transformers' name of an attention implementation, and why if that was left open.

    Auto is SDPA while images are shared; else flash-attn where it is installed and can be used; eager for the few
    models that have no SDPA.

    Args:
        wanted: The setting.
        device: Where the model will run.
        dtype: Its number format.
        shares_images: Whether packing or shared prefixes may run.
        model_class: Name of its class in transformers; empty if unknown: then auto is SDPA.

    Raises:
        ModelError: If flash attention is asked for and cannot be used.
    """
    import transformers
    from transformers.utils import is_flash_attn_2_available

    usable = is_flash_attn_2_available() and device.type == "cuda" and dtype.itemsize == 2
    if wanted == "flash":
        if not usable:
            raise ModelError("Flash attention is not usable here: it needs the package 'flash-attn', a CUDA GPU and "
                             f"bfloat16 or float16 (this is {str(dtype).removeprefix('torch.')} on {device.type}).",
                             "Use --attention auto, or: pip install 'medvqa-cli[flash]' --no-build-isolation")
        return "flash_attention_2", ""
    if wanted != "auto":
        return wanted, ""
    kind = getattr(transformers, model_class, None) if model_class else None
    if kind is not None and not kind._supports_sdpa:  # noqa: SLF001 - transformers offers no other way to ask
        return "eager", f"{model_class} has no SDPA"
    if shares_images:
        return "sdpa", "shared images need a mask, which flash-attn does not take" if usable else ""
    if usable and kind is not None and kind._supports_flash_attn:  # noqa: SLF001
        return "flash_attention_2", "no images are shared"
    return "sdpa", f"flash-attn is not usable with {model_class or 'this model'}" if usable else ""


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file of a checkpoint; anything but an object counts as empty.

    Raises:
        ModelError: If it is no JSON.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is damaged: {error}.", "Download the checkpoint again.") from error
    return tree if isinstance(tree, dict) else {}


def _advise(dtype: torch.dtype, mode: str, device: torch.device) -> str:
    ways = [] if mode == "4bit" or device.type == "mps" else ["--quantization 4bit"]
    ways += ["--dtype bfloat16"] if dtype.itemsize > 2 else []
    return f"Use {', '.join([*ways, 'a smaller model'])} or another device."


def _with_reason(choice: str, reason: str) -> str:
    return f"{choice} ({reason})" if reason else choice

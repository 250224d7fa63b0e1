"""What is trained of a model in 16 bits: kept in float32, computed with in the model's own number format.

A bfloat16 weight has eight significant bits: an update of less than half a step, 0.2 to 0.4 % of it, is rounded away,
and at the learning rates of fine-tuning most updates are. So the optimiser works on a float32 master of each trained
weight, and a forward pass on its 16-bit rounding, as in mixed-precision training (Micikevicius et al. 2018,
arXiv:1710.03740, section 3.1). The rounding is torch.autocast's; activations stay in 16 bits.
"""

from __future__ import annotations

import functools
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

MASTERS = "float32_masters"
"""Attribute of a model that has some."""
ENTRANCES = ("forward", "generate")
"""Methods of a model that compute; `generate` encodes pictures apart from the forward pass."""
HALVES = (torch.bfloat16, torch.float16)


@dataclass(slots=True)
class Masters:
    """Weights of a model that are float32 while it is trained.

    Attributes:
        dtype: The model's number format.
        weights: The trained weights.
        undo: What gives the model back its plain forward pass.
    """

    dtype: torch.dtype
    weights: list[torch.nn.Parameter]
    undo: list[Callable[[], None]] = field(default_factory=list)


def find_masters(model: Any) -> Masters | None:
    """Return a model's masters, PEFT's wrapper on it or not; None if it has none."""
    return getattr(model, MASTERS, None)


def raise_masters(model: Any) -> Any:
    """Turn every trained weight in 16 bits into float32, if there are such; return the model."""
    raised = [weight for weight in model.parameters() if weight.requires_grad and weight.dtype in HALVES]
    if not raised:
        return model
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    masters = Masters(raised[0].dtype, raised)
    for weight in raised:
        weight.data = weight.data.float()
    masters.undo += [_compute_in(base, name, masters.dtype) for name in ENTRANCES if hasattr(base, name)]
    masters.undo += _round_outputs(base, masters)
    setattr(base, MASTERS, masters)
    return model


def lower_masters(model: Any) -> None:
    """Round trained weights to the model's number format, for good: the training is over."""
    masters = find_masters(model)
    if masters is None:
        return
    for weight in masters.weights:
        weight.data = weight.data.to(masters.dtype)
    for undo in masters.undo:
        undo()
    delattr(model.get_base_model() if hasattr(model, "get_base_model") else model, MASTERS)


def computing(model: Any) -> AbstractContextManager[Any]:
    """Return the context in which parts of a model are called apart from its forward pass, as TRL's fused head does."""
    masters = find_masters(model)
    return torch.autocast(next(model.parameters()).device.type, masters.dtype) if masters else nullcontext()


def _compute_in(model: Any, name: str, dtype: torch.dtype) -> Callable[[], None]:
    """Have what a method of a model does computed in a number format, whoever calls it; return what undoes this."""
    own, plain = vars(model).get(name), getattr(model, name)
    device = next(model.parameters()).device.type

    @functools.wraps(plain)
    def compute(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device, dtype):
            return plain(*args, **kwargs)

    def undo() -> None:
        delattr(model, name)
        if own is not None:
            setattr(model, name, own)

    setattr(model, name, compute)
    return undo


def _round_outputs(model: Any, masters: Masters) -> Iterable[Callable[[], None]]:
    """Have what embeddings and norms make with their masters rounded, as it is where they are in 16 bits themselves."""
    known = {id(weight) for weight in masters.weights}

    def round_output(_module: Any, _inputs: Any, output: Any) -> Any:
        is_raised = isinstance(output, torch.Tensor) and output.dtype == torch.float32
        return output.to(masters.dtype) if is_raised else output

    owners = [module for module in model.modules()
              if any(id(weight) in known for weight in module.parameters(recurse=False))]
    return [module.register_forward_hook(round_output).remove for module in owners]

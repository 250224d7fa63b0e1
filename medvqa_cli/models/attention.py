"""Who may look at whom, in the form that a model takes: bool or additive, one mask or one for each kind of layer."""

from __future__ import annotations

from typing import Any

import torch

from medvqa_cli.models.precision import find_masters

Mask = torch.Tensor | dict[str, torch.Tensor]


def fit_mask(model: Any, visible: torch.Tensor, query_positions: torch.Tensor, key_positions: torch.Tensor) -> Mask:
    """Return a mask as the model's language model takes it.

    A model with a sliding window, or layers of both kinds, would apply one 4-D mask to all its layers and forget the
    window without a word: it gets a mask for each kind. A window looks back only: tokens of one image that see each
    other see all that follow, but of those before only what the window holds, as transformers composes its own masks.

    Args:
        model: The model.
        visible: Which keys a query sees but for the window, [B, 1, Q, K], bool.
        query_positions: Positions [B, Q], by which a window counts.
        key_positions: Positions [B, K].
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if window is None or (kinds and "sliding_attention" not in kinds):
        return _as_taken(model, visible)
    near = (query_positions[:, None, :, None] - key_positions[:, None, None, :]) < window
    windowed = visible & near
    if kinds <= {"sliding_attention"}:
        return _as_taken(model, windowed)
    return {"full_attention": _as_taken(model, visible), "sliding_attention": _as_taken(model, windowed)}


def _as_taken(model: Any, mask: torch.Tensor) -> torch.Tensor:
    if getattr(model.config, "_attn_implementation", None) == "eager":
        return to_additive_mask(mask, find_dtype(model))
    return mask


def to_additive_mask(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a bool mask as the additive mask eager attention takes: 0 where open, the lowest number elsewhere."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def find_dtype(model: Any) -> torch.dtype:
    """Return the number format a model computes in: that of its first floating-point parameter, or of its masters."""
    masters = find_masters(model)
    return masters.dtype if masters else next(
        parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())


def number_runs(marks: torch.Tensor) -> torch.Tensor:
    """Number the runs of True in each row of marks [B, T] from 1; 0 elsewhere."""
    before = torch.nn.functional.pad(marks, (1, 0))[:, :-1]
    return (marks & ~before).long().cumsum(dim=1) * marks


def pair_runs(runs: torch.Tensor) -> torch.Tensor:
    """Return which tokens are of one run, [B, 1, T, T], for run numbers [B, T]; 0 is of no run."""
    return ((runs[:, :, None] == runs[:, None, :]) & (runs[:, :, None] > 0))[:, None]

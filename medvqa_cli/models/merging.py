"""An adapter becomes part of the weights; and whether the merged model still answers like the adapted one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from medvqa_cli.errors import ModelError
from medvqa_cli.models.batches import build_batch, to_device

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medvqa_cli.models.encoding import SampleEncoder
    from medvqa_cli.models.protocol import LoadedModel
    from medvqa_cli.records import VQASample

TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest difference of a logit, as a share of the largest logit, that rounding explains: a merge rounds W + BA once
to the number format, and what follows rounds on (unit roundoff 6e-8, 5e-4, 4e-3)."""
LOST = 0.25
"""Most of the adapter's own effect that may be lost: the root mean square of the difference, over that of the effect.
Without it, an adapter that rounding swallows whole would pass."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far logits are from those expected, over all tokens of a sample.

    Attributes:
        largest: Largest absolute difference of a logit.
        share: The same, over the largest absolute logit expected.
        typical: Root mean square of the differences.
        changed_tokens: Positions whose most likely next token is another one.
        tokens: Positions compared.
    """

    largest: float
    share: float
    typical: float
    changed_tokens: int
    tokens: int


def encode_sample(loaded: LoadedModel, encoder: SampleEncoder, sample: VQASample) -> dict[str, Any]:
    """Return one sample as a batch of one row on the model's device."""
    return to_device(build_batch(encoder, [[sample]], packed=False), loaded.model)


@torch.no_grad()
def compute_logits(loaded: LoadedModel, batch: Mapping[str, Any]) -> torch.Tensor:
    """Return the logits [tokens, vocabulary] of a one-row batch, in float32 on the CPU."""
    inputs = dict(batch)
    labels = inputs.pop("labels")
    if loaded.family.layout.task_type == "SEQ_2_SEQ_LM":
        inputs["labels"] = labels
    logits: torch.Tensor = loaded.model(**inputs).logits[0]
    return logits.float().cpu()


def compare_logits(expected: torch.Tensor, found: torch.Tensor) -> Difference:
    """Return how far logits [tokens, vocabulary] are from those expected; not a number where they are none.

    Raises:
        ModelError: If they are not of one shape.
    """
    if expected.shape != found.shape:
        raise ModelError(f"The logits have the shape {tuple(found.shape)}, expected {tuple(expected.shape)}.",
                         "Vocabulary or prompt have changed: this is not the model that was adapted.")
    gaps = (found - expected).abs()
    changed = (found.argmax(dim=-1) != expected.argmax(dim=-1)).sum()
    return Difference(largest=gaps.max().item(), share=(gaps.max() / expected.abs().max()).item(),
                      typical=gaps.square().mean().sqrt().item(), changed_tokens=int(changed), tokens=len(expected))


def merge_weights(model: Any) -> Any:
    """Return the base model with the adapter added to its weights, and with the parts that were trained in full.

    Raises:
        ModelError: If a merged weight is not finite, or this kind of adapter cannot be merged.
    """
    try:
        return model.merge_and_unload(safe_merge=True)
    except (ValueError, AttributeError, NotImplementedError, TypeError) as error:
        raise ModelError(f"The adapter cannot be merged: {error}", "Use it as it is, beside its base model.") from error


def find_fault(difference: Difference, effect: Difference, dtype: str) -> str:
    """Return why a model is not the adapted one, or nothing where rounding explains every difference.

    Args:
        difference: Of the model from the adapted one.
        effect: Of the adapted model from its base.
        dtype: Number format of the weights.
    """
    allowed = TOLERANCES[dtype]
    if not difference.share <= allowed:
        return (f"its logits differ by up to {difference.largest:.2g} ({difference.share:.2g} of the largest, allowed "
                f"{allowed:g} in {dtype}), and {difference.changed_tokens} of {difference.tokens} next tokens change")
    if not difference.typical <= LOST * effect.typical:
        lost = difference.typical / effect.typical if effect.typical else float("inf")
        return (f"it loses {lost:.0%} of what the adapter changes (allowed {LOST:.0%}): in {dtype} it drowns in "
                "rounding")
    return ""

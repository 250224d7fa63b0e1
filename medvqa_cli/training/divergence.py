"""A training that has come to numbers that are none: it is stopped before they reach weights that are kept."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from medvqa_cli.errors import ModelError
from medvqa_cli.scoring.collapse import lower_rate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from transformers import TrainingArguments

    from medvqa_cli.training.resumable import ResumableTrainer


def explain_divergence(trainer: ResumableTrainer, step: int, what: str) -> ModelError:
    """Return the error that ends a training.

    Args:
        trainer: Its learning rate now, its checkpoints and its number format count.
        step: The optimiser step that went wrong, from 1.
        what: What is not finite, such as "the loss is nan".
    """
    rate = trainer._get_learning_rate()  # noqa: SLF001 - transformers offers no other way to ask
    return ModelError(f"The training has diverged at step {step} of {trainer.state.max_steps}: {what}, where the "
                      f"learning rate is {rate:.3g}.", " ".join(_list_advice(trainer)))


def _list_advice(trainer: ResumableTrainer) -> Iterator[str]:
    lower = lower_rate(trainer.args.learning_rate)
    yield f"Start again with a lower rate (--learning-rate {lower}) or a longer warm-up (--warmup 0.1)."
    if any(weight.dtype == torch.float16 for weight in trainer.model.parameters()):
        yield "float16 reaches only 65,504: --dtype bfloat16 or float32 may be enough."
    if checkpoint := trainer.last_checkpoint:
        yield f"The last checkpoint is kept: {checkpoint}."


def scales_losses(arguments: TrainingArguments, accelerator: Any) -> bool:
    """Return whether losses are scaled for float16: a step whose gradients overflow is then left out, and no fault."""
    return bool(arguments.fp16) or accelerator.mixed_precision == "fp16"


def are_finite(weights: Iterable[torch.Tensor]) -> bool:
    """Return whether all numbers of some weights, of which this process may hold parts, are finite."""
    parts = (weight.detach() for weight in weights)
    flags = [part.to_local() if hasattr(part, "to_local") else part for part in parts]
    return all(bool(flag.isfinite().all()) for flag in flags if flag.is_floating_point())


def is_finite(number: Any) -> bool:
    """Return whether a number, or a tensor of one, is finite; None, which nobody has computed, counts as such."""
    return number is None or math.isfinite(float(number))

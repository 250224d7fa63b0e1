"""Encoded samples to the tensors of one forward pass, and the answer-only loss of its logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from medvqa_cli.models.packing import IGNORE, build_row, plan_packs, stack_rows, to_additive_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.models.encoding import EncodedSample, SampleEncoder
    from medvqa_cli.models.protocol import ImageInputs
    from medvqa_cli.records import VQASample


def build_batch(encoder: SampleEncoder, groups: Sequence[Sequence[VQASample]], *, packed: bool,
                max_tokens: int = 2048) -> dict[str, Any]:
    """Return model inputs and labels for groups of samples, each group sharing its images.

    Args:
        encoder: Turns samples into ids and pixels.
        groups: With `packed` a group becomes one row; without, each sample becomes a row with its own copy.
        packed: Whether to share the image prefix by a block mask.
        max_tokens: With `packed`, a group longer than this is split into several rows; nothing is cut off.

    Returns:
        input_ids, labels [B, T], attention_mask ([B, 1, T, T] bool if packed, else [B, T]), position_ids [B, T] if
        packed, and the image tensors.
    """
    rows: list[list[EncodedSample]] = []
    images: list[ImageInputs] = []
    for group in groups:
        inputs = encoder.encode_images(group[0])
        encoded = [encoder.encode_text(sample, inputs) for sample in group]
        packs = plan_packs(encoded, max_tokens=max_tokens, max_questions=len(encoded) if packed else 1)
        rows.extend([encoded[index] for index in pack] for pack in packs)
        images.extend([inputs] * len(packs))
    padding_id = encoder.processor.tokenizer.pad_token_id or 0
    text = stack_rows([build_row(row) for row in rows], padding_id) if packed else stack_plain(rows, padding_id)
    return {**text, **join_images(images)}


def stack_plain(rows: Sequence[Sequence[EncodedSample]], padding_id: int) -> dict[str, torch.Tensor]:
    """Return separate samples as rows padded on the right: input_ids, labels, attention_mask [B, T]."""
    stacked = stack_rows([build_row(row) for row in rows], padding_id)
    lengths = torch.tensor([len(row[0].prompt) + len(row[0].answer) for row in rows])
    steps = torch.arange(stacked["input_ids"].shape[1])
    return {"input_ids": stacked["input_ids"], "labels": stacked["labels"],
            "attention_mask": (steps[None, :] < lengths[:, None]).long()}


def join_images(images: Sequence[ImageInputs]) -> dict[str, torch.Tensor]:
    """Concatenate the image tensors of all rows along their first axis."""
    names = {name for inputs in images for name in inputs.tensors}
    return {name: torch.cat([inputs.tensors[name] for inputs in images if name in inputs.tensors])
            for name in sorted(names)}


def sum_answer_loss(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the model and return the summed cross-entropy over supervised tokens, in nats, and their number.

    Logits are computed only where some row of the batch has a label: a large vocabulary is not multiplied with
    image and question tokens.
    """
    inputs = dict(batch)
    labels = inputs.pop("labels")
    if inputs["attention_mask"].ndim == 4 and _is_eager(model):
        inputs["attention_mask"] = to_additive_mask(inputs["attention_mask"], next(model.parameters()).dtype)
    targets = labels[:, 1:]
    columns = (targets != IGNORE).any(dim=0).nonzero()[:, 0]
    logits = model(**inputs, logits_to_keep=columns).logits
    targets = targets[:, columns]
    loss = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE,
                                    reduction="sum")
    return loss, (targets != IGNORE).sum()


def _is_eager(model: Any) -> bool:
    return getattr(model.config, "_attn_implementation", None) == "eager"


def to_device(batch: dict[str, Any], model: Any) -> dict[str, Any]:
    """Move a batch to the model's device, pixels in the model's number format."""
    parameter = next(model.parameters())
    return {name: value.to(parameter.device, parameter.dtype if value.is_floating_point() else None)
            for name, value in batch.items()}


@torch.no_grad()
def compare_packed_loss(model: Any, encoder: SampleEncoder, group: Sequence[VQASample]) -> tuple[float, float]:
    """Return the mean answer loss of samples of one image as plain rows and as a packed row, in nats a token."""
    was_training = model.training
    model.eval()
    losses = []
    for packed in (False, True):
        total, tokens = sum_answer_loss(model, to_device(build_batch(encoder, [group], packed=packed), model))
        losses.append((total / tokens).item())
    model.train(was_training)
    return losses[0], losses[1]

"""Encoded samples to the tensors of one forward pass, and the answer-only loss of its logits."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from medvqa_cli.models.attention import find_dtype, fit_mask, number_runs, pair_runs
from medvqa_cli.models.packing import IGNORE, build_row, count_up, pad_lists, plan_packs, stack_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.models.encoding import EncodedSample, SampleEncoder
    from medvqa_cli.models.protocol import ImageInputs
    from medvqa_cli.records import VQASample

PICTURES = "pictures"
"""Name in a batch of the rows' image inputs, where they are not joined."""
Pack = tuple["list[EncodedSample]", "ImageInputs"]
"""Samples of one row, and the images they share."""


def build_batch(encoder: SampleEncoder, groups: Sequence[Sequence[VQASample]], *, packed: bool,
                max_tokens: int | None = None, epochs: Sequence[int] | None = None,
                apart: bool = False) -> dict[str, Any]:
    """Return model inputs and labels for groups of samples, each group sharing its images.

    Args:
        encoder: Turns samples into ids and pixels.
        groups: With `packed` a group becomes one row; without, each sample becomes a row with its own copy.
        packed: Whether to share the image prefix by a block mask.
        max_tokens: With `packed`, a group longer than this is split into several rows; nothing is cut off. So is one
            whose samples differ before their images end (`SampleEncoder.arrange` brings equal ones together). None: as
            `plan_packs` says.
        epochs: Of each group, the epoch in which its pictures are seen, which decides how they are varied; if not
            given, they are seen as they are.
        apart: Leave each row's pictures by themselves, as "pictures", for a `FeatureCache` to replace.

    Returns:
        input_ids, labels [B, T], attention_mask ([B, 1, T, T] bool if packed, else [B, T]), position_ids [B, T] or
        [axes, B, T] if packed, what else the family marks, and the image tensors. Of an encoder-decoder labels [B, A]
        are the answers alone.
    """
    packs = list_packs(encoder, groups, packed=packed, max_tokens=max_tokens, epochs=epochs)
    return join_packs(encoder, packs, packed=packed, apart=apart)


def list_packs(encoder: SampleEncoder, groups: Sequence[Sequence[VQASample]], *, packed: bool,
               max_tokens: int | None = None, epochs: Sequence[int] | None = None) -> list[Pack]:
    """Return the rows that groups of samples make up, samples in order; arguments are those of `build_batch`."""
    packs: list[Pack] = []
    seen: Sequence[int | None] = epochs or [None] * len(groups)
    for group, epoch in zip(groups, seen, strict=True):
        inputs = encoder.encode_images(group[0], epoch)
        encoded = [encoder.encode_text(sample, inputs) for sample in group]
        plan = plan_packs(encoded, encoder.image_token, max_tokens=max_tokens,
                          max_questions=len(encoded) if packed else 1)
        packs.extend(([encoded[index] for index in pack], inputs) for pack in plan)
    return packs


def join_packs(encoder: SampleEncoder, packs: Sequence[Pack], *, packed: bool, apart: bool = False) -> dict[str, Any]:
    """Return rows as the inputs of one forward pass; arguments are those of `build_batch`."""
    text = stack_packed(encoder, packs) if packed else stack_plain(encoder, [samples[0] for samples, _ in packs])
    images = [inputs for _, inputs in packs]
    return {**text, **({PICTURES: images} if apart else join_images(images))}


def stack_packed(encoder: SampleEncoder, packs: Sequence[Pack]) -> dict[str, torch.Tensor]:
    """Return packs as rows padded on the right, with the block mask and the positions of the family."""
    rows = [build_row(samples, partial(_place, encoder, images)) for samples, images in packs]
    text = stack_rows(rows, encoder.padding_id)
    if encoder.family.capabilities.bidirectional_images:
        runs = number_runs(text["input_ids"] == encoder.image_token)
        text["attention_mask"] = text["attention_mask"] | pair_runs(runs)
    return text


def _place(encoder: SampleEncoder, images: ImageInputs, prefix: Sequence[int]) -> torch.Tensor:
    positions = encoder.family.find_positions(encoder.processor, prefix, images)
    return count_up(prefix) if positions is None else positions


def stack_plain(encoder: SampleEncoder, samples: Sequence[EncodedSample]) -> dict[str, torch.Tensor]:
    """Return separate samples as rows padded on the right: input_ids, labels, attention_mask [B, T]."""
    apart = encoder.family.layout.task_type == "SEQ_2_SEQ_LM"
    texts = [sample.prompt if apart else (*sample.prompt, *sample.answer) for sample in samples]
    answers = [sample.answer if apart else (*([IGNORE] * len(sample.prompt)), *sample.answer) for sample in samples]
    ids = pad_lists(texts, max(map(len, texts)), encoder.padding_id)
    labels = pad_lists(answers, max(map(len, answers)), IGNORE)
    mask = pad_lists([[1] * len(text) for text in texts], ids.shape[1], 0)
    marked = torch.zeros_like(ids, dtype=torch.bool) if apart else labels != IGNORE
    return {"input_ids": ids, "labels": labels, "attention_mask": mask,
            **encoder.family.mark_tokens(encoder.processor, ids, marked)}


def join_images(images: Sequence[ImageInputs]) -> dict[str, torch.Tensor]:
    """Concatenate the image tensors of all rows along their first axis, padded with zeros on the others."""
    names = {name for inputs in images for name in inputs.tensors}
    return {name: _concatenate([inputs.tensors[name] for inputs in images if name in inputs.tensors])
            for name in sorted(names)}


def _concatenate(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Concatenate tensors whose other axes may differ: pictures in more tiles than others."""
    largest = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    padded = [functional.pad(tensor, [side for size, most in zip(reversed(tensor.shape[1:]), reversed(largest),
                                                                 strict=True) for side in (0, most - size)])
              if list(tensor.shape[1:]) != largest else tensor for tensor in tensors]
    return torch.cat(padded)


def sum_answer_loss(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the model and return the summed cross-entropy over supervised tokens, in nats, and their number."""
    losses, targets = find_token_losses(model, batch)
    return losses.sum(), (targets != IGNORE).sum()


def find_token_losses(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the model; return each supervised token's cross-entropy in nats, 0 elsewhere, and the targets, both [B, S].

    Logits are computed only where some row of the batch has a label: a large vocabulary is not multiplied with
    image and question tokens.
    """
    inner = getattr(model, "module", model)  # of a model whose gradients several processes share
    inputs = fit_inputs(inner, batch)
    targets = inputs.pop("labels")
    if getattr(inner.config.get_text_config(), "is_encoder_decoder", False):
        logits = model(**inputs, labels=targets).logits
    else:
        targets = targets[:, 1:]
        columns = (targets != IGNORE).any(dim=0).nonzero()[:, 0]
        targets = targets[:, columns]
        logits = model(**inputs, logits_to_keep=columns).logits
    losses = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE,
                                      reduction="none")
    return losses.view(targets.shape), targets


def fit_inputs(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch with its block mask in the form the model takes."""
    inputs = dict(batch)
    if inputs["attention_mask"].ndim == 4:
        positions = inputs["position_ids"]
        order = positions[0] if positions.ndim == 3 else positions
        inputs["attention_mask"] = fit_mask(model, inputs["attention_mask"], order, order)
    return inputs


def to_device(batch: dict[str, Any], model: Any) -> dict[str, Any]:
    """Move a batch to the model's device, pixels in the model's number format."""
    device, dtype = next(model.parameters()).device, find_dtype(model)
    return {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in batch.items()}


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

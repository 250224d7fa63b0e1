"""Packed rows equal separate rows with checkpointed activations, in bfloat16 and with weights in 4 bits."""

from __future__ import annotations

import pytest
import torch

from medvqa_cli.models.adapters import find_part, prepare_training
from medvqa_cli.models.batches import build_batch, sum_answer_loss, to_device
from medvqa_cli.models.loading import load_checkpoint
from medvqa_cli.models.quantization import find_quantization
from medvqa_cli.plugins import models
from medvqa_cli.settings.model import ModelSettings
from medvqa_cli.settings.train import LoRASettings, TrainSettings
from tests.models.conftest import QUESTIONS, draw_picture, fill_adapters
from tests.models.test_packed_families import PACKING, ZERO, make_encoder, make_group

QUICK = "llava"
FAMILIES = [name if name == QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PACKING]


@pytest.fixture(scope="module", params=FAMILIES)
def directory(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    models.get(request.param).build_tiny(folder / request.param, seed=5,
                                         texts=[text for pair in QUESTIONS for text in pair])
    for number, size in enumerate(((60, 44), (40, 100))):
        draw_picture(number, size).save(folder / f"{number}.png")
    return folder / request.param


def prepare(directory, **values):
    """Return a loaded model with random adapters in its language model, without dropout, and its encoder."""
    settings = ModelSettings(**{"device": "cpu", "dtype": "float32", **values})
    loaded = load_checkpoint(models.get(directory.name), directory.name, str(directory), settings)
    lora = LoRASettings(r=4, alpha=8, dropout=0.0)
    model = prepare_training(loaded.model, loaded.family.layout, TrainSettings(lora=lora), lora=True).train()
    fill_adapters(model, "lora_")
    return model, make_encoder(loaded)


def find_gradients(model, encoder, directory, *, packed):
    groups = [make_group(directory, 0, 5), make_group(directory, 1, 3)]
    model.zero_grad(set_to_none=True)
    loss, tokens = sum_answer_loss(model, to_device(build_batch(encoder, groups, packed=packed), model))
    (loss / tokens).backward()
    gradients = {name: p.grad.float().clone() for name, p in model.named_parameters() if p.grad is not None}
    assert sum(gradient.norm() > ZERO for gradient in gradients.values()) > len(gradients) / 2
    return loss.item() / int(tokens), gradients


def compare(gradients, others):
    """Return the largest difference of a tensor, relative to its norm; of one that is rounding, none."""
    assert gradients.keys() == others.keys()
    return max(((gradient - others[name]).norm() / gradient.norm()).item() for name, gradient in gradients.items()
               if gradient.norm() > ZERO)


def test_checkpointed_activations_change_nothing(directory):
    model, encoder = prepare(directory)
    plain_loss, plain = find_gradients(model, encoder, directory, packed=False)
    loss, gradients = find_gradients(model, encoder, directory, packed=True)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    runs = []
    part = find_part(model, models.get(directory.name).layout.language_model)
    handle = getattr(part, "layers", part)[0].self_attn.register_forward_hook(lambda *_: runs.append(1))
    kept_loss, kept = find_gradients(model, encoder, directory, packed=True)
    handle.remove()
    assert len(runs) == 2, "the layer was not run again in the backward pass"
    assert kept_loss == loss
    assert compare(gradients, kept) < 1e-6
    assert kept_loss == pytest.approx(plain_loss, rel=1e-5)
    assert compare(plain, kept) < 1e-5


def test_in_bfloat16_packed_rows_are_as_near_the_truth_as_separate_ones(directory):
    """bfloat16 has 8 bits: both ways are rounded, differently. The truth is float32, with the same rounded weights."""
    exact, encoder = prepare(directory)
    with torch.no_grad():
        for parameter in exact.parameters():
            parameter.copy_(parameter.bfloat16())
    true_loss, truth = find_gradients(exact, encoder, directory, packed=False)
    model, encoder = prepare(directory, dtype="bfloat16")
    distances = []
    for packed in (False, True):
        loss, gradients = find_gradients(model, encoder, directory, packed=packed)
        assert loss == pytest.approx(true_loss, rel=1e-2)
        stacked, wanted = (torch.cat([tensors[name].flatten() for name in truth]) for tensors in (gradients, truth))
        distances.append(((stacked - wanted).norm() / wanted.norm()).item())
    assert distances[0] < 0.05, "1.0 to 1.7 % were measured, both ways, over all families"
    assert distances[1] < 1.5 * distances[0]


def test_over_weights_in_4_bits_packed_rows_equal_separate_ones(directory):
    model, encoder = prepare(directory, quantization="4bit")
    assert find_quantization(model) == "4bit"
    plain_loss, plain = find_gradients(model, encoder, directory, packed=False)
    packed_loss, packed = find_gradients(model, encoder, directory, packed=True)
    assert packed_loss == pytest.approx(plain_loss, rel=1e-5)
    assert compare(plain, packed) < 1e-5

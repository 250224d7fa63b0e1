"""Every family that packs: packed rows and trees equal separate rows, by loss, gradient and logits."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from medvqa_cli.models.adapters import find_part, prepare_training
from medvqa_cli.models.batches import build_batch, fit_inputs, sum_answer_loss
from medvqa_cli.models.encoding import SampleEncoder
from medvqa_cli.models.loading import load_checkpoint
from medvqa_cli.plugins import models
from medvqa_cli.records import VQASample
from medvqa_cli.settings.model import ModelSettings
from medvqa_cli.settings.train import LoRASettings, TrainSettings
from tests.models.conftest import QUESTIONS, draw_picture, fill_adapters

PACKING = [name for name in models.names() if models.get(name).capabilities.packs]
ZERO = 1e-7
"""Below this norm a gradient is rounding: that of a key's bias, say, is zero in truth."""


@pytest.fixture(scope="module", params=PACKING)
def directory(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    texts = [text for pair in QUESTIONS for text in pair]
    models.get(request.param).build_tiny(folder / request.param, texts=texts, seed=5)
    for number, size in enumerate(((60, 44), (40, 100))):
        draw_picture(number, size).save(folder / f"{number}.png")
    return folder / request.param


def load(directory, attention="sdpa"):
    settings = ModelSettings(device="cpu", dtype="float32", attention=attention)
    loaded = load_checkpoint(models.get(directory.name), directory.name, str(directory), settings)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)
    return loaded


def make_encoder(loaded):
    return SampleEncoder(loaded.family, loaded.processor, lambda path: Image.open(path).convert("RGB"))


def make_group(directory, image, count):
    return [VQASample(dataset="d", split="train", question_id=f"{image}-{n}", image_id=str(image), question=question,
                      answer=answer, answer_type="open", images=(str(directory.parent / f"{image}.png"),))
            for n, (question, answer) in enumerate(QUESTIONS[:count])]


def find_gradients(model, batch):
    model.zero_grad(set_to_none=True)
    loss, tokens = sum_answer_loss(model, batch)
    (loss / tokens).backward()
    return loss.item() / int(tokens), {name: parameter.grad.clone() for name, parameter in model.named_parameters()
                                       if parameter.grad is not None}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_loss_and_every_lora_gradient_equal_separate_rows(directory, attention):
    loaded = load(directory, attention)
    layout = loaded.family.layout
    projector = find_part(loaded.model, layout.projector)
    projects = any(isinstance(module, torch.nn.Linear) for module in projector.modules())
    parts = ("language_model", "vision_tower", *(["projector"] if projects else []))
    lora = LoRASettings(r=4, alpha=8, dropout=0.0, targets=("all-linear",), parts=parts)
    settings = TrainSettings(lora=lora, tune_projector=not projects)
    model = prepare_training(loaded.model, layout, settings, lora=True).train()
    fill_adapters(model)
    groups = [make_group(directory, 0, 5), make_group(directory, 1, 3)]
    encoder = make_encoder(loaded)
    (plain_loss, plain), (packed_loss, packed) = (
        find_gradients(model, build_batch(encoder, groups, packed=packed)) for packed in (False, True))
    assert packed_loss == pytest.approx(plain_loss, rel=1e-5)
    assert plain.keys() == packed.keys()
    for part in (layout.vision_tower, layout.projector, layout.language_model):
        assert any(f".{part}." in name for name in plain), f"nothing is learned in {part}"
    still = [name for name, gradient in plain.items() if gradient.norm() <= ZERO]
    assert not [name for name in still if "k_proj" not in name], "a gradient that is zero proves nothing"
    worst = {name: ((packed[name] - gradient).norm() / gradient.norm()).item()
             for name, gradient in plain.items() if name not in still}
    assert max(worst.values()) < 1e-5, max(worst, key=worst.get)


def test_a_segment_does_not_see_another(directory):
    loaded = load(directory)
    encoder = make_encoder(loaded)
    group = make_group(directory, 0, 5)
    batches = [build_batch(encoder, [[*group[:2], third]], packed=True) for third in (group[2], group[4])]
    with torch.no_grad():
        logits = [loaded.model(**{k: v for k, v in fit_inputs(loaded.model, batch).items() if k != "labels"}).logits
                  for batch in batches]
    end = next(i for i, (one, other) in enumerate(zip(*(batch["input_ids"][0].tolist() for batch in batches),
                                                      strict=False)) if one != other)
    assert end > batches[0]["input_ids"].shape[1] // 2
    assert torch.allclose(logits[0][0, :end], logits[1][0, :end], atol=1e-5)

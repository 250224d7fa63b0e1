"""Trained weights are float32 beside a 16-bit model, which computes as before and gets them back in its own format."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from medvqa_cli.models.adapters import prepare_training
from medvqa_cli.models.attention import find_dtype
from medvqa_cli.models.batches import build_batch, compare_packed_loss, sum_answer_loss, to_device
from medvqa_cli.models.loading import load_checkpoint
from medvqa_cli.models.precision import find_masters, lower_masters, raise_masters
from medvqa_cli.plugins import models
from medvqa_cli.settings.model import ModelSettings
from medvqa_cli.settings.train import LoRASettings, TrainSettings
from tests.models.test_packing import make_encoder, make_samples

NONE = LoRASettings(targets=("none",))
WAYS = {
    "full": (TrainSettings(), False),
    "frozen tower": (TrainSettings(freeze_vision_tower=True), False),
    "parts alone": (TrainSettings(tune_projector=True, unfreeze_last_layers=1, lora=NONE), True),
    "beside LoRA": (TrainSettings(tune_projector=True, unfreeze_last_layers=1), True),
}
FAMILIES = ("llava_next", "qwen3_vl", "gemma3", "internvl", "blip2", "phi4_multimodal")


def load(family, directory, dtype="bfloat16", attention="sdpa"):
    torch.manual_seed(0)
    settings = ModelSettings(dtype=dtype, device="cpu", attention=attention)
    return load_checkpoint(models.get(family), family, str(directory), settings)


def prepare(loaded, way):
    settings, lora = WAYS[way]
    return prepare_training(loaded.model, loaded.family.layout, settings, lora=lora).eval()


def take_step(loaded, model, paths, *, packed):
    """Return the loss of two groups, and the norm of its gradient."""
    groups = [make_samples(paths)[:3], make_samples(paths, 1)[:2]]
    total, count = sum_answer_loss(model, to_device(build_batch(make_encoder(loaded), groups, packed=packed), model))
    (total / count).backward()
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    return (total / count).item(), torch.nn.utils.clip_grad_norm_(learned, 1e9).item()


def check(family, directory, paths, way, attention="sdpa"):
    seen = []
    for masters in (False, True):
        for packed in {loaded.family.capabilities.packs for loaded in [load(family, directory)]} | {False}:
            loaded = load(family, directory, attention=attention)
            model = prepare(loaded, way)
            seen.append(take_step(loaded, raise_masters(model) if masters else model, paths, packed=packed))
    for loss, norm in seen[1:]:
        assert loss == pytest.approx(seen[0][0], rel=3e-3)
        assert norm == pytest.approx(seen[0][1], rel=3e-2)


@pytest.mark.parametrize("way", ["full", "beside LoRA"])
def test_a_model_with_masters_computes_what_it_did(tiny_directory, picture_paths, way):
    check("llava", tiny_directory, picture_paths, way)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_all_kinds_compute_what_they_did(tmp_path, picture_paths, family, way, attention):
    models.get(family).build_tiny(tmp_path / "model", texts=["Is there a lesion? yes no upper left lung"], seed=1)
    check(family, tmp_path / "model", picture_paths, way, attention)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_trained_is_float32_and_goes_back(tiny_directory, picture_paths, way):
    loaded = load("llava", tiny_directory)
    model = raise_masters(prepare(loaded, way))
    trained = Counter(weight.dtype for weight in model.parameters() if weight.requires_grad)
    frozen = Counter(weight.dtype for weight in model.parameters() if not weight.requires_grad)
    assert set(trained) == {torch.float32}
    assert set(frozen) <= {torch.bfloat16}
    assert find_dtype(model) == torch.bfloat16
    take_step(loaded, model, picture_paths, packed=True)
    adapters = sum("lora_" in name for name, _ in model.named_parameters())
    lower_masters(model)
    after = Counter(weight.dtype for weight in model.parameters() if weight.requires_grad)
    assert after[torch.float32] == adapters, "PEFT keeps adapters in float32"
    assert after[torch.bfloat16] == trained[torch.float32] - adapters
    assert find_masters(model) is None
    hooks = [hook for module in model.modules() for hook in module._forward_hooks.values()]
    assert not any("round_output" in getattr(hook, "__qualname__", "") for hook in hooks)
    lower_masters(model)


def test_packed_and_plain_losses_agree(tiny_directory, picture_paths):
    loaded = load("llava", tiny_directory)
    model = raise_masters(prepare(loaded, "full"))
    plain, packed = compare_packed_loss(model, make_encoder(loaded), make_samples(picture_paths))
    assert packed == pytest.approx(plain, rel=3e-3)


def test_float32_and_adapters_need_no_masters(tiny_directory):
    loaded = load("llava", tiny_directory, dtype="float32")
    assert find_masters(raise_masters(prepare(loaded, "full"))) is None
    assert "forward" not in vars(loaded.model)
    loaded = load("llava", tiny_directory)
    model = prepare_training(loaded.model, loaded.family.layout, TrainSettings(), lora=True)
    assert find_masters(raise_masters(model)) is None


@pytest.mark.parametrize("rate", [1e-5, 1e-4])
def test_small_updates_add_up(tiny_directory, picture_paths, rate):
    """A constant gradient moves every weight by rate x steps; in bfloat16 most weights do not move at all."""
    moved = {}
    for masters in (True, False):
        model = prepare(load("llava", tiny_directory), "full")
        weight = model.get_output_embeddings().weight
        raise_masters(model) if masters else None
        optimizer = torch.optim.AdamW([weight], lr=rate, weight_decay=0.0)
        before = weight.detach().float().clone()
        for _ in range(30):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        moved[masters] = before - weight.detach().float()
    assert moved[True].mean().item() == pytest.approx(30 * rate, rel=0.01)
    assert (moved[False] == 0).float().mean() > 0.2


@pytest.mark.parametrize("family", ["llava", "blip2"])
def test_generation_and_the_lowered_model_give_the_same_answers(tmp_path, picture_paths, family):
    """`generate` encodes pictures by itself, not in the model's forward pass."""
    models.get(family).build_tiny(tmp_path / "model", texts=["Is there a lesion? yes no upper left lung"], seed=1)
    loaded = load(family, tmp_path / "model")
    model = raise_masters(prepare(loaded, "full"))
    encoder = make_encoder(loaded)
    sample = make_samples(picture_paths)[0]
    images = encoder.encode_images(sample)
    prompt = torch.tensor([encoder.encode_text(sample, images).prompt])
    inputs = to_device({"input_ids": prompt, "attention_mask": torch.ones_like(prompt), **images.tensors}, model)
    answers = []
    for lower in (False, True):
        lower_masters(model) if lower else None
        answers.append(model.generate(**inputs, max_new_tokens=4, do_sample=False).tolist())
    assert answers[0] == answers[1]

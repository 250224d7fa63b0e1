"""Kept vision features: equal to computed ones bit for bit, never stale, bounded, safe in files."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import torch

from medvqa_cli.models.adapters import prepare_training
from medvqa_cli.models.batches import build_batch, sum_answer_loss
from medvqa_cli.models.feature_files import FeatureFiles
from medvqa_cli.models.features import FeatureCache, FeatureMemory, hash_pictures, hash_vision, takes_features
from medvqa_cli.models.protocol import ImageInputs
from medvqa_cli.plugins import models
from medvqa_cli.settings.train import LoRASettings, TrainSettings
from tests.models.conftest import QUESTIONS, draw_picture, fill_adapters, load_tiny
from tests.models.test_packed_families import load, make_encoder, make_group

WITHOUT = ("phi4_multimodal",)
"""Families whose models take nothing in the place of pixels."""
DROPPING = ("blip2", "blip2_opt")
"""Families whose checkpoints have dropout in what makes features: the Q-Former."""
QUICK = ("qwen3_vl", "llava_next")
"""Features of several depths, and a list of pictures of different lengths; the others are slow tests."""
FAMILIES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
            for name in models.names() if name not in WITHOUT]


@pytest.fixture(scope="module", params=FAMILIES)
def directory(request, tmp_path_factory):
    return build(request.param, tmp_path_factory.mktemp(request.param))


def build(name, folder):
    models.get(name).build_tiny(folder / name, seed=5, texts=[text for pair in QUESTIONS for text in pair])
    for number, size in enumerate(((60, 44), (40, 100))):
        draw_picture(number, size).save(folder / f"{number}.png")
    return folder / name


def switch_dropout_off(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):  # of a functional dropout
                setattr(module, name, 0.0)


def train_language(loaded):
    """Return the model with random adapters in its language model, and without PEFT's wrapper."""
    lora = LoRASettings(r=4, alpha=8, dropout=0.0)
    model = prepare_training(loaded.model, loaded.family.layout, TrainSettings(lora=lora), lora=True).train()
    fill_adapters(model)
    return model, model.get_base_model()


def find_gradients(model, batch):
    model.zero_grad(set_to_none=True)
    loss, tokens = sum_answer_loss(model, batch)
    (loss / tokens).backward()
    return loss, {name: parameter.grad.clone() for name, parameter in model.named_parameters()
                  if parameter.grad is not None}


def test_loss_and_gradients_equal_those_of_computed_features_bit_for_bit(directory, tmp_path):
    loaded = load(directory)
    model, base = train_language(loaded)
    encoder = make_encoder(loaded)
    weights = hash_vision(base, loaded.family.layout)
    caches = [FeatureCache(base, store, weights) for store in (FeatureMemory(2**24), FeatureFiles(tmp_path, 2**24))]
    assert takes_features(base)
    picture = encoder.encode_images(make_group(directory, 0, 1)[0])
    assert caches[0].is_steady(picture) == (directory.name not in DROPPING)
    switch_dropout_off(base)
    assert caches[0].is_steady(picture)
    assert base.training
    for packed in (False, True) if loaded.family.capabilities.packs else (False,):
        for groups in ([make_group(directory, 0, 4 if packed else 1)], [make_group(directory, 1, 4 if packed else 1)]):
            loss, gradients = find_gradients(model, build_batch(encoder, groups, packed=packed))
            assert any(gradient.norm() > 0 for gradient in gradients.values())
            for cache in (*caches, *caches):
                kept_loss, kept = find_gradients(model, cache.fill(
                    build_batch(encoder, groups, packed=packed, apart=True)))
                assert kept_loss.equal(loss)
                assert kept.keys() == gradients.keys()
                assert all(kept[name].equal(gradient) for name, gradient in gradients.items())
    assert all((cache.hits, cache.misses) == ((6, 2) if loaded.family.capabilities.packs else (2, 2))
               for cache in caches)


def test_several_pictures_in_a_batch_keep_their_order(directory):
    """The tower sees them one by one instead of together: equal but for rounding."""
    loaded = load(directory)
    model, base = train_language(loaded)
    encoder = make_encoder(loaded)
    switch_dropout_off(base)
    cache = FeatureCache(base, FeatureMemory(2**24), "w")
    groups = [make_group(directory, 1, 2), make_group(directory, 0, 3)]
    for packed in (False, True) if loaded.family.capabilities.packs else (False,):
        loss, gradients = find_gradients(model, build_batch(encoder, groups, packed=packed))
        kept_loss, kept = find_gradients(model, cache.fill(build_batch(encoder, groups, packed=packed, apart=True)))
        assert kept_loss.item() == pytest.approx(loss.item(), rel=1e-6)
        worst = max(((kept[name] - gradient).norm() / gradient.norm().clamp(min=1e-7)).item()
                    for name, gradient in gradients.items())
        assert worst < 1e-4
    assert cache.misses == 2


@pytest.mark.parametrize("name", WITHOUT)
def test_a_model_that_takes_no_features_is_known(name, tmp_path):
    assert not takes_features(load(build(name, tmp_path)).model)


def make_features(number, size=100):
    return {"pooled": torch.full((size,), float(number)), "deep.0": torch.arange(3.0)}


@pytest.fixture(params=["memory", "files"])
def store(request, tmp_path):
    return FeatureMemory(2_000) if request.param == "memory" else FeatureFiles(tmp_path, 2_600)


def test_what_was_not_used_for_longest_goes_first(store):
    for number in range(4):
        store.put(f"w/{number}", make_features(number))
        time.sleep(0.02)
    assert store.get("w/0")["pooled"].equal(torch.zeros(100))
    time.sleep(0.02)
    store.put("w/4", make_features(4))
    assert store.get("w/1") is None
    assert store.get("w/0") is not None
    assert store.get("w/4")["pooled"].equal(torch.full((100,), 4.0))
    store.put("w/5", make_features(5, size=1000))
    assert store.get("w/5") is None, "larger than the bound"
    assert store.get("w/4") is not None


def test_files_are_found_again_and_bounded_by_what_others_wrote(tmp_path):
    FeatureFiles(tmp_path, 10**6).put("w/a", make_features(1))
    again = FeatureFiles(tmp_path, 10**6)
    assert again.get("w/a")["deep.0"].equal(torch.arange(3.0))
    small = FeatureFiles(tmp_path, 1_200)
    for number in range(3):
        small.put(f"w/{number}", make_features(number))
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) <= 1_200


def test_a_damaged_or_half_written_file_is_no_entry(tmp_path):
    store = FeatureFiles(tmp_path, 10**6)
    store.put("w/a", make_features(1))
    whole = (tmp_path / "w" / "a.safetensors").read_bytes()
    for content in (b"", whole[:50], whole[:-8], b"x" * 200):
        (tmp_path / "w" / "a.safetensors").write_bytes(content)
        assert store.get("w/a") is None
    store.put("w/a", make_features(2))
    assert store.get("w/a")["pooled"].equal(torch.full((100,), 2.0))
    fresh, stale = tmp_path / "w" / "f.safetensors.1.part", tmp_path / "w" / "s.safetensors.2.part"
    for part in (fresh, stale):
        part.write_bytes(whole)
    os.utime(stale, (1.0, 1.0))
    FeatureFiles(tmp_path, 10**6)
    assert fresh.exists(), "another process may be writing it"
    assert not stale.exists()


WRITER = """
import sys, torch
from pathlib import Path
from medvqa_cli.models.feature_files import FeatureFiles
store = FeatureFiles(Path(sys.argv[1]), 60_000)
print("ready", flush=True)
while True:
    for number in range(200):
        found = store.get(f"w/{number}")
        assert found is None or found["pooled"].equal(torch.full((500,), float(number))), number
        store.put(f"w/{number}", {"pooled": torch.full((500,), float(number))})
"""


@pytest.mark.slow
def test_killed_processes_that_share_a_folder_leave_only_whole_files(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
               for _ in range(3)]
    for writer in writers:
        writer.stdout.readline()
    time.sleep(2)
    alive = [writer.poll() for writer in writers]
    for writer in writers:
        writer.kill()
        writer.communicate()
    assert alive == [None, None, None], "no writer failed"
    store = FeatureFiles(tmp_path, 60_000)
    names = [int(path.stem) for path in tmp_path.rglob("*.safetensors")]
    assert names
    assert all(store.get(f"w/{name}")["pooled"].equal(torch.full((500,), float(name))) for name in names)


def test_the_key_knows_every_weight_the_configuration_and_what_the_tower_is_fed(tiny_directory):
    loaded = load_tiny(tiny_directory)
    layout, seen = loaded.family.layout, set()
    model = loaded.model
    seen.add(hash_vision(model, layout))
    parts = dict(model.named_parameters())
    for part in ("vision_tower", "multi_modal_projector"):
        with torch.no_grad():
            next(parameter for name, parameter in parts.items() if part in name).view(-1)[0] += 1e-3
        seen.add(hash_vision(model, layout))
    model.config.vision_feature_layer = -2
    seen.add(hash_vision(model, layout))
    assert len(seen) == 4
    with torch.no_grad():
        parts["lm_head.weight"].add_(1.0)
        next(parameter for name, parameter in parts.items() if "language_model" in name).add_(1.0)
    assert hash_vision(model, layout) in seen, "the language model may learn"
    pixels = torch.rand(1, 3, 4, 4)
    fed = [ImageInputs({"pixel_values": pixels}), ImageInputs({"pixel_values": pixels.half()}),
           ImageInputs({"pixel_values": pixels + 1e-3}), ImageInputs({"pixel_values": pixels.view(1, 3, 2, 8)}),
           ImageInputs({"pixel_values": pixels, "image_sizes": torch.tensor([[4, 4]])})]
    assert len({hash_pictures(inputs) for inputs in fed}) == len(fed)
    assert hash_pictures(fed[0]) == hash_pictures(ImageInputs({"pixel_values": pixels.clone()}, (3,), ("x",)))


def test_rows_without_a_picture_stay_rows_without_a_picture(tiny_directory):
    loaded = load_tiny(tiny_directory)
    cache = FeatureCache(loaded.model, FeatureMemory(1000), "w")
    filled = cache.fill({"input_ids": torch.tensor([[1, 2]]), "pictures": [ImageInputs()]})
    assert set(filled) == {"input_ids"}

"""Varied pictures and kept vision features in a training: the same in any process, packed or not, resumed or not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medvqa_cli.data.augmentation import Augmentation
from medvqa_cli.data.images import read_image
from medvqa_cli.models.adapters import prepare_training
from medvqa_cli.models.encoding import SampleEncoder
from medvqa_cli.models.feature_files import FeatureFiles
from medvqa_cli.models.features import FeatureCache, FeatureMemory, hash_vision
from medvqa_cli.progress import SILENT
from medvqa_cli.records import JsonlWriter, read_jsonl
from medvqa_cli.settings.augmentation import AugmentSettings
from medvqa_cli.settings.train import LoRASettings, TrainSettings
from medvqa_cli.training.sft import TrainingPlan, build_trainer
from tests.models.conftest import load_tiny
from tests.models.test_packing import make_samples

LORA = LoRASettings(r=4, alpha=8, dropout=0.0)
LIGHT = AugmentSettings(mode="light")


def make_trainer(directory, paths, folder, *, augment=None, store=None, packed=True, events=None, **values):
    torch.manual_seed(0)
    loaded = load_tiny(directory)
    values = {"max_steps": 6, "batch_size": 1, "learning_rate": 1e-3, "log_steps": 1, "eval_fraction": 0.5,
              "save_fraction": 0.0, "lora": LORA, **values}
    settings = TrainSettings(**values)
    model = prepare_training(loaded.model, loaded.family.layout, settings, lora=True)
    base = model.get_base_model()
    features = FeatureCache(base, store, hash_vision(base, loaded.family.layout)) if store else None
    encoder = SampleEncoder(loaded.family, loaded.processor, read_image, cache_bytes=2**24,
                            augmentation=Augmentation(augment, 3) if augment else None)
    samples = [sample for image in range(3) for sample in make_samples(paths, image)]
    plan = TrainingPlan(model, encoder, samples, samples[:5], packed, settings, 3, folder / "checkpoints",
                        features=features)
    return build_trainer(plan, events, SILENT)[0], features


def train(directory, paths, folder, *, resume=None, **values):
    """Return all logged losses and the adapters' weights."""
    with JsonlWriter(folder / "events.jsonl") as events:
        trainer, features = make_trainer(directory, paths, folder, events=events, **values)
        trainer.train(resume_from_checkpoint=resume)
    losses = [event.get("loss", event.get("eval_loss")) for event in read_jsonl(folder / "events.jsonl")
              if event["event"] in {"log", "eval"}]
    return losses, [p.detach().clone() for p in trainer.model.parameters() if p.requires_grad], features


def list_pixels(trainer):
    return [batch["pixel_values"] for batch in trainer.get_train_dataloader()]


@pytest.mark.parametrize("packed", [True, False])
def test_kept_features_train_the_same_weights_bit_for_bit(tiny_directory, picture_paths, tmp_path, packed):
    losses, weights, _ = train(tiny_directory, picture_paths, tmp_path / "off", packed=packed, pack_questions=2,
                               eval_fraction=0.0 if packed else 0.5)
    for name, store in (("memory", FeatureMemory(2**24)), ("disk", FeatureFiles(tmp_path / "cache", 2**24))):
        found, same, features = train(tiny_directory, picture_paths, tmp_path / name, packed=packed, store=store,
                                      pack_questions=2, eval_fraction=0.0 if packed else 0.5)
        assert found == losses
        assert all(one.equal(other) for one, other in zip(same, weights, strict=True))
        assert features.misses == 3
        assert features.hits > 0


def test_features_are_kept_with_workers_and_accumulation_too(tiny_directory, picture_paths, tmp_path):
    common = {"gradient_accumulation": 2, "max_steps": 2, "batch_size": 1, "eval_fraction": 0.0}
    losses, weights, _ = train(tiny_directory, picture_paths, tmp_path / "a", **common)
    found, same, features = train(tiny_directory, picture_paths, tmp_path / "b", **common, workers=1,
                                  store=FeatureMemory(2**24))
    assert found == losses
    assert all(one.equal(other) for one, other in zip(same, weights, strict=True))
    assert (features.hits, features.misses) == (1, 3)


def test_every_epoch_varies_pictures_anew_and_workers_do_it_alike(tiny_directory, picture_paths, tmp_path):
    runs = [list_pixels(make_trainer(tiny_directory, picture_paths, tmp_path, augment=LIGHT, workers=workers)[0])
            for workers in (0, 1)]
    assert len(runs[0]) == 6, "two epochs of three pictures"
    assert all(one.equal(other) for one, other in zip(*runs, strict=True))
    assert len({pixels.numpy().tobytes() for pixels in runs[0]}) == 6, "no picture is seen twice"


def test_all_questions_of_a_picture_see_the_same_of_it_packed_or_not(tiny_directory, picture_paths, tmp_path):
    seen = []
    for packed, questions in ((True, 32), (True, 2), (False, 32)):
        trainer, _ = make_trainer(tiny_directory, picture_paths, tmp_path, augment=LIGHT, packed=packed,
                                  pack_questions=questions, max_steps=None, epochs=1.0)
        seen.append({pixels.numpy().tobytes() for batch in list_pixels(trainer) for pixels in batch})
    assert len(seen[0]) == 3
    assert seen[0] == seen[1] == seen[2]


def test_a_batch_of_two_epochs_varies_each_of_its_groups_by_its_own(tiny_directory, picture_paths, tmp_path):
    whole, _ = make_trainer(tiny_directory, picture_paths, tmp_path, augment=LIGHT, batch_size=2, max_steps=3)
    single, _ = make_trainer(tiny_directory, picture_paths, tmp_path, augment=LIGHT, batch_size=1, max_steps=6)
    assert torch.cat(list_pixels(whole)).equal(torch.cat(list_pixels(single)))


def test_validation_sees_pictures_as_they_are(tiny_directory, picture_paths, tmp_path):
    varied, plain = (make_trainer(tiny_directory, picture_paths, tmp_path, augment=augment)[0]
                     for augment in (LIGHT, None))
    pixels = [[batch["pixel_values"] for batch in trainer._validation_batches()] for trainer in (varied, plain)]
    assert all(one.equal(other) for one, other in zip(*pixels, strict=True))
    assert not list_pixels(varied)[0].equal(list_pixels(plain)[0])
    first = np.asarray(read_image(picture_paths[0]))
    assert first.shape == (44, 60, 3)


def test_a_resumed_training_varies_pictures_as_an_uninterrupted_one(tiny_directory, picture_paths, tmp_path):
    common = {"augment": LIGHT, "eval_fraction": 0.0, "max_steps": 6, "batch_size": 1}
    _, weights, _ = train(tiny_directory, picture_paths, tmp_path / "whole", **common, save_fraction=0.34)
    checkpoint = tmp_path / "whole" / "checkpoints" / "checkpoint-4"
    _, resumed, _ = train(tiny_directory, picture_paths, tmp_path / "again", **common, resume=str(checkpoint))
    assert all(one.equal(other) for one, other in zip(resumed, weights, strict=True))


@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_several_packs_a_batch_and_accumulation_train_as_separate_rows(tiny_directory, picture_paths, tmp_path,
                                                                       checkpointing):
    common = {"batch_size": 2, "gradient_accumulation": 2, "max_steps": 4, "grouping": "image", "pack_questions": 2,
              "gradient_checkpointing": checkpointing, "eval_fraction": 0.0}
    losses, weights, _ = train(tiny_directory, picture_paths, tmp_path / "rows", packed=False, **common)
    packed, same, _ = train(tiny_directory, picture_paths, tmp_path / "packs", packed=True, **common)
    assert packed == pytest.approx(losses, rel=1e-5)
    assert max((one - other).abs().max().item() for one, other in zip(same, weights, strict=True)) < 1e-4, (
        "four steps move a weight by up to 4e-3")

"""The vision cache of a run: opened where it is exact, refused with the reason where it would not be."""

from __future__ import annotations

import pytest
import torch

from medvqa_cli.errors import SettingsError
from medvqa_cli.models.adapters import prepare_training
from medvqa_cli.models.feature_files import FeatureFiles
from medvqa_cli.models.loading import load_checkpoint
from medvqa_cli.plugins import models
from medvqa_cli.progress import SILENT
from medvqa_cli.records import VQASample
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.augmentation import build_augmentation, describe_augmentation
from medvqa_cli.workflows.models import build_encoder
from medvqa_cli.workflows.vision_cache import check_vision_cache, describe_vision_cache, open_vision_cache
from tests.data.builders import Notes
from tests.models.conftest import QUESTIONS, draw_picture


def prepare(name, tmp_path, **train):
    models.get(name).build_tiny(tmp_path / name, seed=5, texts=[text for pair in QUESTIONS for text in pair])
    draw_picture(0).save(tmp_path / "0.png")
    settings = make_settings({"model": {"device": "cpu", "dtype": "float32"}, "paths": {"prepared": str(tmp_path)},
                              "train": {"vision_cache": "memory", **train}})
    loaded = load_checkpoint(models.get(name), name, str(tmp_path / name), settings.model)
    loaded.model = prepare_training(loaded.model, loaded.family.layout, settings.train,
                                    lora=settings.train.tuning != "full")
    sample = VQASample(dataset="d", split="train", question_id="0", image_id="0", question=QUESTIONS[0][0],
                       answer="yes", answer_type="closed", images=(str(tmp_path / "0.png"),))
    return settings, loaded, build_encoder(loaded, settings), [sample]


def test_a_cache_is_opened_where_the_settings_say(tmp_path):
    notes = Notes()
    settings, *rest = prepare("llava", tmp_path, vision_cache="disk", vision_cache_mb=3)
    cache = open_vision_cache(settings, *rest, notes)
    assert isinstance(cache.store, FeatureFiles)
    assert cache.store.folder == tmp_path / ".vision-cache"
    assert cache.store.max_bytes == 3 * 2**20
    assert describe_vision_cache(settings, cache)["vision_cache"]["mode"] == "disk"
    assert open_vision_cache(make_settings(), *rest, notes) is None
    assert describe_vision_cache(make_settings(), None) == {}


@pytest.mark.parametrize(("name", "train", "reason"), [
    ("llava", {"tune_projector": True}, r"'.*multi_modal_projector.*' is trained"),
    ("llava", {"lora": {"parts": ["language_model", "vision_tower"]}}, r"'.*vision_tower.*lora_A.*' is trained"),
    ("llava", {"tuning": "full"}, r"'model.vision_tower.*' is trained: what the vision tower and"),
    ("phi4_multimodal", {}, "the family 'phi4_multimodal' takes no vision features in the place of pixels"),
    ("blip2_opt", {}, "dropout is active in the vision tower or the projector"),
])
def test_what_would_not_be_exact_is_refused_with_the_reason(tmp_path, name, train, reason):
    with pytest.raises(SettingsError, match=f"train.vision_cache is 'memory', but {reason}") as caught:
        open_vision_cache(*prepare(name, tmp_path, **train), SILENT)
    assert caught.value.hint.startswith("Use --vision-cache off")


def test_dropout_in_the_tower_is_found(tmp_path):
    settings, loaded, *rest = prepare("llava", tmp_path)
    for module in loaded.model.modules():
        if hasattr(module, "k_proj") and hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.1
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with pytest.raises(SettingsError, match="dropout is active"):
        open_vision_cache(settings, loaded, *rest, SILENT)
    assert torch.get_rng_state().equal(state), "looking for it draws nothing from the training"


@pytest.mark.parametrize(("tree", "reason"), [
    ({"train": {"augment": {"mode": "light"}}}, "pictures change with every epoch"),
    ({"mask": {"mode": "crop", "classes": "question"}}, "pictures change with every question"),
    ({"train": {"fsdp": "fsdp.json"}}, "DeepSpeed and FSDP spread"),
])
def test_changing_pixels_are_refused_before_a_model_is_loaded(tree, reason):
    check_vision_cache(make_settings(tree))
    train = {**tree.get("train", {}), "vision_cache": "disk"}
    with pytest.raises(SettingsError, match=f"train.vision_cache is 'disk', but .*{reason}"):
        check_vision_cache(make_settings({**tree, "train": train}))


def test_the_manifest_says_how_pictures_are_varied(tmp_path):
    sample = VQASample(dataset="d", split="train", question_id="0", image_id="0", question="Is it on the left?",
                       answer="yes", answer_type="closed", images=("a.png",))
    settings = make_settings({"train": {"augment": {"mode": "light", "flip": "horizontal", "rotation": 3.0}}})
    facts = describe_augmentation(build_augmentation(settings, [sample]), [sample])
    assert facts["rotation"] == 3.0
    assert (facts["images"], facts["never_flipped"]) == (1, 1)
    plain = make_settings({"train": {"augment": {"mode": "light"}}})
    assert "never_flipped" not in describe_augmentation(build_augmentation(plain, [sample]), [sample])
    assert build_augmentation(make_settings(), [sample]) is None
    assert describe_augmentation(None, [sample]) == {}

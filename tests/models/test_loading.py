"""Checkpoints load, and each way they can fail gives one clear error."""

from __future__ import annotations

import json
import shutil
from unittest.mock import MagicMock

import pytest

from medvqa_cli.errors import ModelError
from medvqa_cli.models.adapters import attach_lora, linear_names, load_adapter, target_pattern
from medvqa_cli.models.loading import choose_attention, choose_device, load_checkpoint, read_config
from medvqa_cli.plugins import models
from medvqa_cli.settings.model import ModelSettings
from medvqa_cli.settings.train import LoRASettings, TrainSettings
from tests.models.conftest import load_tiny

CPU = ModelSettings(device="cpu", dtype="float32")


def load(directory):
    return load_checkpoint(models.get("llava"), "llava", str(directory), CPU)


def test_a_missing_file_in_a_folder_is_named(tiny_directory, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_directory, copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="is incomplete: .*model.safetensors"):
        load(copy)


def test_half_downloaded_weights_are_damaged(tiny_directory, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_directory, copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot be loaded") as failure:
        load(copy)
    assert "download it again" in failure.value.hint


def test_an_unreachable_hub_model_says_how_to_fetch_it(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="'llava-hf/none-such' is not on this machine") as failure:
        read_config("llava-hf/none-such")
    assert "hf download llava-hf/none-such" in failure.value.hint


@pytest.mark.parametrize(("content", "message"), [
    (None, "config.json is missing"), ("{", "is damaged"), ("{}", "names no model_type"), ("[]", "names no model_type"),
])
def test_a_bad_config_is_one_error(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        read_config(str(tmp_path))


def test_gated_models_name_the_licence_page():
    from huggingface_hub.errors import GatedRepoError

    from medvqa_cli.models.loading import explained_failures

    with pytest.raises(ModelError, match="gated") as failure, explained_failures("google/medgemma-4b-it"):
        raise GatedRepoError("403", response=MagicMock())
    assert "https://huggingface.co/google/medgemma-4b-it" in failure.value.hint


def test_an_absent_device_is_refused():
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ModelError, match="'cuda' is not available"):
        choose_device("cuda")
    assert choose_device("auto").type in ("cpu", "mps")


def test_flash_attention_is_never_replaced_in_silence():
    from transformers.utils import is_flash_attn_2_available

    if is_flash_attn_2_available():
        pytest.skip("flash-attn is installed")
    with pytest.raises(ModelError, match="Flash attention is not usable"):
        choose_attention("flash")


def test_unknown_lora_targets_show_the_names_there_are(tiny_directory):
    loaded = load_tiny(tiny_directory)
    with pytest.raises(ModelError, match="'query'") as failure:
        attach_lora(loaded.model, loaded.family.layout, TrainSettings(lora=LoRASettings(targets=("query",))))
    assert "q_proj" in failure.value.hint


def test_lora_adapts_the_targets_of_the_language_model_only(tiny_directory):
    import re

    loaded = load_tiny(tiny_directory)
    pattern = target_pattern(loaded.family.layout, ("q_proj",))
    matched = [name for name, _ in loaded.model.named_modules() if re.fullmatch(pattern, name)]
    assert matched == [f"model.language_model.layers.{n}.self_attn.q_proj" for n in range(2)]
    assert not re.fullmatch(target_pattern(loaded.family.layout, ("q",)), "model.language_model.layers.0.ln_q")
    assert {"q_proj", "down_proj"} <= set(linear_names(loaded.model, loaded.family.layout))


def test_an_adapter_of_another_shape_is_refused(tiny_directory, tmp_path):
    loaded = load_tiny(tiny_directory)
    attach_lora(loaded.model, loaded.family.layout, TrainSettings(lora=LoRASettings(r=4))).save_pretrained(tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | {"r": 8}), encoding="utf-8")
    with pytest.raises(ModelError, match="does not fit the model"):
        load_adapter(load_tiny(tiny_directory).model, tmp_path, trainable=False)
    with pytest.raises(ModelError, match=r"adapter_config\.json is missing"):
        load_adapter(load_tiny(tiny_directory).model, tmp_path / "none", trainable=False)

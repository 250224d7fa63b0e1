"""Checkpoints load, and each way they can fail gives one clear error."""

from __future__ import annotations

import shutil
from unittest.mock import MagicMock

import pytest

from medvqa_cli.errors import ModelError
from medvqa_cli.models.loading import choose_attention, choose_device, load_checkpoint, read_config
from medvqa_cli.plugins import models
from medvqa_cli.settings.model import ModelSettings

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

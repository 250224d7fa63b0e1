"""An original checkpoint becomes an ordinary folder, whole or not at all."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from medvqa_cli.errors import ModelError, SettingsError
from medvqa_cli.models.llava_mistral import writing
from medvqa_cli.models.loading import load_checkpoint
from medvqa_cli.plugins import models
from medvqa_cli.settings.model import ModelSettings
from medvqa_cli.workflows.convert import convert_checkpoint
from medvqa_cli.workflows.models import ModelChoice, choose_family
from tests.models.original_llava_med import write_original, write_tower


@pytest.fixture
def source(tmp_path):
    write_original(tmp_path / "src", shards=2, dtype=torch.bfloat16)
    return tmp_path / "src"


def list_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_is_written_that_anyone_can_load(source, tmp_path, listener):
    target = tmp_path / "below" / "dst"
    report = convert_checkpoint(str(source), target, max_shard_size="200KB", progress=listener)
    assert report["added_tokens"] == ["<image>", "<pad>"]
    assert (report["tensors"], report["unused_tensors"], report["vision_tower"]) == (80, 0, str(source))
    index = json.loads((target / "model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == report["files"]
    assert len(report["files"]) > 2
    assert max((target / name).stat().st_size for name in report["files"][:-1]) < 220_000
    assert index["metadata"]["total_size"] == 2 * report["parameters"]
    model, info = LlavaForConditionalGeneration.from_pretrained(target, output_loading_info=True)
    assert not any(info.values()), info
    assert model.dtype == torch.bfloat16
    assert sum(parameter.numel() for parameter in model.parameters()) == report["parameters"]
    processor = AutoProcessor.from_pretrained(target)
    assert (model.generation_config.pad_token_id, model.config.image_token_index) == (
        processor.tokenizer.pad_token_id, processor.image_token_id)
    assert list(target.parent.iterdir()) == [target]


def test_the_converted_folder_is_a_llava_that_answers_like_the_original(source, tmp_path):
    convert_checkpoint(str(source), tmp_path / "dst")
    config = json.loads((tmp_path / "dst" / "config.json").read_text())
    assert choose_family(ModelChoice(str(tmp_path / "dst"), None), config) == "llava"
    settings = ModelSettings(device="cpu", dtype="float32")
    converted, original = (load_checkpoint(models.get(name), name, str(folder), settings)
                           for name, folder in (("llava", tmp_path / "dst"), ("llava_med", source)))
    ours, theirs = converted.model.state_dict(), original.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert converted.tokenizer("[INST] Is there a lesion?").input_ids == original.tokenizer(
        "[INST] Is there a lesion?").input_ids
    assert converted.processor.chat_template == original.processor.chat_template


def test_a_tower_beside_the_checkpoint_is_named_in_the_report(tmp_path):
    write_original(tmp_path / "src", tower=False)
    write_tower(tmp_path / "clip", pickle=True)
    with pytest.raises(ModelError, match="holds no vision tower") as failure:
        convert_checkpoint(str(tmp_path / "src"), tmp_path / "dst")
    assert "--vision-tower openai/clip-vit-large-patch14-336" in failure.value.hint
    with pytest.raises(ModelError, match="are pickle files"):
        convert_checkpoint(str(tmp_path / "src"), tmp_path / "dst", vision_tower=str(tmp_path / "clip"))
    report = convert_checkpoint(str(tmp_path / "src"), tmp_path / "dst", vision_tower=str(tmp_path / "clip"),
                                allow_pickle=True)
    assert report["vision_tower"] == str(tmp_path / "clip")


def test_a_destination_is_replaced_only_when_asked_and_only_if_it_is_a_checkpoint(source, tmp_path):
    target = tmp_path / "dst"
    target.mkdir()
    convert_checkpoint(str(source), target)
    before = list_files(target)
    with pytest.raises(ModelError, match="There is a checkpoint in .*dst' already") as failure:
        convert_checkpoint(str(source), target)
    assert "--overwrite" in failure.value.hint
    (target / "left.txt").write_text("old")
    convert_checkpoint(str(source), target, overwrite=True)
    assert list_files(target) == before
    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "cat.png").write_text("cat")
    with pytest.raises(ModelError, match="exists and is no checkpoint"):
        convert_checkpoint(str(source), precious, overwrite=True)
    with pytest.raises(ModelError, match="exists and is no checkpoint"):
        convert_checkpoint(str(source), precious / "cat.png", overwrite=True)
    assert (precious / "cat.png").read_text() == "cat"


@pytest.mark.parametrize("where", ["", ".."])
def test_the_source_is_never_replaced(source, where):
    before = list_files(source)
    with pytest.raises(ModelError, match="holds the source itself"):
        convert_checkpoint(str(source), source / where, overwrite=True)
    assert list_files(source) == before


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_is_broken_off_leaves_nothing_and_the_old_folder_stands(stop, source, tmp_path, monkeypatch):
    target = tmp_path / "dst"
    convert_checkpoint(str(source), target)
    before, read = list_files(target), writing._read_whole
    calls = iter(range(100))

    def break_off(stored):
        if next(calls) == 40:
            raise stop
        return read(stored)

    monkeypatch.setattr(writing, "_read_whole", break_off)
    with pytest.raises(type(stop)):
        convert_checkpoint(str(source), target, overwrite=True, max_shard_size="100KB")
    assert list_files(target) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst", "src"]


def test_what_a_kill_left_behind_is_swept_away(source, tmp_path):
    (tmp_path / "dst.part").mkdir()
    (tmp_path / "dst.part" / "model-00001-of-00009.safetensors").write_text("half")
    convert_checkpoint(str(source), tmp_path / "dst")
    assert not (tmp_path / "dst.part").exists()
    assert "model-00001-of-00009.safetensors" not in list_files(tmp_path / "dst")


def test_too_little_space_is_seen_before_anything_is_written(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ModelError, match=r"needs 0.0 GB; .* has 0.0 GB left"):
        convert_checkpoint(str(source), tmp_path / "dst")
    assert not (tmp_path / "dst").exists()


@pytest.mark.parametrize("size", ["", "5", "five GB", "0GB", "-1GB"])
def test_a_size_that_is_none_is_refused(size, source, tmp_path):
    with pytest.raises(SettingsError, match="is no size of a file"):
        convert_checkpoint(str(source), tmp_path / "dst", max_shard_size=size)


def test_a_source_of_another_kind_is_refused(tmp_path, tiny_llava):
    with pytest.raises(ModelError, match="is of the type 'llava', not an original LLaVA-Med") as failure:
        convert_checkpoint(str(tiny_llava), tmp_path / "dst")
    assert "use it as it is" in failure.value.hint
    assert not (tmp_path / "dst.part").exists()


def test_a_source_that_is_nowhere_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="'nobody/none-such' is not on this machine"):
        convert_checkpoint("nobody/none-such", tmp_path / "dst")


@pytest.fixture
def tiny_llava(tmp_path):
    models.get("llava").build_tiny(tmp_path / "llava")
    return tmp_path / "llava"

"""What is said of a model before it is loaded."""

from __future__ import annotations

import json
import shutil

import pytest

from medvqa_cli import plugins
from medvqa_cli.errors import ModelError, PluginError
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.model_facts import (
    Load,
    compare_count,
    describe_family,
    describe_files,
    describe_model,
    find_folder,
    list_families,
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("facts") / "tiny"
    plugins.models.get("llava").build_tiny(folder, seed=1)
    return folder


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "copy")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub."""
    from huggingface_hub import constants, file_download

    for module in (constants, file_download):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    return tmp_path / "hub"


def describe(name, load=None, **sections):
    return describe_model(make_settings({"model": {"name": str(name), **sections.pop("model", {})}, **sections}), load)


def test_the_list_helps_choosing():
    rows = {row["name"]: row for row in list_families()}
    assert rows["llava"]["checkpoint"] == "llava-hf/llava-1.5-7b-hf"
    assert rows["llava"]["shares_images"] is True
    assert rows["llava"]["licence"] == plugins.models.get("llava").card.licence


def test_a_broken_family_hides_no_other(monkeypatch):
    get = plugins.models._load

    def load(name):
        if name == "broken":
            raise PluginError("it is broken")
        return get(name)

    monkeypatch.setattr(plugins.models, "_loose", {"broken": object()})
    monkeypatch.setattr(plugins.models, "_files", {"broken": None})
    monkeypatch.setattr(plugins.models, "_load", load)
    rows = {row["name"]: row for row in list_families()}
    assert rows["broken"]["problem"] == "it is broken"
    assert "licence" in rows["llava"]


def test_a_family_is_described_whole():
    facts = describe_family("llava")
    assert facts["vision_tower"] == "model.vision_tower"
    assert "q_proj" in facts["lora_targets"]
    assert facts["checkpoints"]["llava_1.5_7b"] == "llava-hf/llava-1.5-7b-hf"
    assert facts["options"]["image_size"]["help"].startswith("Side of the square")


def test_of_a_checkpoint_that_is_elsewhere_nothing_is_guessed(cache):
    facts = describe("llava_1.5_13b")
    assert facts["checkpoint"] == {"checkpoint": "llava-hf/llava-1.5-13b-hf", "adapter": "", "folder": None}
    assert not {"parts", "memory"} & set(facts)


def test_an_unknown_family_elsewhere_is_said(cache):
    with pytest.raises(ModelError, match="The family of 'org/some-thing' is not known") as failure:
        describe("org/some-thing")
    assert "--download-config" in failure.value.hint


def test_a_folder_has_parts_files_picture_and_memory(tiny):
    facts = describe(tiny, Load(resolution=(640, 480), tokens=40, answer_tokens=8, questions=3),
                     model={"dtype": "float32", "device": "cpu"}, train={"batch_size": 2})
    assert list(facts["parts"]) == ["vision tower", "projector", "language model", "other"]
    total = sum(facts["parts"].values())
    assert facts["files"] == {"bytes": (tiny / "model.safetensors").stat().st_size, "formats": {"F32": total},
                              "findings": []}
    assert facts["picture"] == {"tokens": 16, "patches": 16, "values": 3 * 48 * 48}
    assert facts["load"] == {"resolution": "640x480", "batch_size": 2, "questions": 3, "text_tokens": 40,
                             "answer_tokens": 8, "row_tokens": 16 + 120, "dtype": "float32", "device": "CPU",
                             "gradient_checkpointing": False, "lora_r": 16}
    memory = facts["memory"]
    assert list(memory) == ["inference", "inference, 4-bit", "LoRA", "QLoRA, 4-bit", "full training"]
    assert memory["inference"]["weights"] == memory["LoRA"]["weights"] == 4 * total
    assert memory["full training"]["optimiser states"] == 8 * total
    assert memory["inference, 4-bit"]["weights"] < memory["inference"]["weights"]
    for terms in memory.values():
        assert terms["total"] == sum(terms.values()) - terms["total"]


def test_settings_of_training_count(tiny):
    plain = describe(tiny)["memory"]
    assert describe(tiny, train={"lora": {"r": 32}})["memory"]["LoRA"]["adapters"] == 2 * plain["LoRA"]["adapters"]
    saved = describe(tiny, train={"gradient_checkpointing": True})["memory"]["LoRA"]
    assert saved["activations of the language model"] < plain["LoRA"]["activations of the language model"]
    frozen = describe(tiny, train={"freeze_vision_tower": True})["memory"]["full training"]
    assert frozen["gradients"] < plain["full training"]["gradients"]
    adapted = describe(tiny, train={"lora": {"parts": ("vision_tower",)}})["memory"]["LoRA"]
    assert adapted["activations of the vision tower"] > plain["LoRA"]["activations of the vision tower"]


def test_questions_count_only_where_they_share_a_picture(tmp_path):
    plugins.models.get("blip2").build_tiny(tmp_path, seed=1)
    assert describe(tmp_path, Load(questions=5))["load"]["questions"] == 1


def test_config_alone_gives_parts(copy):
    (copy / "model.safetensors").unlink()
    facts = describe(copy)
    assert facts["files"]["findings"] == ["There are no weight files here: the parts are counted from config.json."]
    assert facts["memory"]["inference"]["total"] > 0


def test_weights_that_differ_from_config_are_said(copy):
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (copy / "config.json").write_text(json.dumps(config))
    [finding] = describe(copy)["files"]["findings"]
    layer = 10 * 64 * 64 + 2 * 64
    assert finding.endswith(f": {layer:,} fewer.")


def test_a_cut_off_file_is_said(copy):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    [finding] = describe(copy)["files"]["findings"]
    assert "is cut off" in finding


def test_quantised_and_pickled_weights_are_not_compared(tmp_path):
    assert compare_count({"U8": 10, "F16": 4}, 24) == [
        "The weights are stored quantised (U8), so their numbers cannot be compared."]
    (tmp_path / "pytorch_model.bin").write_bytes(b"x" * 10)
    assert describe_files(str(tmp_path), 5) == {
        "bytes": 10, "formats": {}, "findings": ["The weights are pickle files, whose numbers are not counted."]}


def test_without_a_processor_memory_is_not_estimated(copy):
    for path in copy.iterdir():
        if path.name not in {"config.json", "model.safetensors"}:
            path.unlink()
    facts = describe(copy)
    assert facts["memory"] == {}
    assert facts["note"].startswith("Memory is not estimated, as the processor cannot be loaded: ")


def test_a_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(ModelError, match="config.json is missing"):
        describe(tmp_path)


def test_a_cached_checkpoint_is_found(tiny, cache):
    commit = "0" * 40
    home = cache / "models--llava-hf--llava-1.5-7b-hf"
    shutil.copytree(tiny, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    facts = describe("llava")
    assert facts["checkpoint"]["folder"] == str(home / "snapshots" / commit)
    assert facts["files"]["findings"] == []


def test_download_fetches_descriptions_and_no_weights(tmp_path, cache, monkeypatch):
    import huggingface_hub

    asked = {}

    def fetch(checkpoint, **options):
        asked.update(options, checkpoint=checkpoint)
        folder = cache / "models--org--x" / "snapshots" / "main"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder.parents[1] / "refs").mkdir()
        (folder.parents[1] / "refs" / "main").write_text("main")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert find_folder("org/x", None, download=True) == str(cache / "models--org--x" / "snapshots" / "main")
    assert asked["checkpoint"] == "org/x"
    assert "*.json" in asked["allow_patterns"]
    assert "model.safetensors" not in asked["allow_patterns"]


def test_download_without_a_hub_is_one_clear_error(cache):
    with pytest.raises(ModelError, match="'org/x' is not on this machine and offline mode is on"):
        find_folder("org/x", None, download=True)

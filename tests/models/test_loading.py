"""Checkpoints load, and each way they can fail gives one clear error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from safetensors.torch import load_file, save_file

from medvqa_cli.errors import ModelError, SettingsError
from medvqa_cli.models.families.llava import Llava
from medvqa_cli.models.loading import explained_failures, load_checkpoint, read_config
from medvqa_cli.plugins import models
from medvqa_cli.progress import SilentProgress
from medvqa_cli.settings.model import ModelSettings

CPU = ModelSettings(device="cpu", dtype="float32")


class Listener(SilentProgress):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def warn(self, message: str) -> None:
        self.warned.append(message)


def load(directory, family=None, progress=None, **settings):
    return load_checkpoint(family or models.get("llava"), "llava", str(directory), CPU.model_copy(update=settings),
                           progress=progress or Listener())


@pytest.fixture
def copy(tiny_directory, tmp_path) -> Path:
    shutil.copytree(tiny_directory, tmp_path / "copy")
    return tmp_path / "copy"


def change_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_what_was_decided_is_said_once(tiny_directory):
    progress = Listener()
    loaded = load(tiny_directory, progress=progress)
    weights = sum(parameter.numel() for parameter in loaded.model.parameters())
    said = (f"Model: float32 on cpu, {4 * weights / 2**20:.1f} MiB of weights; quantisation none (4bit on CUDA only; "
            f"{weights / 1e6:.1f} million parameters); attention sdpa.")
    assert progress.said == [said]
    assert progress.warned == []
    assert not loaded.model.training
    assert loaded.model.config._commit_hash is None


def test_a_missing_file_in_a_folder_is_named(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="is incomplete: .*model.safetensors"):
        load(copy)


@pytest.mark.parametrize("kept", [0, 5, 5000, -1])
def test_cut_off_weights_are_named_with_their_size(copy, kept):
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:kept])
    with pytest.raises(ModelError, match="model.safetensors' is cut off: it has [0-9,]+ ") as failure:
        load(copy)
    if kept == -1:
        assert failure.value.message.endswith(f"it has {len(whole) - 1:,} of {len(whole):,} bytes.")
    assert "Download it again" in failure.value.hint


def test_a_missing_part_is_named_and_so_is_the_download_that_broke_off(tiny_directory, tmp_path):
    loaded = load(tiny_directory)
    loaded.model.save_pretrained(tmp_path, max_shard_size="200KB")
    loaded.processor.save_pretrained(tmp_path)
    again = load(tmp_path).model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in loaded.model.state_dict().items())
    parts = sorted(tmp_path.glob("model-*.safetensors"))
    parts[1].unlink()
    with pytest.raises(ModelError, match=f"1 of {len(parts)} weight files are missing, the first is '{parts[1].name}'"):
        load(tmp_path)
    (tmp_path / ".cache" / "huggingface" / "download").mkdir(parents=True)
    (tmp_path / ".cache" / "huggingface" / "download" / "abc.incomplete").touch()
    with pytest.raises(ModelError) as failure:
        load(tmp_path)
    assert failure.value.hint.startswith("A download was broken off ('abc.incomplete').")


def test_a_file_that_git_has_not_fetched(copy):
    (copy / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ModelError, match="is only a pointer") as failure:
        load(copy)
    assert "git lfs pull" in failure.value.hint


@pytest.mark.parametrize("header", [b"[]", b"{", b'{"a": 1}', b'{"a": {"dtype": "F32", "shape": [2]}}'])
def test_a_damaged_header(copy, header):
    (copy / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelError, match="model.safetensors' is damaged: its header"):
        load(copy)


def test_a_tensor_of_a_wrong_shape_is_named_with_both_shapes(copy):
    name = next(name for name in load_file(copy / "model.safetensors") if name.endswith("lm_head.weight"))
    change_weights(copy, lambda weights: weights.update({name: weights[name][:-3].clone()}))
    rows = load_file(copy / "model.safetensors")[name].shape[0]
    with pytest.raises(ModelError) as failure:
        load(copy)
    assert failure.value.message == (f"'{copy}' does not fit its config.json: 'lm_head.weight' has the shape "
                                     f"[{rows}, 64], where the model has [{rows + 3}, 64].")


def test_a_missing_tensor_is_an_error_that_names_it(copy):
    removed = []

    def remove(weights):
        for name in [name for name in weights if "layers.1." in name and "q_proj" in name and "vision" not in name]:
            removed.append(name)
            del weights[name]

    change_weights(copy, remove)
    assert len(removed) == 1
    with pytest.raises(ModelError, match="lacks a tensor that its config.json asks for: "
                                         "'model.language_model.layers.1.self_attn.q_proj.weight'"):
        load(copy)


def test_tied_weights_are_not_missing(copy):
    config = json.loads((copy / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (copy / "config.json").write_text(json.dumps(config))
    change_weights(copy, lambda weights: [weights.pop(name) for name in list(weights) if "lm_head" in name])
    model = load(copy).model
    assert torch.equal(model.lm_head.weight, model.model.language_model.embed_tokens.weight)


def test_an_unexpected_tensor_is_said(copy):
    change_weights(copy, lambda weights: weights.update({"odd.weight": torch.zeros(2)}))
    progress = Listener()
    load(copy, progress=progress)
    said = f"'{copy}' holds a tensor that the model has no place for: 'odd.weight'; left out."
    assert progress.warned == [said]


def test_pickled_weights_load_only_if_allowed(copy):
    weights = load_file(copy / "model.safetensors")
    torch.save(weights, copy / "pytorch_model.bin")
    expected = load(copy).model.state_dict()
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="are pickle files") as failure:
        load(copy)
    assert "--allow-pickle" in failure.value.hint
    loaded = load(copy, allow_pickle=True).model.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in expected.items())


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("ran-code"),))


def test_an_allowed_pickle_still_runs_no_code(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = dict(load_file(copy / "model.safetensors"))
    torch.save({**weights, "odd": Payload()}, copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds pickled objects that are no tensors; they are not loaded"):
        load(copy, allow_pickle=True)
    assert not (tmp_path / "ran-code").exists()


def test_code_runs_only_from_the_checkpoint_that_is_named(tiny_directory):
    seen = []

    class Watching(Llava):
        def load_model(self, checkpoint, **loading):
            seen.append((loading["trust_remote_code"], loading["use_safetensors"]))
            return super().load_model(checkpoint, **loading)

    with pytest.raises(SettingsError, match="trust_remote_code names 'org/other', but '.*' is loaded") as failure:
        load(tiny_directory, Watching(), trust_remote_code="org/other")
    assert f"--trust-remote-code {tiny_directory}" in failure.value.hint
    load(tiny_directory, Watching())
    load(tiny_directory, Watching(), trust_remote_code=f"{tiny_directory}/")
    assert seen == [(False, True), (True, True)]


def test_code_that_is_not_trusted_is_one_error():
    message = "'org/m' brings Python code of its own"
    with pytest.raises(ModelError, match=message) as failure, explained_failures("org/m"):
        raise ValueError("The repository org/m contains custom code; pass `trust_remote_code=True` to allow it.")
    assert failure.value.hint.endswith("--trust-remote-code org/m")


def test_a_family_may_return_the_model_alone(tiny_directory):
    class Plain(Llava):
        def load_model(self, checkpoint, **loading):
            loading.pop("output_loading_info")
            return super().load_model(checkpoint, **loading)

    assert load(tiny_directory, Plain()).model.config.model_type == "llava"


def test_too_little_memory_is_found_before_loading(tiny_directory, monkeypatch):
    monkeypatch.setattr("medvqa_cli.models.placement.find_free_memory", lambda device: 1000)

    class Unreached(Llava):
        def load_model(self, checkpoint, **loading):
            raise AssertionError("weights were read")

    message = r"does not fit: its weights take [0-9.]+ MiB, the device 'cpu' has 0.0 MiB free"
    with pytest.raises(ModelError, match=message) as failure:
        load(tiny_directory, Unreached())
    assert failure.value.hint == "Use --quantization 4bit, --dtype bfloat16, a smaller model or another device."


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

    with pytest.raises(ModelError, match="gated") as failure, explained_failures("google/medgemma-4b-it"):
        raise GatedRepoError("403", response=MagicMock())
    assert "https://huggingface.co/google/medgemma-4b-it" in failure.value.hint


@pytest.mark.parametrize(("error", "message"), [
    (torch.OutOfMemoryError("CUDA out of memory"), "'m' does not fit into the device's memory."),
    (ImportError("needs sentencepiece\nmore"), "'m' needs a package that is not installed: needs sentencepiece"),
    (RuntimeError(""), "'m' cannot be loaded: RuntimeError"),
    (OSError("Error no file"), "'m' is incomplete: Error no file"),
])
def test_failures_of_libraries(error, message):
    with pytest.raises(ModelError) as failure, explained_failures("m"):
        raise error
    assert failure.value.message == message


def test_a_greedy_checkpoint_that_names_sampling_values_can_be_saved_again(tiny_directory, tmp_path):
    shutil.copytree(tiny_directory, tmp_path / "vicuna")
    config = {"temperature": 0.9, "top_p": 0.6, "max_length": 64}
    (tmp_path / "vicuna/generation_config.json").write_text(json.dumps(config), encoding="utf-8")
    model = load_checkpoint(models.get("llava"), "llava", str(tmp_path / "vicuna"), CPU).model
    model.save_pretrained(tmp_path / "again")
    saved = json.loads((tmp_path / "again/generation_config.json").read_text(encoding="utf-8"))
    assert saved["max_length"] == 64
    assert not {"temperature", "top_p"} & saved.keys()

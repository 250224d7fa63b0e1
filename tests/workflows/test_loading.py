"""What a run loads: its base at its commit, quantised weights made ready to learn, an adapter on its own base."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from medvqa_cli import plugins
from medvqa_cli.errors import ModelError, RunError, SettingsError
from medvqa_cli.models.adapters import attach_lora, prepare_training
from medvqa_cli.models.quantization import find_quantization
from medvqa_cli.progress import SILENT
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.infer import infer_split
from medvqa_cli.workflows.models import (
    ModelChoice,
    check_base,
    choose_model,
    describe_model,
    load_choice,
    recall_choice,
)
from medvqa_cli.workflows.train import train_sft
from medvqa_cli.workflows.tuning import find_tuning, freezes_base
from tests.models.conftest import tiny_directory  # noqa: F401 - a fixture
from tests.models.played_hub import COMMITS, PlayedHub, play, read_files  # noqa: F401 - a fixture
from tests.models.test_loading import Listener
from tests.workflows.conftest import TREE, merge

CPU = {"device": "cpu", "dtype": "float32"}


@pytest.fixture
def hub(play, tiny_directory) -> PlayedHub:  # noqa: F811
    files = read_files(tiny_directory)
    hub = PlayedHub({COMMITS[0]: files})
    play(hub.answer)
    return hub


@pytest.fixture
def adapter(tiny_directory, tmp_path) -> Path:  # noqa: F811
    settings = make_settings({"model": CPU})
    loaded = load_choice(ModelChoice(str(tiny_directory), None), settings, SILENT, trainable=True)
    attach_lora(loaded.model, loaded.family.layout, settings.train).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def rename_base(adapter: Path, base: object) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))


def test_a_run_states_its_commit_and_goes_on_from_it(hub, tmp_path):
    settings = make_settings(merge(
        {**TREE, "model": {**CPU, "name": "org/model", "family": "llava", "quantization": "4bit"}},
        paths={"prepared": str(tmp_path / "p"), "runs": str(tmp_path / "r")},
        train={"max_steps": 1, "gradient_checkpointing": True}))
    run = train_sft(settings, name="small")
    facts = run.read_json("manifest.json")["model"]
    assert (facts["checkpoint"], facts["commit"], facts["quantization"]) == ("org/model", COMMITS[0], "4bit")
    assert json.loads((run.weights / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/model"
    config = json.loads(hub.commits[COMMITS[0]]["config.json"])
    hub.commits[COMMITS[1]] = hub.commits[COMMITS[0]] | {"config.json": json.dumps(config | {"mark": 1}).encode()}
    infer_split(settings, run="small")
    meta = run.read_json("predictions.meta.json")["model"]
    assert (meta["commit"], meta["quantization"]) == (COMMITS[0], "4bit")
    assert {commit for commit, _ in hub.fetched} == {COMMITS[0]}


def test_plain_local_models_are_described_as_before(tiny_directory):  # noqa: F811
    loaded = load_choice(ModelChoice(str(tiny_directory), None), make_settings({"model": CPU}), SILENT)
    assert describe_model(loaded) == {
        "family": "llava", "checkpoint": str(tiny_directory), "adapter": "", "dtype": "float32", "device": "cpu",
        "image_processor": "CLIPImageProcessorPil"}


@pytest.mark.parametrize("mode", ["4bit", "8bit"])
def test_an_adapter_learns_on_from_a_quantised_base(adapter, tiny_directory, mode):  # noqa: F811
    settings = make_settings({"model": {**CPU, "dtype": "bfloat16", "quantization": mode}})
    choice = ModelChoice(str(tiny_directory), "llava", str(adapter))
    loaded = load_choice(choice, settings, SILENT, trainable=True)
    assert find_quantization(loaded.model) == describe_model(loaded)["quantization"] == mode
    trained = {name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert describe_model(loaded)["dtype"] == "float32"
    assert describe_model(load_choice(choice, settings, SILENT))["dtype"] == "bfloat16"


def test_full_training_of_quantised_weights_is_refused_before_loading(tiny_directory):  # noqa: F811
    settings = make_settings({"model": {**CPU, "quantization": "8bit"}, "train": {"tuning": "full"}})
    choice = ModelChoice(str(tiny_directory), None)
    with pytest.raises(SettingsError, match="on quantised weights only adapters can be trained"):
        load_choice(choice, settings, SILENT, trainable=True)
    assert find_quantization(load_choice(choice, settings, SILENT).model) == "8bit"


@pytest.mark.parametrize(("train", "scratch", "adapter_path", "expected"), [
    ({}, False, "", "lora"), ({}, True, "", "full"), ({"tuning": "lora"}, True, "", "lora"),
    ({"tuning": "full"}, False, "", "full"), ({"tuning": "full"}, False, "a", "lora"),
    ({"lora": {"targets": ["none"]}, "tune_projector": True}, False, "", "full"),
    ({"lora": {"targets": ["q_proj"]}}, False, "", "lora"),
    ({"lora": {"targets": ["none"]}, "tune_projector": True}, False, "a", "lora"),
    ({"lora": {"targets": ["q_proj"]}, "tuning": "full"}, False, "", "full"),
])
def test_what_training_will_change(train, scratch, adapter_path, expected, tiny_directory):  # noqa: F811
    settings = make_settings({"train": train, "model": {"scratch": scratch}})
    assert find_tuning(ModelChoice("x", None, adapter_path), settings) == expected
    if not adapter_path:
        loaded = load_choice(ModelChoice(str(tiny_directory), None), make_settings({"model": CPU}), SILENT)
        model = prepare_training(loaded.model, loaded.family.layout, settings.train, lora=freezes_base(settings))
        assert hasattr(model, "peft_config") == (expected == "lora"), "and so it is done"


def test_an_adapter_of_another_base_model(adapter):
    progress = Listener()
    rename_base(adapter, "org/one")
    check_base(ModelChoice("org/one", None, str(adapter)), progress)
    assert progress.warned == []
    with pytest.raises(ModelError) as failure:
        check_base(ModelChoice("org/two", None, str(adapter)), progress)
    assert failure.value.message == f"The adapter '{adapter}' was trained on 'org/one', not on 'org/two'."
    assert failure.value.hint == "Use it on its own base: --model org/one."
    check_base(ModelChoice(str(adapter.parent), None, str(adapter)), progress)
    said = (f"The adapter '{adapter}' was trained on 'org/one' and is put on '{adapter.parent}': answers mean "
            "something only if these are the same weights.")
    assert progress.warned == [said]


@pytest.mark.parametrize(("options", "message"), [
    ({"text_layers": 1}, "the model has no place for"), ({"text_layers": 3}, "its file lacks"),
    ({"width": 32}, r"size mismatch for .*lora_A.* shape torch.Size\(\[16, 64\]\) .*torch.Size\(\[16, 32\]\)"),
])
def test_an_adapter_on_a_base_of_other_shapes(adapter, tmp_path, options, message):
    family = plugins.models.get("llava")
    family.build_tiny(tmp_path / "other", options=family.Options(**options))
    choice = ModelChoice(str(tmp_path / "other"), "llava", str(adapter))
    with pytest.raises(ModelError, match=f"does not fit the model: .*({message})"):
        load_choice(choice, make_settings({"model": CPU}), SILENT)


@pytest.mark.parametrize(("content", "message"), [("{", "is damaged"), ("[]", "names no"), ("{}", "names no")])
def test_an_adapter_without_a_readable_configuration(adapter, content, message):
    (adapter / "adapter_config.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        choose_model(make_settings({"model": {"name": str(adapter)}}))


def test_trust_in_a_checkpoint_holds_for_what_was_made_of_it(tiny_directory, tmp_path):  # noqa: F811
    facts = {"checkpoint": "org/model", "family": "llava", "commit": COMMITS[0]}
    settings = make_settings({"model": {**CPU, "trust_remote_code": "org/model"}})
    own = recall_choice(facts, tiny_directory)
    assert (own.origin, own.commit) == ("org/model", "")
    load_choice(own, settings, SILENT)
    with pytest.raises(SettingsError, match="names 'org/model', but"):
        load_choice(dataclasses.replace(own, origin="org/other"), settings, SILENT)
    assert recall_choice(facts).commit == COMMITS[0]
    with pytest.raises(RunError, match="A server's model answered in this run"):
        recall_choice({"family": "openai"})


@pytest.mark.parametrize("size", ["40", 40, "40 apples", "0GiB", "-1GB", "1e3GB", ""])
def test_sizes_that_are_none(size):
    with pytest.raises(SettingsError, match="model.max_memory_per_gpu' is .*should be a size above zero with its unit"):
        make_settings({"model": {"max_memory_per_gpu": size}})


def test_sizes():
    from medvqa_cli.settings.model import parse_size

    assert [parse_size(text) for text in ("40GiB", "40 GB", "1.5mb", "2TiB", "8kB")] == [
        40 * 2**30, 40 * 10**9, 1_500_000, 2 * 2**40, 8000]
    assert make_settings({"model": {"max_memory_per_gpu": "40GiB"}}).model.max_memory_per_gpu == "40GiB"

"""Files of DeepSpeed and FSDP are checked before anything is loaded, and kept with the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medvqa_cli.errors import MissingDependencyError, SettingsError
from medvqa_cli.progress import SILENT
from medvqa_cli.runs import Run
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows import sharding
from medvqa_cli.workflows.sharding import (
    is_sharded,
    keep_engine,
    leave_out_probes,
    needs_launch,
    read_engine,
    recall_engine,
)

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def two_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sharding, "find_spec", lambda name: object())


def write(tmp_path, content):
    path = tmp_path / "engine.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def settings(**train):
    model = train.pop("model", {})
    return make_settings({"train": {name: str(value) if isinstance(value, Path) else value
                                    for name, value in train.items()}, "model": model})


@pytest.mark.parametrize(("name", "sharded"), [("zero2", False), ("zero3", True)])
def test_the_examples_are_passed_on_whole(name, sharded):
    path = EXAMPLES / "deepspeed" / f"{name}.json"
    engine = read_engine(settings(deepspeed=path))
    assert engine == {"deepspeed": json.loads(path.read_text(encoding="utf-8"))}
    assert is_sharded(engine) is sharded


def test_the_fsdp_example_is_passed_on(tmp_path):
    engine = read_engine(settings(fsdp=EXAMPLES / "fsdp" / "fsdp2.json"))
    assert engine["fsdp"] is True
    assert engine["fsdp_config"]["version"] == 2
    prefixed = read_engine(settings(fsdp=write(tmp_path, {"fsdp_reshard_after_forward": False})))
    assert prefixed["fsdp_config"] == {"reshard_after_forward": False}


def test_without_a_file_there_is_no_engine():
    assert read_engine(settings()) == {}
    assert not is_sharded({})


@pytest.mark.parametrize(("config", "message"), [
    ({"train_micro_batch_size_per_gpu": 8}, "'train_micro_batch_size_per_gpu' is 8, but train.batch_size is 4"),
    ({"gradient_accumulation_steps": 2},
     "'gradient_accumulation_steps' is 2, but train.gradient_accumulation is 1"),
    ({"train_batch_size": 16}, "'train_batch_size' is 16, but train.batch_size x train.gradient_accumulation x 2 p"),
    ({"gradient_clipping": 0.5}, "'gradient_clipping' is 0.5, but train.max_grad_norm is 1.0"),
    ({"optimizer": {"params": {"lr": 0.01}}}, "'optimizer.params.lr' is 0.01, but train.learning_rate is 0.0001"),
    ({"optimizer": {"params": {"weight_decay": 0}}}, "'optimizer.params.weight_decay' is 0, but"),
    ({"bf16": {"enabled": True}}, "'bf16.enabled' is true, but model.dtype 'auto', so that it is false"),
    ({"fp16": {"enabled": True}}, "'fp16.enabled' is true, but"),
    ({"scheduler": {"type": "WarmupDecayLR"}}, "has a 'scheduler', but train.scheduler and train.warmup say"),
    ({"zero_optimization": {"stage": 3}}, "stage 3 without 'stage3_gather_16bit_weights_on_model_save'"),
])
def test_what_contradicts_the_settings_is_refused(tmp_path, config, message):
    with pytest.raises(SettingsError) as caught:
        read_engine(settings(deepspeed=write(tmp_path, config)))
    assert message in caught.value.message
    assert str(tmp_path / "engine.json") in caught.value.message
    assert caught.value.hint


def test_stage_3_trains_adapters_only():
    with pytest.raises(SettingsError, match="stage 3 with everything trained breaks off"):
        read_engine(settings(deepspeed=EXAMPLES / "deepspeed" / "zero3.json", tuning="full"))


def test_equal_and_automatic_values_agree(tmp_path):
    config = {"train_micro_batch_size_per_gpu": 4, "train_batch_size": 8, "gradient_clipping": 1,
              "bf16": {"enabled": True}, "optimizer": {"params": {"lr": "auto"}}}
    found = read_engine(settings(deepspeed=write(tmp_path, config), model={"dtype": "bfloat16"}))
    assert found == {"deepspeed": config}


@pytest.mark.parametrize(("content", "message"), [
    ("{", "is no JSON"), ("[1]", "is no JSON object"), (None, "cannot be read: No such file")])
@pytest.mark.parametrize("name", ["deepspeed", "fsdp"])
def test_a_file_that_is_none_is_refused(tmp_path, name, content, message):
    path = write(tmp_path, content) if content else tmp_path / "none.json"
    with pytest.raises(SettingsError, match=f"train.{name} '.*' {message}"):
        read_engine(settings(**{name: path}))


@pytest.mark.parametrize(("config", "train", "message"), [
    ({"sharding": 1}, {}, "unknown key 'sharding'"),
    ({"version": 1}, {}, "'version' is 1; only FSDP 2 is supported"),
    ({"state_dict_type": "SHARDED_STATE_DICT"}, {}, "'state_dict_type' is \"SHARDED_STATE_DICT\""),
    ({"activation_checkpointing": True}, {"gradient_checkpointing": True}, "and so is train.gradient_checkpointing"),
    ({}, {"model": {"quantization": "4bit"}}, "FSDP splits weights, which model.quantization '4bit' does not allow"),
    ({}, {"vision_cache": "memory"}, "FSDP splits weights, which train.vision_cache 'memory' does not allow"),
    ({}, {"early_stopping": 2, "keep": "last", "best_metric": "probe_accuracy"},
     "FSDP splits weights, which train.best_metric 'probe_accuracy' does not allow"),
])
def test_fsdp_settings_are_checked(tmp_path, config, train, message):
    with pytest.raises(SettingsError) as caught:
        read_engine(settings(fsdp=write(tmp_path, config), **train))
    assert message in caught.value.message


def test_fsdp_wants_several_processes(tmp_path, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(SettingsError, match="spreads a training over several processes, and this is one"):
        read_engine(settings(fsdp=write(tmp_path, {})))


def test_two_engines_are_refused(tmp_path):
    path = write(tmp_path, {})
    with pytest.raises(SettingsError, match="two engines for one training"):
        read_engine(settings(fsdp=path, deepspeed=path))


def test_an_engine_of_the_launcher_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(SettingsError) as caught:
        read_engine(settings())
    assert "ACCELERATE_USE_FSDP is set" in caught.value.message
    assert "--fsdp" in caught.value.hint


def test_deepspeed_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(sharding, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError) as caught:
        read_engine(settings(deepspeed=EXAMPLES / "deepspeed" / "zero2.json"))
    assert caught.value.exit_code == 6
    assert "medvqa-cli[deepspeed]" in caught.value.hint


@pytest.mark.parametrize("name", ["deepspeed", "fsdp"])
def test_a_run_keeps_its_engine(tmp_path, name):
    path = write(tmp_path, {"zero_optimization": {"stage": 2}} if name == "deepspeed" else {"version": 2})
    chosen = settings(**{name: path})
    engine, run = read_engine(chosen), Run(tmp_path)
    assert not needs_launch(tmp_path.parent, tmp_path.name)
    keep_engine(run, engine)
    path.unlink()
    assert recall_engine(run, chosen) == engine
    assert needs_launch(tmp_path.parent, tmp_path.name) is (name == "deepspeed")


def test_what_one_process_cannot_do_alone_is_left_out():
    whole, spread = settings(), {"fsdp": True, "fsdp_config": {}}
    assert leave_out_probes(whole, {}, SILENT) == whole
    left = leave_out_probes(whole, spread, SILENT).tracking
    assert (left.probe_questions, left.histogram_steps) == (0, 0)
    assert whole.tracking.probe_questions

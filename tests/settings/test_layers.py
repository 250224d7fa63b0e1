"""Layers merged and checked."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest

from medvqa_cli.errors import SettingsError
from medvqa_cli.settings.layers import list_keys, resolve_settings
from medvqa_cli.settings.schema import Settings, make_settings, to_tree
from medvqa_cli.settings.sources import Assignment
from medvqa_cli.settings.template import write_template


def resolve(*sets: str, **sources):
    return resolve_settings(sets=sets, environment=sources.pop("environment", {"MEDVQA_CONFIG_HOME": "/nonexistent"}),
                            **sources)


def refuse(*sets: str, **sources) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        resolve(*sets, **sources)
    return caught.value


def test_nothing_said_means_defaults():
    resolved = resolve()
    assert resolved.settings == Settings()
    assert set(resolved.origins.values()) == {"default"}
    assert set(list_keys()) == set(resolved.origins)


def test_each_layer_wins_over_those_before(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.toml").write_text("seed = 1\n[train]\nepochs = 1\nbatch_size = 1\nworkers = 1\nlog_steps = 1\n"
                                      "[infer]\nmax_new_tokens = 1\n")
    config = tmp_path / "c.yaml"
    config.write_text("train: {epochs: 3, batch_size: 3, workers: 3, log_steps: 3}\n")
    run = to_tree(make_settings({"train": {"epochs": 2}, "infer": {"max_new_tokens": 2}}))
    resolved = resolve_settings(
        [Assignment(("train", "log_steps"), "6", "--log-steps", is_text=True)], config=config,
        sets=["train.workers=5", "train.log_steps=5"], run_settings=run,
        environment={"MEDVQA_CONFIG_HOME": str(home), "MEDVQA_TRAIN__BATCH_SIZE": "4", "MEDVQA_TRAIN__WORKERS": "4"})
    train, origins = resolved.settings.train, resolved.origins
    assert (resolved.settings.infer.max_new_tokens, train.epochs, train.batch_size, train.workers, train.log_steps) == (
        2, 3, 4, 5, 6)
    assert origins["infer.max_new_tokens"] == "settings.json of the run"
    assert origins["train.epochs"] == str(config)
    assert origins["train.batch_size"] == "MEDVQA_TRAIN__BATCH_SIZE"
    assert origins["train.workers"] == "--set train.workers"
    assert origins["train.log_steps"] == "--log-steps"
    assert resolved.settings.seed == 42, "the run's seed stands above the user file's"


def test_a_run_keeps_its_paths_to_itself():
    run = to_tree(make_settings({"paths": {"runs": "/elsewhere"}, "data": {"dataset": "slake"}}))
    settings = resolve(run_settings=run).settings
    assert settings.paths.runs == Path("runs")
    assert settings.data.dataset == "slake"


@pytest.mark.parametrize(("text", "key", "value"), [
    ("train.learning_rate=1e-4", "train.learning_rate", 1e-4),
    ("train.epochs=1", "train.epochs", 1.0),
    ("model.scratch=true", "model.scratch", True),
    ("model.revision=123", "model.revision", "123"),
    ("model.revision=true", "model.revision", "true"),
    ("model.revision=null", "model.revision", None),
    ("data.root=2019", "data.root", "2019"),
    ("train.packing=off", "train.packing", "off"),
    ("prompt.instruction=[short]", "prompt.instruction", "[short]"),
    ("prompt.instruction=", "prompt.instruction", ""),
    ("train.lora.targets=q_proj, v_proj", "train.lora.targets", ["q_proj", "v_proj"]),
    ('train.lora.targets=["q_proj"]', "train.lora.targets", ["q_proj"]),
    ("data.options.count=3", "data.options.count", 3),
    ("data.options.word=abc", "data.options.word", "abc"),
    ('data.options={"count": 3}', "data.options.count", 3),
    ("aliases.models.llava-1.5=org/name", "aliases.models.llava-1.5", "org/name"),
    ("aliases.models.number=7", "aliases.models.number", "7"),
])
def test_text_becomes_what_its_setting_takes(text, key, value):
    from medvqa_cli.settings.sources import flatten

    resolved = resolve(text)
    found = {".".join(leaf.path): leaf.value for leaf in flatten(to_tree(resolved.settings), "")}
    assert found[key] == value
    assert type(found[key]) is type(value)
    assert resolved.origins[key].startswith("--set ")


def test_home_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    settings = resolve("data.root=~/slake", "aliases.models.mine=~/m").settings
    assert settings.data.root == Path("/home/someone/slake")
    assert settings.aliases.models == {"mine": "/home/someone/m"}


def test_options_of_several_layers_merge():
    settings = resolve("data.options.b=2", run_settings={"data": {"options": {"a": 1, "b": 1}}}).settings
    assert settings.data.options == {"a": 1, "b": 2}


def test_an_empty_section_of_a_file_is_fine(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("train:\ndata:\n  options:\n")
    assert resolve(config=config).settings == Settings()


def test_plugin_files_add_up():
    resolved = resolve("plugins=b.py", run_settings={"plugins": ["a.py"]})
    assert resolved.settings.plugins == (Path("a.py"), Path("b.py"))


@pytest.mark.parametrize(("text", "message"), [
    ("train.epoch=1", "--set train.epoch: unknown setting 'train.epoch'. Did you mean 'train.epochs'?"),
    ("learning_rate=1", "--set learning_rate: unknown setting 'learning_rate'. Did you mean 'train.learning_rate'?"),
    ("qqq=1", "--set qqq: unknown setting 'qqq'."),
    ("train.epochs=abc", "--set train.epochs: setting 'train.epochs' is \"abc\": input should be a valid number."),
    ("train.epochs=-1", "--set train.epochs: setting 'train.epochs' is -1: input should be greater than 0."),
    ("train.tuning=all",
     "--set train.tuning: setting 'train.tuning' is \"all\": input should be 'auto', 'lora' or 'full'."),
    ("train.learning_rate=1e999",
     "--set train.learning_rate: setting 'train.learning_rate' is Infinity: input should be a finite number."),
    ("train.lora.r=1.5", "--set train.lora.r: setting 'train.lora.r' is 1.5: input should be a valid integer."),
    ("train=3", "--set train: 'train' is a group of settings, not 3."),
    ("data.options=3", "--set data.options: 'data.options' is a group of settings, not 3."),
    ("train.epochs.x=3", "--set train.epochs.x: setting 'train.epochs' is one value and has no 'train.epochs.x'."),
    ('train={"epochs": -1}', "--set train: setting 'train.epochs' is -1: input should be greater than 0."),
])
def test_errors_name_source_key_value_and_what_is_allowed(text, message):
    error = refuse(text)
    assert error.message == message
    assert error.exit_code == 2
    assert error.hint


@pytest.mark.parametrize(("text", "hint"), [
    ("train.warmup=2", "train.warmup takes a number of at least 0 and at most 1 (default 0.03): "),
    ("train.tuning=all", "train.tuning takes auto, lora or full (default auto): "),
    ("train.lora.r=1.5", "train.lora.r takes a whole number above 0 (default 16): Rank."),
    ("data.limit=0", "data.limit takes a whole number above 0: Use only the first N questions of each split."),
    ("evaluation.profiles=x", "evaluation.profiles takes a list of medvqa, vqa, llava-med or squad (default medvqa): "),
    ("model.scratch=maybe", "model.scratch takes true or false (default False): "),
])
def test_the_hint_says_what_the_setting_takes(text, hint):
    assert refuse(text).hint.startswith(hint)


def test_one_wrong_value_is_one_error():
    assert refuse("evaluation.profiles=nosuch").message.count("setting") == 1
    both = refuse("train.epochs=0", "data.limit=0")
    assert [line.partition(" takes")[0] for line in both.hint.splitlines()] == ["data.limit", "train.epochs"]


@pytest.mark.parametrize("text", ["nan", "-inf", "Infinity"])
def test_what_is_no_finite_number_is_said_to_be_none(text):
    assert "input should be a finite number" in refuse(f"train.learning_rate={text}").message


def test_file_and_variable_are_named(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("data:\n  question_type: yes\n")
    assert refuse(config=config).message == (
        f"{config}: setting 'data.question_type' is \"yes\": input should be 'all', 'closed' or 'open'.")
    assert refuse(environment={"MEDVQA_TRAIN__EPOCH": "1", "MEDVQA_CONFIG_HOME": "/x"}).message == (
        "MEDVQA_TRAIN__EPOCH: unknown setting 'train.epoch'. Did you mean 'train.epochs'?")


def test_defaults_pass_their_own_rules():
    assert make_settings(to_tree(Settings())) == Settings()


def test_one_path_of_a_section_can_be_set_alone():
    assert make_settings({"paths": {"runs": "/elsewhere"}}).paths.prepared == Path("prepared")


def test_every_fault_is_told_at_once():
    assert refuse("train.epochs=0", "seed=-1").message.splitlines() == [
        "--set seed: setting 'seed' is -1: input should be greater than or equal to 0.",
        "--set train.epochs: setting 'train.epochs' is 0: input should be greater than 0."]


def test_contradiction_between_settings():
    assert refuse("train.packing=on", "model.attention=flash").message.startswith(
        "Settings contradict each other: train.packing 'on' needs a block mask")


def test_make_settings_without_origins_names_key_and_value():
    with pytest.raises(SettingsError) as caught:
        make_settings({"train": {"epochs": "x"}, "foo": 1})
    assert caught.value.message.splitlines() == [
        "Setting 'train.epochs' is \"x\": input should be a valid number.", "Unknown setting 'foo'."]


def test_template_holds_every_key_and_reads_back_as_the_defaults():
    text = write_template()
    for section in ("paths", "train.lora", "calibration"):
        assert f"\n[{section}]\n" in text
    assert "# Peak learning rate of AdamW.\n# learning_rate = 0.0001\n" in text
    uncommented = [line.removeprefix("# ") for line in text.splitlines() if " = " in line or line.startswith("[")]
    tree = tomllib.loads("\n".join(line for line in uncommented if not line.endswith(".")))
    assert make_settings(tree) == Settings()
    named = {line.split(" ")[1] for line in text.splitlines() if line.startswith("# ") and " =" in line}
    assert {key.rpartition(".")[2] for key in list_keys()} <= named


def test_every_setting_has_one_line_of_documentation():
    from medvqa_cli.settings.section import Section

    def check(section: type[Section]) -> None:
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name} has no docstring"
            assert "\n" not in field.description.strip(), f"{section.__name__}.{name}: more than one line"
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                check(field.annotation)

    check(Settings)


def test_resolved_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolve().settings = None  # type: ignore[misc]


def test_a_data_set_of_ones_own_is_declared_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    config = tmp_path / "mine.yaml"
    config.write_text("datasets:\n  my.set:\n    reader: table\n    root: ~/q.csv\n    options: {a: {b: c}}\n")
    declared = resolve("datasets.my-other.reader=slake", config=config).settings.datasets
    assert declared["my.set"].reader == "table"
    assert declared["my.set"].root == Path("/home/ada/q.csv")
    assert declared["my.set"].options == {"a": {"b": "c"}}
    assert declared["my-other"].reader == "slake"


def test_a_declaration_has_known_keys_only():
    assert "unknown setting 'datasets.mine.file'" in refuse("datasets.mine.file=q.csv").message

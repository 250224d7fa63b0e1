"""Files, environment and --set as assignments."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvqa_cli.errors import SettingsError
from medvqa_cli.settings import sources
from medvqa_cli.settings.sources import Assignment
from medvqa_cli.settings.yaml_reading import parse_yaml


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(("text", "value"), [
    ("1e-4", 1e-4), ("-2.5E3", -2500.0), ("1.", 1.0), (".5", 0.5), ("7", 7), ("-7", -7), ("010", 10),
    ("on", "on"), ("off", "off"), ("yes", "yes"), ("no", "no"), ("true", True), ("False", False), ("~", None),
    ("null", None), ("", None), ("1:30", "1:30"), ("2026-11-21", "2026-11-21"), ("1_000", "1_000"), ("'1'", "1"),
])
def test_yaml_scalars_follow_the_core_schema(text, value):
    parsed = parse_yaml(f"key: {text}\n", "x.yaml")["key"]
    assert parsed == value
    assert type(parsed) is type(value)


def test_yaml_key_given_twice_is_named_with_its_line():
    with pytest.raises(SettingsError) as caught:
        parse_yaml("train:\n  epochs: 1\n  epochs: 2\n", "x.yaml")
    assert caught.value.message == "x.yaml, line 3, column 3: 'epochs' is given twice."


def test_yaml_anchors_and_merges_work():
    assert parse_yaml("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\n", "x")["b"] == {"x": 1, "y": 3}


def test_broken_yaml_names_line_and_column(tmp_path):
    path = write(tmp_path / "x.yaml", "train: {epochs: 1\n")
    with pytest.raises(SettingsError, match=r"x\.yaml, line 2, column 1: "):
        sources.read_config(path)


def test_yaml_cannot_build_python_objects(tmp_path):
    path = write(tmp_path / "x.yaml", "seed: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(SettingsError, match="could not determine a constructor"):
        sources.read_config(path)


def test_toml_and_json_and_yaml_read_alike(tmp_path):
    texts = {"x.toml": "seed = 1\n[train]\nlearning_rate = 1e-4\n",
             "x.json": '{"seed": 1, "train": {"learning_rate": 1e-4}}',
             "x.yaml": "seed: 1\ntrain: {learning_rate: 1e-4}\n"}
    for name, text in texts.items():
        path = write(tmp_path / name, text)
        assert [(a.key, a.value, a.origin) for a in sources.read_config(path)] == [
            ("seed", 1, str(path)), ("train.learning_rate", 1e-4, str(path))]


def test_an_empty_file_says_nothing(tmp_path):
    assert sources.read_config(write(tmp_path / "x.yaml", "# nothing\n")) == []


@pytest.mark.parametrize(("name", "text", "message"), [
    ("x.toml", "seed = \n", "is not valid TOML: Invalid value (at line 1, column 8)"),
    ("x.yaml", "- 1\n", "expected settings such as 'train: {epochs: 3}', found a list."),
    ("x.ini", "", "is of an unknown kind."),
])
def test_bad_files_are_named(tmp_path, name, text, message):
    path = write(tmp_path / name, text)
    with pytest.raises(SettingsError) as caught:
        sources.read_config(path)
    assert str(path) in caught.value.message
    assert message in caught.value.message


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(SettingsError) as caught:
        sources.read_config(tmp_path / "none.yaml")
    assert caught.value.message == f"The configuration file '{tmp_path / 'none.yaml'}' does not exist."
    assert "medvqa config init" in caught.value.hint


def test_a_folder_and_a_binary_file_are_no_config(tmp_path):
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        sources.read_config(folder)
    binary = tmp_path / "x.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="is not UTF-8 text: invalid start byte at byte 0"):
        sources.read_config(binary)


def test_the_environment_steps_into_sections_at_two_underscores():
    found = sources.read_environment({"MEDVQA_TRAIN__LEARNING_RATE": "1e-4", "MEDVQA_SEED": "3",
                                      "MEDVQA_DATA__ROOT": "", "MEDVQA_CONFIG_HOME": "/x",
                                      "MEDVQA_TEST_DATA": "/y", "HOME": "/z"})
    assert found == [Assignment(("seed",), "3", "MEDVQA_SEED", is_text=True),
                     Assignment(("train", "learning_rate"), "1e-4", "MEDVQA_TRAIN__LEARNING_RATE", is_text=True)]


def test_set_splits_at_the_first_equals_sign():
    assert sources.parse_set("prompt.instruction=a=b") == Assignment(
        ("prompt", "instruction"), "a=b", "--set prompt.instruction", is_text=True)


@pytest.mark.parametrize("text", ["seed", "=3", " =3"])
def test_set_needs_key_and_value(text):
    with pytest.raises(SettingsError, match="is not of the form key=value"):
        sources.parse_set(text)


def test_user_file_is_found_by_variable_then_xdg_then_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert sources.user_config_path({}) == Path("/home/someone/.config/medvqa/config.toml")
    assert sources.user_config_path({"XDG_CONFIG_HOME": "/xdg"}) == Path("/xdg/medvqa/config.toml")
    assert sources.user_config_path({"XDG_CONFIG_HOME": "/xdg", "MEDVQA_CONFIG_HOME": "/m"}) == Path("/m/config.toml")


def test_order_of_sources(tmp_path):
    user = tmp_path / "user"
    user.mkdir()
    write(user / "config.toml", "seed = 1\n")
    config = write(tmp_path / "x.yaml", "seed: 3\n")
    found = sources.collect([Assignment(("seed",), "6", "--seed", is_text=True)], config=config, sets=["seed=5"],
                            run_settings={"seed": 2, "paths": {"runs": "elsewhere"}, "aliases": {"models": {"a": "b"}}},
                            environment={"MEDVQA_CONFIG_HOME": str(user), "MEDVQA_SEED": "4"})
    assert [str(a.value) for a in found] == ["1", "2", "3", "4", "5", "6"]


def test_a_folder_is_found_without_checking_other_settings():
    found = [Assignment(("paths", "runs"), "a", "x"), Assignment(("nonsense",), 1, "x"),
             Assignment(("paths", "runs"), "b", "y")]
    assert sources.find_path(found, "paths.runs", "runs") == Path("b")
    assert sources.find_path([], "paths.runs", "runs") == Path("runs")


def test_plugin_files_of_all_sources_add_up():
    found = [Assignment(("plugins",), ["a.py", "b.py"], "file"),
             Assignment(("plugins",), "b.py, c.py", "env", is_text=True),
             Assignment(("plugins",), '["d.py"]', "--set", is_text=True)]
    assert sources.find_plugin_files(found) == [Path("a.py"), Path("b.py"), Path("c.py"), Path("d.py")]


def test_plugins_must_be_a_list_of_strings():
    with pytest.raises(SettingsError) as caught:
        sources.find_plugin_files([Assignment(("plugins",), 3, "x.yaml")])
    assert caught.value.message == "x.yaml: setting 'plugins' is 3: input should be a list of strings."


def test_json_text_has_no_nan():
    assert sources.parse_json("NaN") == "NaN"
    assert sources.parse_json("[1, 2]") == [1, 2]

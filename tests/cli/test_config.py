"""`medvqa config`."""

from __future__ import annotations

import json

from medvqa_cli.settings.layers import list_keys


def test_show_names_every_setting_its_value_and_its_origin(medvqa, document, tmp_path):
    (tmp_path / "c.yaml").write_text("train: {learning_rate: 1e-3}\n")
    shown = document("config", "show", "--config", "c.yaml", "--epochs", "2", "--set", "seed=3")
    assert shown["settings"]["train"]["learning_rate"] == 1e-3
    assert set(shown["origins"]) == set(list_keys())
    assert {key: origin for key, origin in shown["origins"].items() if origin != "default"} == {
        "train.learning_rate": "c.yaml", "train.epochs": "--epochs", "seed": "--set seed"}
    lines = [line.split() for line in medvqa("config", "show", "--config", "c.yaml").stdout.splitlines()]
    assert lines[0] == ["setting", "value", "from"]
    assert ["train.learning_rate", "0.001", "c.yaml"] in lines
    assert ["data.dataset", "demo", "default"] in lines


def test_a_language_that_is_not_set_is_the_data_sets_own(medvqa):
    lines = {line.split()[0]: line.split()[1:] for line in medvqa("config", "show", "--dataset",
                                                                  "slake").stdout.splitlines()}
    assert lines["data.language"] == ["en", "(the", "data", "set's", "own)", "default"]
    assert " -  " in next(line for line in medvqa("config", "show", "--dataset", "nosuch").stdout.splitlines()
                          if line.startswith("data.language"))


def test_show_of_a_run(document, make_run):
    make_run("a", dataset="slake")
    shown = document("config", "show", "--run", "a")
    assert shown["settings"]["data"]["dataset"] == "slake"
    assert shown["origins"]["data.dataset"] == "settings.json of the run"
    assert shown["origins"]["paths.runs"] == "default"


def test_variables_and_user_file(document, monkeypatch, tmp_path):
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "config.toml").write_text("seed = 5\n[train]\nepochs = 5\n")
    monkeypatch.setenv("MEDVQA_SEED", "6")
    shown = document("config", "show")
    assert (shown["settings"]["seed"], shown["settings"]["train"]["epochs"]) == (6, 5)
    assert (shown["origins"]["seed"], shown["origins"]["train.epochs"]) == (
        "MEDVQA_SEED", str(tmp_path / "user" / "config.toml"))


def test_init_writes_the_user_file_once(medvqa, document, tmp_path):
    path = tmp_path / "user" / "config.toml"
    assert document("config", "init") == {"path": str(path)}
    first = path.read_text()
    assert "# learning_rate = 0.0001" in first
    path.write_text("seed = 1\n")
    result = medvqa("config", "init")
    assert (result.exit_code, result.stderr) == (
        2, f"error: '{path}' exists.\nhint: Replace it with --force, or name another file.\n")
    assert path.read_text() == "seed = 1\n"
    assert medvqa("config", "init", "--force").exit_code == 0
    assert path.read_text() == first
    assert document("config", "show")["settings"]["seed"] == 42


def test_init_writes_toml_only(medvqa, tmp_path):
    assert medvqa("config", "init", "mine.toml").exit_code == 0
    assert (tmp_path / "mine.toml").is_file()
    result = medvqa("config", "init", "mine.yaml")
    assert (result.exit_code, result.stderr.splitlines()[0]) == (2, "error: 'mine.yaml' is no TOML file.")


def test_schema_is_json_schema_with_documentation(medvqa):
    schema = json.loads(medvqa("config", "schema").stdout)
    train = schema["$defs"]["TrainSettings"]["properties"]
    assert train["learning_rate"] == {"default": 0.0001, "description": "Peak learning rate of AdamW.",
                                      "exclusiveMinimum": 0.0, "title": "Learning Rate", "type": "number"}

"""Grid files and typed axes to named combinations, without any process."""

from __future__ import annotations

import pytest

from medvqa_cli.errors import SettingsError
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.experiments.grid import (
    Axis,
    expand_grid,
    iterate_neighbours,
    name_points,
    order_stages,
    read_axis,
    read_grid,
    replace_axes,
)

BASE = make_settings({"model": {"name": "llava"}, "train": {"epochs": 2.0}})


def axis(key, *values):
    return Axis(key, values, "grid.yaml")


@pytest.fixture
def write(tmp_path):
    def make(text, name="study.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path
    return make


def test_a_file_becomes_axes_base_and_stages(write):
    write("train: {epochs: 5}", "shared.yaml")
    grid = read_grid(write("base: shared.yaml\nstages: [evaluate, train, infer]\n"
                           "grid: {model.name: [a, b], train: {lora: {r: [8, 16]}}}"))
    assert grid.name == "study"
    assert grid.stages == ("train", "infer", "evaluate")
    assert [(one.key, one.values) for one in grid.axes] == [("model.name", ("a", "b")), ("train.lora.r", (8, 16))]
    assert [(one.key, one.value) for one in grid.base] == [("train.epochs", 5)]
    assert read_grid(write("name: other\nbase: {seed: 3}\ngrid: {seed: [1]}")).base[0].key == "seed"


@pytest.mark.parametrize(("text", "message"), [
    ("- a", "expected 'grid: {seed: [0, 1]}', found a list"),
    ("", "found nothing"),
    ("grid: {seed: 3}", "the values of 'seed' are 3, which is no list"),
    ("grid: {seed: [1]}\nstages: [trian]", "etting 'stages.0' is \"trian\""),
    ("grid: {seed: [1]}\nstages: []", "no stage is named"),
    ("grid: {seed: [1]}\nstages: [train, train]", "a stage is named twice"),
    ("gird: {seed: [1]}", "nknown setting 'gird'"),
    ("base: {}", "etting 'grid'"),
    ("grid: {seed: [1]}\nbase: none.yaml", "none.yaml' does not exist"),
])
def test_a_wrong_file_is_one_error_with_its_name(write, text, message):
    with pytest.raises(SettingsError) as caught:
        read_grid(write(text))
    assert message in caught.value.message
    assert ".yaml" in caught.value.message or message.startswith(("no stage", "a stage"))


def test_all_combinations_are_resolved_the_last_axis_fastest():
    points = expand_grid(BASE, [axis("data.question_type", "closed", "all"), axis("seed", 0, 1)])
    assert [point.name for point in points] == ["closed_seed0", "closed_seed1", "all_seed0", "all_seed1"]
    assert [(point.settings.data.question_type, point.settings.seed) for point in points] == [
        ("closed", 0), ("closed", 1), ("all", 0), ("all", 1)]
    assert all(point.settings.train.epochs == 2.0 for point in points)


def test_typed_text_means_what_the_setting_takes():
    points = expand_grid(BASE, [read_axis("model.name", "llava,123", "--models"), read_axis("seed", "0, 1", "--seeds"),
                                read_axis("train.learning_rate", "1e-4", "--vary")])
    assert {point.settings.model.name for point in points} == {"llava", "123"}
    assert {point.values["seed"] for point in points} == {0, 1}
    assert points[0].values["train.learning_rate"] == 1e-4
    assert points[0].name == "llava_seed0_learning_rate-0.0001"


def test_a_value_for_a_section_sets_keys_together():
    points = expand_grid(BASE, [axis("train", {"epochs": 1.0, "batch_size": 8}, {"epochs": 2.0, "batch_size": 4})])
    assert [(point.settings.train.epochs, point.settings.train.batch_size) for point in points] == [(1.0, 8), (2.0, 4)]
    assert points[0].name == "train-1.0-8"


def test_data_options_are_merged_with_the_base():
    base = make_settings({"data": {"options": {"size": 32}}})
    points = expand_grid(base, [axis("data.options.train_images", 10, 20)])
    assert points[1].settings.data.options == {"size": 32, "train_images": 20}


@pytest.mark.parametrize(("axes", "message"), [
    ([], "The grid is empty"),
    ([axis("seed")], "'seed' has no values"),
    ([axis("seed", 1, 1)], "grid.yaml: 'seed' has a value twice: 1, 1"),
    ([axis("train.epochs", 1, 1.0)], "'train.epochs' has a value twice"),
    ([axis("train.epoch", 1)], "unknown setting 'train.epoch'. Did you mean 'train.epochs'?"),
    ([axis("train.epochs", 1, -1)], "grid.yaml: setting 'train.epochs' is -1"),
    ([axis("seed", "x")], "etting 'seed' is \"x\""),
    ([axis("paths.runs", "a", "b")], "'paths.runs' is of the machine and cannot vary"),
    ([axis("plugins", ["a.py"])], "'plugins' is of the machine"),
])
def test_a_wrong_axis_is_one_error(axes, message):
    with pytest.raises(SettingsError) as caught:
        expand_grid(BASE, axes)
    assert message in caught.value.message


def test_names_say_what_varies():
    names = name_points([{"model.name": "org/LLaVA_1.5", "data.dataset": "slake", "data.question_type": "closed",
                          "data.subsample": 500, "train.lora.r": 8, "train.dropout": None, "seed": 3}])
    assert names == ["llava-1.5_slake_closed_n500_r-8_dropout-none_seed3"]


def test_values_written_alike_get_names_of_their_own():
    names = name_points([{"model.name": name} for name in ("a/x", "b/x", "y")])
    assert len(set(names)) == 3
    assert [name.partition("-")[0] for name in names] == ["x", "x", "y"]
    assert names == name_points([{"model.name": name} for name in ("a/x", "b/x", "y")]), "the same in every process"
    two = name_points([{"train.lora.r": 1, "other.r": 2}])
    assert two == ["train.lora.r-1_other.r-2"]


def test_a_long_name_stays_a_file_name():
    points = [{f"section.key{number}": "value" * 5 for number in range(12)} | {"seed": seed} for seed in (0, 1)]
    names = name_points(points)
    assert len(set(names)) == 2
    assert all(len(name) <= 120 for name in names)


def test_typed_axes_replace_those_of_the_file():
    kept = replace_axes([axis("seed", 0), axis("train.epochs", 1)], [axis("model.name", "a"), axis("seed", 7)])
    assert [(one.key, one.values) for one in kept] == [("seed", (7,)), ("train.epochs", (1,)), ("model.name", ("a",))]
    with pytest.raises(SettingsError, match="'seed' are given twice"):
        replace_axes([], [axis("seed", 1), axis("seed", 2)])


def test_an_unknown_stage_is_named():
    with pytest.raises(SettingsError, match="--stages: there is no stage 'score'"):
        order_stages(["train", "score"], "--stages")


def test_neighbours_differ_in_one_key():
    points = [{"a": a, "b": b} for a in (1, 2) for b in (1, 2)]
    assert list(iterate_neighbours(points)) == [(0, 1, "b"), (0, 2, "a"), (1, 3, "a"), (2, 3, "b")]

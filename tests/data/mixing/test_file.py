"""Both forms of a mixture file, and one clear error for each wrong key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medvqa_cli.data.mixing.file import read_mixture
from medvqa_cli.data.mixing.mixture import Member, MixtureGroup, collect_group
from medvqa_cli.errors import SettingsError
from medvqa_cli.plugins import datasets
from medvqa_cli.settings.data import DatasetDeclaration
from medvqa_cli.settings.options import read_options
from tests.data.builders import draw_image

KNOWN = ("slake", "vqa_rad", "path_vqa", "conversations")
OWN = """
groups:
  - {name: main, datasets: [slake, vqa-rad], weight: 3}
  - {name: own, datasets: [mine], use: 500, mandatory: true, shuffle: false, seed: 7}
  - {name: chinese, datasets: [slake], use: [100, 0], language: zh, question_type: open, split: validation}
size: 20000
seed: 5
datasets:
  mine: {reader: conversations, root: files/a.jsonl, options: {turns: first}}
"""
SEED = """
# The worked example of UniMedVL's instructions.
RadiologyReportDataset:
  dataset_names:
    train:
      - radiology_reports_train
    val:
      - radiology_reports_val

  image_transform_args:
    image_stride: 16
    max_image_size: 1024
    min_image_size: 512

  vit_image_transform_args:
    image_stride: 14
    max_image_size: 980
    min_image_size: 378
    max_pixels: 2_007_040

  weight:
    train: 8
    val: 1

  num_used_data:
    train: [0, 0]
    val: [0, 1000]

  is_mandatory: true
  shuffle_lines: true
  shuffle_seed: 42
"""
INFO = {"RadiologyReportDataset": {
    "radiology_reports_train": {"data_dir": "/data/radiology/images", "jsonl_path": "/data/radiology/train.jsonl"},
    "radiology_reports_val": {"data_dir": "images", "jsonl_path": "val.jsonl"}}}


def read(folder: Path, text: str, known=KNOWN, name: str = "mix.yaml"):
    (folder / name).write_text(text, encoding="utf-8")
    return read_mixture(folder / name, known)


def fail(folder: Path, text: str, known=KNOWN) -> SettingsError:
    with pytest.raises(SettingsError) as failure:
        read(folder, text, known)
    assert str(folder) in failure.value.message
    return failure.value


def test_our_own_form(tmp_path):
    mixture = read(tmp_path, OWN)
    assert mixture.groups == (
        MixtureGroup(name="main", members=(Member("slake"), Member("vqa-rad")), weight=3.0),
        MixtureGroup(name="own", members=(Member("mine", 0, 500),), mandatory=True, shuffle=False, seed=7),
        MixtureGroup(name="chinese", members=(Member("slake", 100, 0),), language="zh", question_type="open",
                     split="validation"))
    assert (mixture.size, mixture.seed, mixture.notes) == (20000, 5, ())
    assert mixture.datasets == {"mine": DatasetDeclaration(
        reader="conversations", root=tmp_path / "files/a.jsonl", options={"turns": "first"})}


def test_json_and_the_least_of_a_file(tmp_path):
    mixture = read(tmp_path, json.dumps({"groups": [{"name": "a", "datasets": ["any"]}]}), None, "mix.json")
    assert mixture.groups == (MixtureGroup(name="a", members=(Member("any"),)),)
    assert (mixture.size, mixture.seed, mixture.datasets) == (None, None, {})


@pytest.mark.parametrize(("old", "new", "message", "hint"), [
    ("groups:", "group:", "it has the unknown key 'group' (did you mean 'groups'?)", "Keys here: groups, size"),
    ("weight: 3", "wieght: 3", "'groups.0' has the unknown key 'wieght' (did you mean 'weight'?)", "name, datasets"),
    ("weight: 3", "weight: -3", "'groups.0.weight' is -3: input should be greater than or equal to 0.", ""),
    ("weight: 3", "weight: heavy", "'groups.0.weight' is \"heavy\": input should be a valid number", ""),
    ("name: main, ", "", "'groups.0' lacks the key 'name'", "Keys here: name, datasets"),
    ("[slake, vqa-rad]", "[]", "'groups.0.datasets' is []", ""),
    ("[slake, vqa-rad]", "slake", "'groups.0.datasets' is \"slake\": input should be a valid array", ""),
    ("[slake, vqa-rad]", "[slakee]", "'slakee', which is no data set (did you mean 'slake'?)", "data list"),
    ("[slake, vqa-rad]", "[slake, SLAKE]", "'groups.0.datasets' names the data set 'SLAKE' twice", ""),
    ("name: own", "name: main", "'groups.1.name' is 'main', the name of an earlier group", ""),
    ("use: 500", "use: -1", "'groups.1.use' is -1: a range should be 0 <= start < end", ""),
    ("use: 500", "use: [9, 3]", "'groups.1.use' is [9, 3]: a range should be 0 <= start < end", ""),
    ("use: 500", "use: [1, 2, 3]", "it should be a number of questions or a range [start, end]", ""),
    ("use: 500", "use: true", "'groups.1.use' is true: it should be a number", ""),
    ("use: 500", "use: 1.5", "'groups.1.use' is 1.5: it should be a number", ""),
    ("question_type: open", "question_type: o", "'groups.2.question_type' is \"o\": input should be 'all'", ""),
    ("size: 20000", "size: 0", "'size' is 0: input should be greater than 0", ""),
    ("size: 20000", "sizes: 9", "it has the unknown key 'sizes' (did you mean 'size'?)", ""),
    ("reader: conv", "raeder: conv", "'datasets.mine.reader' is", ""),
    ("groups:", "groups: 3\nrest:", "it has the unknown key 'rest'", ""),
])
def test_a_wrong_key_of_our_form_is_one_error(tmp_path, old, new, message, hint):
    assert old in OWN
    error = fail(tmp_path, OWN.replace(old, new, 1))
    assert message in error.message
    assert hint in error.hint


@pytest.mark.parametrize(("text", "message"), [
    ("", "should hold keys with values, but holds null"), ("[1, 2]", "should hold keys with values"),
    ("a: [", "line 1"), ("a: 1\na: 2", "'a' is given twice"), ("size: 3", "names no data set type"),
    ("groups: []", "'groups' is empty"), ("groups: [3]", "'groups.0' should be keys with values, but is 3"),
    ("groups: [{name: a, datasets: [slake], weight: 0}]", "'groups' has no weight above 0"),
    ("datasets: {}", "lacks the key 'groups'"), ("a\0b: 1", "special characters"),
])
def test_a_file_that_is_no_mixture_is_one_error(tmp_path, text, message):
    assert message in fail(tmp_path, text).message


def test_a_file_that_cannot_be_read_is_one_error(tmp_path):
    with pytest.raises(SettingsError, match=r"no\.yaml cannot be read: No such file"):
        read_mixture(tmp_path / "no.yaml")
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        read_mixture(tmp_path)
    (tmp_path / "mix.yaml").write_bytes("groups: \u00e9".encode("latin-1"))
    with pytest.raises(SettingsError, match="is not UTF-8 text"):
        read_mixture(tmp_path / "mix.yaml")


@pytest.mark.parametrize("place", ["same file", "second file"])
def test_the_form_of_unimedvl(tmp_path, place):
    if place == "same file":
        text = f"{SEED}\nDATASET_INFO: {json.dumps(INFO)}\n"
    else:
        (tmp_path / "info.json").write_text(json.dumps(INFO))
        text = f"{SEED}\ndataset_info: info.json\n"
    mixture = read(tmp_path, text)
    common = {"mandatory": True, "shuffle": True, "seed": 42}
    assert mixture.groups == (
        MixtureGroup(name="train", members=(Member("radiology_reports_train"),), weight=8.0, **common),
        MixtureGroup(name="val", members=(Member("radiology_reports_val", 0, 1000),), weight=1.0, **common))
    assert mixture.datasets == {
        "radiology_reports_train": DatasetDeclaration(
            reader="conversations", root=Path("/data/radiology/train.jsonl"),
            options={"image_root": "/data/radiology/images", "split": "train"}),
        "radiology_reports_val": DatasetDeclaration(
            reader="conversations", root=tmp_path / "val.jsonl",
            options={"image_root": str(tmp_path / "images"), "split": "train"})}
    first, second = mixture.notes
    assert first.startswith("RadiologyReportDataset.image_transform_args (image_stride 16, max_image_size 1024, "
                            "min_image_size 512) is not applied: the model family's processor decides")
    assert "max_pixels 2007040" in second


def test_several_types_and_a_list_of_names(tmp_path):
    mixture = read(tmp_path, """
vlm_sft: {dataset_names: {main: [slake, vqa_rad]}, num_used_data: {main: [10, 20]}, weight: {main: 2}}
unified_edit: {dataset_names: [path_vqa, edits], num_used_data: [5, 0], is_mandatory: true}
size: 100
dataset_info: {unified_edit: {edits: {reader: slake, root: x}}}
""")
    assert mixture.groups == (
        MixtureGroup(name="vlm_sft/main", members=(Member("slake", 10, 20), Member("vqa_rad", 10, 20)), weight=2.0,
                     shuffle=False, seed=0),
        MixtureGroup(name="unified_edit/unified_edit", members=(Member("path_vqa", 0, 5), Member("edits", 0, 0)),
                     mandatory=True, shuffle=False, seed=0))
    assert mixture.datasets == {"edits": DatasetDeclaration(reader="slake", root=tmp_path / "x")}
    assert mixture.size == 100
    (note,) = mixture.notes
    assert note == "vlm_sft.num_used_data.main is read as one range for each of two data sets, not as two counts."


@pytest.mark.parametrize(("used", "members"), [
    ("0", [(0, 0), (0, 0), (0, 0)]), ("{g: 7}", [(0, 7)] * 3), ("{g: [2, 0]}", [(2, 0)] * 3),
    ("{g: [2, 9]}", [(2, 9)] * 3), ("{g: [5, 0, 7]}", [(0, 5), (0, 0), (0, 7)])])
def test_what_num_used_data_means(tmp_path, used, members):
    text = f"vlm_sft: {{dataset_names: {{g: [a, b, c]}}, num_used_data: {used}}}"
    (group,) = read(tmp_path, text, None).groups
    assert [(member.start, member.end) for member in group.members] == members


INFO_LINE = "dataset_info: {U: {mine: {data_dir: a, jsonl_path: b}}}"


@pytest.mark.parametrize(("old", "new", "message", "hint"), [
    ("dataset_names:", "dataset_name:", "unknown key 'dataset_name' (did you mean 'dataset_names'?)", "Keys here"),
    ("weight:", "weights:", "'T' has the unknown key 'weights' (did you mean 'weight'?)", "Keys here: dataset_names"),
    ("{main: 1, own: 2}", "{main: 1}", "'T.weight' lacks the group 'own'", "Groups: main, own."),
    ("{main: 1, own: 2}", "{onw: 3}", "'onw', which is no group of dataset_names (did you mean 'own'?)", "Groups"),
    ("{main: 1, own: 2}", "{main: 0, own: 0}", "gives no group a weight above 0", "at least one"),
    ("{main: 1, own: 2}", "[1, 2]", "'T.weight' should be a number of at least 0, but is [1, 2]", ""),
    ("{main: 1, own: 2}", "{main: -1, own: 2}", "'T.weight.main' should be a number of at least 0, but is -1", ""),
    ("{main: 1, own: 2}", "{main: yes, own: 2}", 'should be a number of at least 0, but is "yes"', ""),
    ("vqa_rad]", "vqa_rat]", "names 'vqa_rat', which is no data set (did you mean 'vqa_rad'?)", "Declare it"),
    ("[slake, vqa_rad]", "slake", "main' should be a list of data sets, but is \"slake\"", ""),
    ("[slake, vqa_rad]", "[]", "'T.dataset_names.main' should be a list of data sets, but is []", ""),
    ("[slake, vqa_rad]", "[mine]", "names 'mine', which is declared for the type 'U', not for 'T'", ""),
    ("[0, 9]", "[9, 3]", "'T.num_used_data.main' should be a range 0 <= start < end (end 0: all the rest)", ""),
    ("[0, 9]", "[-1, 3]", "'T.num_used_data.main' should be [start, end] or a number of questions", ""),
    ("[0, 9]", "[1, 2, 3]", "'T.num_used_data.main' has 3 counts for 2 data sets", "a count (0: all of it)"),
    ("[0, 9]", "some", "'T.num_used_data.main' should be [start, end] or a number", ""),
    ("{main: [0, 9], own: 0}", "[3, 4]", "'T.num_used_data' should be {group: [start, end]} or a number", ""),
    ("{main: [0, 9], own: 0}", "{main: 3}", "'T.num_used_data' lacks the group 'own'", ""),
    ("is_mandatory: true", "is_mandatory: 1", "'T.is_mandatory' should be true or false, but is 1", ""),
    ("shuffle_seed: 1", "shuffle_seed: one", "'T.shuffle_seed' should be a whole number of at least 0", ""),
    ("jsonl_path: b", "json_path: b", "unknown key 'json_path' (did you mean 'jsonl_path'?)", "data_dir, jsonl_path"),
    (", jsonl_path: b", "", "'dataset_info.U.mine' lacks the key 'jsonl_path'", ""),
    ("jsonl_path: b", "jsonl_path: 3", "'dataset_info.U.mine.jsonl_path' is 3: input should be a valid string", ""),
    (INFO_LINE, "dataset_info: 3", "'dataset_info' should be {type:", ""),
    (INFO_LINE, "dataset_info: {U: 3}", "'dataset_info.U' should be {name:", ""),
    ("image_stride: 16", "image_strid: 16", "'T.image_transform_args' has the unknown key 'image_strid'", ""),
    ("image_stride: 16", "image_stride: 0", "'T.image_transform_args.image_stride' is 0: input should be greater", ""),
    ("max_image_size: 64", "max_image_size: 20", "min_image_size (32) is larger than max_image_size (20)", ""),
])
def test_a_wrong_key_of_unimedvls_form_is_one_error(tmp_path, old, new, message, hint):
    text = """
T:
  dataset_names: {main: [slake, vqa_rad], own: [path_vqa]}
  weight: {main: 1, own: 2}
  num_used_data: {main: [0, 9], own: 0}
  is_mandatory: true
  shuffle_seed: 1
  image_transform_args: {image_stride: 16, max_image_size: 64, min_image_size: 32}
""" + INFO_LINE
    read(tmp_path, text)
    assert old in text
    error = fail(tmp_path, text.replace(old, new, 1))
    assert message in error.message
    assert hint in error.hint


def test_a_type_that_is_nearly_a_declared_one_is_named(tmp_path):
    error = fail(tmp_path, "vlm_stf: {dataset_names: [a]}\ndataset_info: {vlm_sft: {a: {data_dir: d, jsonl_path: j}}}")
    assert "'vlm_stf' is no type that is declared (did you mean 'vlm_sft'?)" in error.message


def test_one_name_for_two_data_sets_is_one_error(tmp_path):
    text = """
A: {dataset_names: [x]}
B: {dataset_names: [x]}
dataset_info: {A: {x: {data_dir: d, jsonl_path: j}}, B: {x: {data_dir: d, jsonl_path: OTHER}}}
"""
    assert "'dataset_info.B.x' is declared for another type too" in fail(tmp_path, text).message
    assert len(read(tmp_path, text.replace("OTHER", "j")).groups) == 2


def test_an_info_file_is_read_as_carefully(tmp_path):
    text = "T: {dataset_names: [a]}\ndataset_info: info.yaml"
    assert "info.yaml cannot be read" in fail(tmp_path, text).message
    (tmp_path / "info.yaml").write_text("T: {a: {data_dir: 3, jsonl_path: x}}")
    error = fail(tmp_path, text)
    assert f"{tmp_path / 'info.yaml'}: 'T.a.data_dir' is 3" in error.message
    assert "has both dataset_info and DATASET_INFO" in fail(tmp_path, text + "\nDATASET_INFO: {}").message


def test_a_data_set_declared_in_the_file_alone_is_read(tmp_path):
    folder = tmp_path / "radiology"
    rows = [{"main_task_type": "image_understanding", "input_img": [{"path": "a.png", "height": 10, "width": 20}],
             "message": [{"from": "human", "value": "<image>\n\nIs it normal?"}, {"from": "gpt", "value": "Yes"}]},
            {"main_task_type": "text_only", "message": [{"from": "human", "value": "What is CT?"},
                                                        {"from": "gpt", "value": "Computed tomography"}]}]
    draw_image(folder / "images/a.png")
    (folder / "validation_rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    info = {"vlm_sft": {"mine": {"data_dir": "radiology/images", "jsonl_path": "radiology/validation_rows.jsonl"}}}
    mixture = read(tmp_path, f"vlm_sft: {{dataset_names: [mine]}}\ndataset_info: {json.dumps(info)}")
    declared = mixture.datasets["mine"]
    reader = datasets.get(declared.reader)
    options = read_options(reader.Options, declared.options, "options")
    found = list(reader.read(reader.find_root(declared.root), options))
    assert [sample.split for sample in found] == ["train", "train"], "all rows are used, whatever the file's name"
    (group,) = mixture.groups
    first, second = collect_group(group, [("mine", found)], seed=0).samples
    assert (first.question, first.images) == ("Is it normal?", (str(folder / "images/a.png"),))
    assert (second.question, second.images) == ("What is CT?", ())


def test_keys_that_yaml_reads_as_numbers_are_names(tmp_path):
    (group,) = read(tmp_path, "vlm_sft: {dataset_names: {2019: [slake]}, weight: {2019: 2}}").groups
    assert (group.name, group.weight) == ("2019", 2.0)
    assert "has the unknown key '3'" in fail(tmp_path, "groups: [{name: a, datasets: [slake], 3: 4}]").message

"""Export: what each form looks like, that everything comes back, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from medvqa_cli.data.export import FORMS, export_samples, read_export
from medvqa_cli.data.sources import conversations, demo, slake, table
from medvqa_cli.errors import DataError
from medvqa_cli.progress import SilentProgress
from medvqa_cli.records import Box, VQASample
from tests.data.builders import draw_image, make_sample


class Warnings(SilentProgress):
    def __init__(self):
        self.messages = []

    def warn(self, message):
        self.messages.append(message)


def export(samples, folder, form, **options):
    splits = {}
    for sample in samples:
        splits.setdefault(sample.split, []).append(sample)
    return export_samples(splits, folder, form, dataset="d", **options)


def read_back(report, form, root=None):
    """All samples of an export, read as its user would read them."""
    root = root or report.image_root
    if form in ("parquet", "jsonl"):
        return [sample for path in report.files.values() for sample in read_export(path, root)]
    folder = next(iter(report.files.values())).parent
    options = conversations.PLUGIN.Options(image_root=root, absolute_paths=bool(report.num_outside))
    return list(conversations.PLUGIN.read(conversations.PLUGIN.find_root(folder), options))


def sort(samples):
    return sorted(samples, key=lambda sample: (sample.split, sample.question_id))


def read_rows(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def pictures(tmp_path):
    return [draw_image(tmp_path / "pictures" / name, 40 * number, size=(30, 20))
            for number, name in enumerate(("a/1.png", "a/2.png", "b/3.png"), start=1)]


def test_the_llava_form(tmp_path, pictures):
    samples = [make_sample(1, pictures[0], answer="Yes", modality="CT"),
               make_sample(2, images=tuple(map(str, pictures)), answer_type="open", history=(("q", "a"), ("r", "b"))),
               make_sample(3, image_id="none")]
    report = export(samples, tmp_path / "out", "llava")
    assert report.files == {"train": tmp_path / "out" / "d_train_llava_sft.json"}
    assert report.counts == {"train": 3}
    assert (report.image_root, report.num_pictures, report.num_outside) == (tmp_path / "pictures", 3, 0)
    first, second, third = read_rows(report.files["train"])
    rest = {"dataset": "d", "split": "train", "image_id": "i1", "modality": "CT"}
    assert first == {"id": "1", "image": "a/1.png", "answer_type": "CLOSED", "medvqa": rest, "conversations": [
        {"from": "human", "value": "<image>\nQuestion 1?"}, {"from": "gpt", "value": "Yes"}]}
    assert (second["image"], second["answer_type"]) == (["a/1.png", "a/2.png", "b/3.png"], "OPEN")
    assert [turn["value"] for turn in second["conversations"]] == ["<image>\n<image>\n<image>\nq", "a", "r", "b",
                                                                  "Question 2?", "yes"]
    assert "image" not in third
    assert third["conversations"][0]["value"] == "Question 3?"


def test_the_unimedvl_form(tmp_path, pictures):
    paths = [str(path) for path in pictures]
    samples = [make_sample(1, paths[0]), make_sample(2), make_sample(3, paths[0], output_images=(paths[1], paths[2])),
               make_sample(4, output_images=(paths[2],))]
    report = export(samples, tmp_path / "out", "unimedvl", image_root=tmp_path)
    assert report.files["train"].name == "d_train_unimedvl.jsonl"
    rows = read_rows(report.files["train"])
    assert [row["main_task_type"] for row in rows] == ["image_understanding", "text_only", "image_to_image",
                                                       "multimodal_input_output"]
    assert rows[0]["input_img"] == [{"path": "pictures/a/1.png", "height": 20, "width": 30}]
    assert rows[0]["message"][0] == {"from": "human", "value": "<image>\n\nQuestion 1?"}
    assert [picture["path"] for picture in rows[2]["output_img"]] == ["pictures/a/2.png", "pictures/b/3.png"]
    assert rows[2]["message"][1] == {"from": "gpt", "value": "yes <image> <image>"}
    assert [sorted(rows[number].keys() & {"input_img", "output_img"}) for number in (1, 3)] == [[], ["output_img"]]
    assert sort(read_back(report, "unimedvl")) == samples


def test_size_is_that_of_the_upright_picture(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (30, 20)).save(path, exif=exif)
    report = export([make_sample(1, path)], tmp_path / "out", "unimedvl")
    assert read_rows(report.files["train"])[0]["input_img"] == [{"path": "turned.jpg", "height": 30, "width": 20}]


def full_sample(pictures, **changes):
    paths = [str(path) for path in pictures]
    return make_sample(
        1, split="test", images=tuple(paths[:2]), masks=(paths[2],), output_images=(paths[1],),
        question="Which\nside? ", answer=" left", answer_type="open", question_type="Position", modality="CT",
        organ="Lung", language="zh",
        alternatives=("l", ""), options=("left", "right"), boxes=(Box("Liver", 1, 2.5, 3, 4), Box("", 0, 0, 1, 1)),
        triples=(("a", "b", "c"),), scene_graph={"nodes": [{"x": 1, "y": None}], "ü": "1"}, labels={"a": 0.25},
        history=(("q ", "a"), ("肝?", "肺")), context=("fact one", "fact two"), answer_probabilities={"left": 1.0},
        question_id="q\t1", extra={"k": "v", "marked_question": "x <image>"}, **changes)


@pytest.mark.parametrize("form", FORMS)
def test_every_field_comes_back(tmp_path, pictures, form):
    sample = full_sample(pictures)
    defaults = {spec.name: spec.default for spec in dataclasses.fields(VQASample)}
    assert not [name for name, default in defaults.items() if getattr(sample, name) in (default, {})]
    assert read_back(export([sample], tmp_path / "out", form), form) == [sample]


texts = st.text(max_size=12) | st.sampled_from(["", " ", "yes", "No.", "a\r\nb", " x\n", "肺", "\0", "\u2028"])
marked = st.sampled_from(["<image>q", "q <image> r", "<image> <image>", "no mark"])
names = st.text(string.ascii_letters + " ._-ü", min_size=1, max_size=6).filter(lambda name: name.strip(". "))
paths = st.lists(st.tuples(st.sampled_from(["a", "a/b", "c d"]), names).map("/".join), max_size=3).map(
    lambda found: tuple(f"/medvqa-pictures/{path}.png" for path in found))
numbers = st.floats(allow_nan=False, allow_infinity=False)
lists = st.lists(texts, max_size=2).map(tuple)
maps = st.dictionaries(texts, numbers, max_size=2)
json_values = st.recursive(st.none() | st.booleans() | st.integers(-2**60, 2**60) | numbers | texts,
                           lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
                           max_leaves=5)
samples = st.builds(
    VQASample, dataset=texts, split=st.sampled_from(["train", "test", "extra_1"]), question_id=texts, image_id=texts,
    question=texts, answer=texts, answer_type=st.sampled_from(["open", "closed"]), images=paths, question_type=texts,
    modality=texts, organ=texts, language=texts, alternatives=lists, options=lists,
    boxes=st.lists(st.builds(Box, texts, numbers, numbers, numbers, numbers), max_size=2).map(tuple), masks=paths,
    triples=st.lists(st.tuples(texts, texts, texts), max_size=2).map(tuple),
    scene_graph=st.none() | st.dictionaries(texts, json_values, max_size=2), labels=st.none() | maps,
    history=st.lists(st.tuples(texts, texts), max_size=2).map(tuple), context=lists, output_images=paths,
    answer_probabilities=st.none() | maps,
    extra=st.dictionaries(st.just("marked_question") | texts, marked | texts, max_size=2))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=st.lists(samples, min_size=1, max_size=4), form=st.sampled_from(["llava", "parquet", "jsonl"]))
def test_any_sample_comes_back(tmp_path, found, form):
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    report = export(found, tmp_path / "out", form, image_root=Path("/medvqa-pictures"))
    if form == "llava":  # the reader of conversations wants the folder of pictures to be there
        here = [replace_root(sample, str(tmp_path)) for sample in found]
        back = read_back(report, form, root=tmp_path)
    else:
        here, back = found, read_back(report, form, root=Path("/medvqa-pictures"))
    for split in report.files:
        assert [s for s in back if s.split == split] == [s for s in here if s.split == split]
    assert report.num_outside == 0


def replace_root(sample, root):
    moved = {name: tuple(path.replace("/medvqa-pictures", root) for path in getattr(sample, name))
             for name in ("images", "masks", "output_images")}
    return dataclasses.replace(sample, **moved)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=st.lists(samples, min_size=1, max_size=3))
def test_any_sample_comes_back_from_unimedvl(tmp_path, found):
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    here = [replace_root(sample, str(tmp_path / "pictures")) for sample in found]
    (tmp_path / "pictures").mkdir(exist_ok=True)
    for path in {path for sample in here for path in (*sample.images, *sample.output_images)} - set(drawn):
        drawn[path] = draw_image(Path(path), size=(3, 2))
    report = export(here, tmp_path / "out", "unimedvl", image_root=tmp_path / "pictures")
    back = read_back(report, "unimedvl")
    for split in report.files:
        assert [s for s in back if s.split == split] == [s for s in here if s.split == split]


drawn = {}


@pytest.mark.parametrize("form", FORMS)
def test_real_slake_comes_back(tmp_path, real_data, form):
    found = [sample for sample in slake.PLUGIN.read(slake.PLUGIN.find_root(real_data / "slake"), None)
             if sample.split == "test" and sample.language == "en"]
    assert len(found) == 1061
    report = export_samples({"test": found}, tmp_path / "out", form, dataset="slake")
    assert report.image_root == (real_data / "slake" / "imgs").resolve()
    assert read_back(report, form) == found
    assert str(real_data) not in report.files["test"].read_bytes().decode(errors="replace")


@pytest.mark.parametrize("form", FORMS)
def test_the_demo_comes_back(tmp_path, form):
    options = demo.PLUGIN.Options(train_images=3, validation_images=2, test_images=2, size=32)
    demo.PLUGIN.generate(tmp_path / "demo", options, SilentProgress())
    found = list(demo.PLUGIN.read(tmp_path / "demo", options))
    report = export(found, tmp_path / "out", form)
    assert report.counts.keys() == {"train", "validation", "test"}
    assert sort(read_back(report, form)) == sort(found)


@pytest.mark.parametrize("texts", [["Compare <image>\nwith <image>: what?", "It grew."],
                                   ["Hello", "Yes?", "<image> and <image>\n?", "CT"]])
def test_a_conversation_keeps_its_marks_where_they_stood(tmp_path, texts):
    row = {"id": "7", "image": ["1.png", "2.png"], "conversations": [
        {"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]}
    (tmp_path / "train.json").write_text(json.dumps([row]))
    found = list(conversations.PLUGIN.read(tmp_path / "train.json", conversations.PLUGIN.Options()))
    report = export(found, tmp_path / "out", "llava")
    assert [turn["value"] for turn in read_rows(report.files["train"])[-1]["conversations"]] == texts
    assert read_back(report, "llava") == found


def test_datasets_and_pandas_load_parquet(tmp_path, pictures):
    import datasets
    import pandas as pd

    sample = full_sample(pictures)
    report = export([sample, make_sample(2, pictures[0])], tmp_path / "out", "parquet")
    loaded = datasets.load_dataset("parquet", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert loaded["test"][0]["images"] == ["a/1.png", "a/2.png"]
    assert loaded["test"][0]["boxes"][0] == {"label": "Liver", "x1": 1.0, "y1": 2.5, "x2": 3.0, "y2": 4.0}
    assert loaded["train"][0]["language"] == "en"
    assert set(loaded["train"].column_names) == {spec.name for spec in dataclasses.fields(VQASample)}
    frame = pd.read_parquet(report.files["test"])
    assert json.loads(frame["scene_graph"][0]) == sample.scene_graph
    assert frame["question"][0] == sample.question


def test_the_table_reader_reads_parquet(tmp_path, pictures):
    found = [make_sample(number, pictures[number], options=("yes", "no"), modality="CT") for number in range(2)]
    report = export(found, tmp_path / "out", "parquet")
    options = table.PLUGIN.Options(columns={"image": "images"}, image_root=report.image_root)
    read = list(table.PLUGIN.read(table.PLUGIN.find_root(report.files["train"]), options))
    assert [dataclasses.replace(sample, dataset="d", extra={}) for sample in read] == found


@pytest.mark.parametrize("form", FORMS)
def test_copies_lie_below_the_folder_once_each(tmp_path, pictures, form):
    twin = draw_image(tmp_path / "pictures" / "twin.png", 40, size=(30, 20))
    found = [make_sample(1, pictures[0], masks=(str(pictures[1]),)), make_sample(2, pictures[0]), make_sample(3, twin)]
    report = export(found, tmp_path / "out", form, images="copy")
    shutil.move(tmp_path / "out", tmp_path / "moved")
    shutil.move(tmp_path / "pictures", tmp_path / "gone")
    moved = dataclasses.replace(report, files={split: tmp_path / "moved" / path.name
                                               for split, path in report.files.items()})
    back = sort(read_back(moved, form, root=tmp_path / "moved"))
    assert [dataclasses.replace(s, images=(), masks=()) for s in back] == [
        dataclasses.replace(s, images=(), masks=()) for s in found]
    first, second, third = (Path(sample.images[0]) for sample in back)
    assert first == second == third
    assert first.read_bytes() == (tmp_path / "gone" / "a" / "1.png").read_bytes()
    assert Path(back[0].masks[0]).read_bytes() == (tmp_path / "gone" / "a" / "2.png").read_bytes()
    assert len([path for path in (tmp_path / "moved").rglob("*") if path.is_file()]) == 3
    assert str(tmp_path).encode() not in moved.files["train"].read_bytes()


def test_pictures_outside_the_root_are_named_and_said_aloud(tmp_path, pictures):
    progress = Warnings()
    found = [make_sample(1, pictures[0]), make_sample(2, pictures[2])]
    report = export(found, tmp_path / "out", "llava", image_root=tmp_path / "pictures" / "a", progress=progress)
    assert [row["image"] for row in read_rows(report.files["train"])] == ["1.png", str(pictures[2])]
    assert report.num_outside == 1
    [message] = progress.messages
    assert message == (f"1 of 2 pictures lie outside '{tmp_path}/pictures/a': their absolute paths, which name folders "
                       "of this machine, were written. Avoid it with --copy-images.")
    assert read_back(report, "llava") == found


def test_the_top_of_a_drive_is_no_common_folder(tmp_path):
    progress = Warnings()
    report = export([make_sample(1, "/one/a.png"), make_sample(2, "/two/b.png")], tmp_path / "out", "jsonl",
                    progress=progress)
    assert (report.image_root, report.num_outside) == (None, 2)
    assert progress.messages[0].startswith("2 of 2 pictures lie outside any common folder")


def test_a_link_to_the_root_is_the_root(tmp_path, pictures):
    (tmp_path / "link").symlink_to(tmp_path / "pictures")
    report = export([make_sample(1, pictures[0])], tmp_path / "out", "llava", image_root=tmp_path / "link")
    assert read_rows(report.files["train"])[0]["image"] == "a/1.png"


def list_names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_folder_in_use_is_left_alone_unless_told(tmp_path, pictures):
    out = tmp_path / "out"
    export([make_sample(1)], out, "llava")
    before = (out / "d_train_llava_sft.json").read_bytes()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DataError) as failure:
        export([make_sample(2)], out, "llava")
    assert failure.value.message == f"The folder '{out}' is not empty."
    assert "--overwrite" in failure.value.hint
    assert (out / "d_train_llava_sft.json").read_bytes() == before
    export([make_sample(2, pictures[0])], out, "llava", overwrite=True, images="copy")
    assert read_rows(out / "d_train_llava_sft.json")[0]["id"] == "2"
    assert (out / "notes.txt").read_text() == "mine"
    assert len(list_names(out / "images")) == 2
    assert not [name for name in list_names(tmp_path) if "part" in name]


@pytest.mark.parametrize("exists", [True, False])
def test_an_error_leaves_what_was_there(tmp_path, exists):
    out = tmp_path / "out"
    if exists:
        export([make_sample(1)], out, "jsonl")
    before = {name: (tmp_path / name).is_dir() or (tmp_path / name).read_bytes() for name in list_names(tmp_path)}
    with pytest.raises(DataError, match=r"The image '.*missing\.png' is missing"):
        export([make_sample(2), make_sample(3, tmp_path / "missing.png")], out, "jsonl", images="copy", overwrite=True)
    assert {name: (tmp_path / name).is_dir() or (tmp_path / name).read_bytes()
            for name in list_names(tmp_path)} == before


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("changes", "fault"), [
    ({"labels": {"a": math.nan}}, "Out of range float values are not JSON compliant"),
    ({"answer": "\ud800"}, "surrogates not allowed"), ({"scene_graph": {"a": {1, 2}}}, "not JSON serializable")])
def test_what_cannot_be_written_names_its_question(tmp_path, form, changes, fault):
    with pytest.raises(DataError) as failure:
        export([make_sample(1), make_sample(7, **changes), make_sample(8)], tmp_path / "out", form)
    assert failure.value.message.startswith("Question '7' of data set 'd', split 'train', cannot be written: ")
    assert fault in failure.value.message
    assert list_names(tmp_path) == []


@pytest.mark.parametrize("changes", [{"question": "What is <image>?"}, {"answer": "<image>"},
                                     {"history": (("q", "<image>"),)}])
def test_a_mark_in_a_text_is_refused_where_it_would_be_a_picture(tmp_path, changes):
    sample = make_sample(7, **changes)
    for form in ("llava", "unimedvl"):
        with pytest.raises(DataError) as failure:
            export([sample], tmp_path / form, form)
        assert failure.value.message == ("Question '7' of data set 'd', split 'train', has '<image>' in its text, "
                                         "which stands for a picture in this form.")
        assert failure.value.hint == "Export it as parquet or jsonl."
    assert read_back(export([sample], tmp_path / "out", "parquet"), "parquet") == [sample]


def test_other_mistakes(tmp_path):
    with pytest.raises(DataError, match="There is no question of 'd' to export"):
        export_samples({"train": []}, tmp_path / "out", "llava", dataset="d")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"'.*/file' is a file"):
        export([make_sample(1)], tmp_path / "file", "llava")
    with pytest.raises(DataError, match="The paths of copied pictures start from the output folder"):
        export([make_sample(1)], tmp_path / "out", "llava", images="copy", image_root=tmp_path)
    assert list_names(tmp_path) == ["file"]


def test_samples_may_come_one_at_a_time(tmp_path):
    found = [make_sample(number) for number in range(2500)]
    report = export_samples({"train": iter(found)}, tmp_path / "out", "parquet", dataset="d")
    assert report.counts == {"train": 2500}
    assert read_back(report, "parquet") == found


def test_a_changed_file_is_one_clear_error(tmp_path, pictures):
    report = export([make_sample(1, pictures[0])], tmp_path / "out", "jsonl")
    path = report.files["train"]
    [row] = read_rows(path)
    for change, message in (({"images": ["../x.png"]}, f"a path in 'images' does not stay inside '{tmp_path}'"),
                            ({"images": "x.png"}, "'images' should be a list of paths, but is \"x.png\""),
                            ({"answer": 3}, '"answer" is 3: input should be a valid string'),
                            ({"colour": "red"}, '"colour" is no field of a sample')):
        path.write_text(json.dumps(row | change) + "\n")
        with pytest.raises(DataError) as failure:
            list(read_export(path, tmp_path))
        assert failure.value.message.startswith(f"{path}, row 1: {message}")

"""SLAKE: both layouts, every field, every fault; the published table on the real files."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import pytest

from medvqa_cli.data.sources.slake import PLUGIN
from medvqa_cli.errors import DataError
from medvqa_cli.records import Box, VQASample
from tests.data.builders import build_slake, slake_record, write_json
from tests.data.sources.layouts import build_hub


def read(root):
    return list(PLUGIN.read(PLUGIN.find_root(root), None))


def test_every_field(slake_root):
    samples = read(slake_root)
    picture = slake_root / "imgs" / "xmlab1"
    assert samples[0] == VQASample(
        dataset="slake", split="train", question_id="0", image_id="xmlab1", question="Does the picture contain liver?",
        answer="Yes", answer_type="closed", images=(f"{picture}/source.jpg",), question_type="Organ", modality="CT",
        organ="Abdomen", language="en", boxes=(Box("Liver", 1.0, 2.0, 6.5, 6.0), Box("Spleen", 0.0, 0.0, 3.0, 3.0)),
        masks=(f"{picture}/mask.png",), triples=(("vhead", "_", "_"),), extra={"base_type": "vqa"})
    assert (samples[1].language, samples[1].question, samples[1].answer_type) == ("zh", "这是什么?", "open")
    assert [sample.split for sample in samples] == ["train"] * 3 + ["validation"] + ["test"] * 2
    assert [sample.question_id for sample in samples] == list("012345")


def test_the_picture_beside_an_xray_is_no_mask(slake_root):
    xray = read(slake_root)[2]
    assert (xray.modality, xray.masks, xray.question) == ("X-Ray", (), "What is it?")
    assert (xray.triples, xray.extra) == ((("vhead", "treat", "ktail"),), {"base_type": "kvqa"})


@pytest.mark.parametrize("layout", [{"validation": "validation.json"}, {"images": "img"},
                                    {"validation": "validation.json", "images": "img"}])
def test_the_hub_layout(tmp_path, layout):
    assert Counter(sample.split for sample in read(build_slake(tmp_path, **layout))) == {
        "train": 3, "validation": 1, "test": 2}


@pytest.mark.parametrize("name", ["imgs", "img"])
def test_an_archive_may_unpack_to_a_folder_in_a_folder(tmp_path, name):
    root = build_slake(tmp_path, images=f"{name}/{name}")
    assert read(root)[0].images == (f"{root}/{name}/{name}/xmlab1/source.jpg",)
    assert read(root)[0].masks == (f"{root}/{name}/{name}/xmlab1/mask.png",)


def test_a_table_with_pictures(tmp_path):
    plain = {"image": 60, "qid": 8, "question": "Is it  normal?", "answer": "Yes", "answer_type": "CLOSED",
             "q_lang": "en"}
    root = build_hub(tmp_path / "hub", {"train": [slake_record(7, 1, triple=None) | {"image": 40}],
                                        "val": [plain], "test": [slake_record(9, 3) | {"image": 80}]})
    full, bare, last = read(root)
    assert full.image_id == "xmlab1"
    assert (full.question_type, full.modality, full.organ, full.triples) == ("Organ", "CT", "Abdomen", ())
    assert (full.masks, full.boxes, full.extra) == ((), (), {"base_type": "vqa"})
    assert last.triples == (("vhead", "_", "_"),)
    assert bare == VQASample(
        dataset="slake", split="validation", question_id="8", image_id=bare.image_id, question="Is it normal?",
        answer="Yes", answer_type="closed", images=(f"{root}/images/{bare.image_id[:2]}/{bare.image_id}.png",))
    assert len(bare.image_id) == 64


def test_a_table_names_the_columns_it_lacks(tmp_path):
    row = {"image": 60, "qid": 8, "question": "Is it normal?", "answer": "Yes"}
    root = build_hub(tmp_path / "two", {"train": [row]})
    with pytest.raises(DataError) as failure:
        read(root)
    assert failure.value.message == (f"{root}/train.jsonl, row 1: the columns answer_type, q_lang of SLAKE are "
                                     "missing.")
    assert "BoKelvin/SLAKE" in failure.value.hint
    root = build_hub(tmp_path / "one", {"train": [row | {"answer_type": "OPEN"}]})
    with pytest.raises(DataError, match=r"row 1: the column q_lang of SLAKE is missing\."):
        read(root)


@pytest.mark.parametrize("taken", [0, 4])
def test_an_id_that_returns_is_named(slake_root, taken):
    write_json(slake_root / "test.json", [slake_record(4, 4), slake_record(taken, 4)])
    with pytest.raises(DataError, match=rf"test\.json, row 2: the qid {taken} is that of an earlier question\."):
        read(slake_root)


def test_masks_and_boxes_may_be_missing(slake_root):
    for name in ("mask.png", "detection.json"):
        (slake_root / "imgs" / "xmlab1" / name).unlink()
    assert (read(slake_root)[0].masks, read(slake_root)[0].boxes) == ((), ())


def test_boxes_are_read_once_for_an_image(slake_root, monkeypatch):
    from medvqa_cli.data.sources import slake

    names = []
    original = slake.read_json_rows
    monkeypatch.setattr(slake, "read_json_rows", lambda path: names.append(path.name) or original(path))
    read(slake_root)
    assert Counter(names) == {"train.json": 1, "validate.json": 1, "test.json": 1, "detection.json": 4}


def test_a_wrong_layout_says_what_is_missing(slake_root):
    (slake_root / "validate.json").unlink()
    with pytest.raises(DataError) as failure:
        PLUGIN.find_root(slake_root)
    assert failure.value.message == (f"'{slake_root}' is not laid out like SLAKE 1.0: validate.json or validation.json "
                                     "is missing.")
    with pytest.raises(DataError, match=r": train\.json, validate\.json or validation\.json, test\.json, imgs or img"):
        PLUGIN.find_root(slake_root / "imgs")


def test_default_folders_are_searched(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as failure:
        PLUGIN.find_root(None)
    assert failure.value.message == (
        f"The files of SLAKE 1.0 were not found. Tried: /data/datasets/Slake1.0, {tmp_path}/datasets/Slake1.0, "
        f"{tmp_path}/data/Slake1.0, {tmp_path}/Downloads/Slake1.0, {tmp_path}/data/slake.")
    assert failure.value.hint.endswith("Name the folder with --root DIR.")
    root = build_slake(tmp_path / "Downloads" / "Slake1.0")
    assert PLUGIN.find_root(None) == root


@pytest.mark.parametrize(("changes", "message"), [
    ({"qid": "x"}, "row 2: 'qid' should be a whole number, but is \"x\"."),
    ({"question": None}, "row 2: 'question' should be a text, but is null."),
    ({"question": "  "}, "row 2: 'question' should be a text that is not empty, but is \"  \"."),
    ({"answer": 3}, "row 2: 'answer' should be a text, but is 3."),
    ({"answer_type": "MAYBE"}, "row 2: 'answer_type' should be one of OPEN, CLOSED, but is \"MAYBE\"."),
    ({"q_lang": ""}, "row 2: 'q_lang' should be a text that is not empty, but is \"\"."),
    ({"triple": ["a", "b"]}, "row 2: 'triple' should be a list of three texts, but is [\"a\", \"b\"]."),
    ({"triple": "abc"}, "row 2: 'triple' should be a list of three texts, but is \"abc\"."),
])
def test_a_faulty_row_is_named(slake_root, changes, message):
    write_json(slake_root / "test.json", [slake_record(4, 4), slake_record(5, 4, **changes)])
    with pytest.raises(DataError) as failure:
        read(slake_root)
    assert failure.value.message == f"{slake_root}/test.json, {message}"


def test_a_missing_key_is_named(slake_root):
    record = slake_record(4, 4)
    del record["content_type"]
    write_json(slake_root / "test.json", [record])
    with pytest.raises(DataError, match=r"test\.json, row 1: the key 'content_type' is missing\."):
        read(slake_root)


def test_a_path_out_of_the_folder_is_refused(slake_root):
    write_json(slake_root / "test.json", [slake_record(4, 4, img_name="../../secret/source.jpg")])
    with pytest.raises(DataError) as failure:
        read(slake_root)
    assert failure.value.message == (
        f"{slake_root}/test.json, row 1: the path \"../../secret/source.jpg\" in 'img_name' does not stay inside "
        f"'{slake_root}/imgs'.")


@pytest.mark.parametrize("box", [[1, 2, 3], "x", [1, 2, 3, None], [1, 2, 3, float("nan")]])
def test_a_faulty_box_is_named(slake_root, box):
    path = slake_root / "imgs" / "xmlab4" / "detection.json"
    write_json(path, [{"Liver": box}])
    with pytest.raises(DataError) as failure:
        read(slake_root)
    assert failure.value.message == (f"{path}, row 1: the box of 'Liver' should be [x, y, width, height] in pixels, "
                                     f"but is {json.dumps(box)}.")


def test_an_empty_file_is_named(slake_root):
    (slake_root / "test.json").write_text("")
    with pytest.raises(DataError, match=r"test\.json: the file is empty"):
        read(slake_root)


def test_a_missing_image_folder_is_named(slake_root):
    shutil.rmtree(slake_root / "imgs")
    with pytest.raises(DataError, match=r"is not laid out like SLAKE 1\.0: imgs or img is missing\."):
        read(slake_root)


def test_a_truncated_file_is_named(slake_root):
    path = slake_root / "train.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"train\.json: the JSON is cut off"):
        read(slake_root)


def test_the_published_table(real_data):
    samples = read(real_data / "slake")
    counts = Counter((sample.split, sample.language) for sample in samples)
    totals = Counter(sample.split for sample in samples)
    types = Counter((sample.split, sample.answer_type) for sample in samples if sample.language == "en")
    table = {split: (total, counts[split, "en"], types[split, "closed"], types[split, "open"])
             for split, total in totals.items()}
    assert table == {"train": (9835, 4919, 1943, 2976), "validation": (2099, 1053, 422, 631),
                     "test": (2094, 1061, 416, 645)}


def test_the_real_boxes_and_masks(real_data):
    samples = {sample.image_id: sample for sample in read(real_data / "slake")}
    assert len(samples) == 642
    assert sum(len(sample.boxes) for sample in samples.values()) == 1622
    assert sum(not sample.boxes for sample in samples.values()) == 62
    assert Counter(bool(sample.masks) for sample in samples.values()) == {True: 463, False: 179}
    assert {sample.modality for sample in samples.values() if not sample.masks} == {"X-Ray"}
    assert samples["xmlab0"].boxes[0] == Box("Liver", 33.0, 67.0, 131.0, 175.0)

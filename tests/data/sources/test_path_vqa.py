"""PathVQA: the official JSON and the hub copy, both conventions about duplicates, every fault."""

from __future__ import annotations

import shutil

import pytest

from medvqa_cli.data.sources.path_vqa import PLUGIN
from medvqa_cli.errors import DataError
from medvqa_cli.records import VQASample
from tests.data.builders import write_json
from tests.data.sources.layouts import build_hub, build_pvqa, pvqa_record


@pytest.fixture
def pvqa_root(tmp_path):
    return build_pvqa(tmp_path / "pvqa")


def read(root, **options):
    return list(PLUGIN.read(PLUGIN.find_root(root), PLUGIN.Options(**options)))


def test_every_field(pvqa_root):
    samples = read(pvqa_root)
    assert samples[1] == VQASample(
        dataset="path_vqa", split="train", question_id="train_0000_1", image_id="train_0000", question="Is it benign?",
        answer="yes", answer_type="closed", images=(f"{pvqa_root}/images/train/train_0000.jpg",))
    assert [sample.split for sample in samples] == ["train"] * 6 + ["validation"] + ["test"] * 2
    assert samples[6].question_id == "val_0000_0"
    assert samples[6].images == (f"{pvqa_root}/images/val/val_0000.jpg",)


def test_texts_are_tidied(pvqa_root):
    samples = read(pvqa_root)
    assert [sample.question for sample in samples[:4]] == ["What is present?", "Is it benign?", "What is present?",
                                                           "What is present?"]
    assert [sample.answer for sample in samples] == ["liver", "yes", "liver", "liver", "no", "no", "2", "no", "gms"]
    assert [sample.answer_type for sample in samples] == ["open", "closed", "open", "open", "closed", "closed", "open",
                                                          "closed", "open"]


def test_both_conventions_about_duplicates(pvqa_root):
    kept, dropped = read(pvqa_root), read(pvqa_root, duplicates="drop")
    assert PLUGIN.Options().duplicates == "keep"
    assert [sample.question_id for sample in dropped] == [
        "train_0000_0", "train_0000_1", "train_0000_3", "train_0002_0", "val_0000_0", "test_0000_0", "test_0000_1"]
    assert [sample.extra for sample in dropped] == [{"copies": "2"}, {}, {}, {"copies": "2"}, {}, {}, {}]
    assert sum(int(sample.extra.get("copies", 1)) - 1 for sample in dropped) == len(kept) - len(dropped) == 2
    assert {sample.question_id for sample in kept if sample.extra} == {"train_0000_0", "train_0000_2", "train_0002_0",
                                                                       "train_0002_1"}


def test_pictures_may_lie_in_pvqa(tmp_path):
    root = build_pvqa(tmp_path, images="pvqa/images")
    assert read(root)[0].images == (f"{root}/pvqa/images/train/train_0000.jpg",)


def test_the_hub_copy(tmp_path):
    root = build_hub(tmp_path / "hub", {
        "train": [{"image": 10, "question": "is it  benign?", "answer": "yes"},
                  {"image": 10, "question": "what is present?", "answer": "liver "},
                  {"image": 20, "question": "what is present?", "answer": "liver "},
                  {"image": 10, "question": "is it  benign?", "answer": "yes"}],
        "validation": [{"image": 30, "question": "is it  benign?", "answer": "no"}]})
    samples = read(root)
    assert [sample.question_id for sample in samples] == ["train_1", "train_2", "train_3", "train_4", "validation_1"]
    assert [(sample.question, sample.answer, sample.answer_type) for sample in samples[:2]] == [
        ("is it benign?", "yes", "closed"), ("what is present?", "liver", "open")]
    assert samples[0].image_id == samples[1].image_id == samples[3].image_id != samples[2].image_id
    assert samples[0].images[0] == f"{root}/images/{samples[0].image_id[:2]}/{samples[0].image_id}.png"
    assert [sample.question_id for sample in read(root, duplicates="drop")] == ["train_1", "train_2", "train_3",
                                                                                "validation_1"]


QUESTIONS = "'sentf' should be an object with a list of questions under 'pvqa', but is "
ANSWERS = "'labelf' should be an object with a list of answers under 'pvqa', but is "
ANSWER = """an answer in 'labelf' should be an object such as {"yes": 1}, but is """


@pytest.mark.parametrize(("record", "message"), [
    ({"labelf": {"pvqa": []}}, "the key 'img_id' is missing."),
    (pvqa_record("test_0000", sentf=None), f"{QUESTIONS}null."),
    (pvqa_record("test_0000", labelf={"vqa": []}), ANSWERS + '{"vqa": []}.'),
    (pvqa_record("test_0000", labelf={"pvqa": [], "vqa": []}), ANSWERS + '{"pvqa": [], "vqa": []}.'),
    (pvqa_record("test_0000", ("a?", "b"), ("c?", "d"), labelf={"pvqa": [{"b": 1}]}),
     "'sentf' has 2 questions, but 'labelf' has 1 answers."),
    (pvqa_record("test_0000", ("a?", "b"), labelf={"pvqa": [4]}), f"{ANSWER}4."),
    (pvqa_record("test_0000", ("a?", "b"), labelf={"pvqa": [{"b": 1, "c": 1}]}), ANSWER + '{"b": 1, "c": 1}.'),
    (pvqa_record("test_0000", (" ", "b")), "'question' should be a text that is not empty, but is \" \"."),
    (pvqa_record("test_0000", (7, "b")), "'question' should be a text, but is 7."),
    (pvqa_record("test_0000", ("a?", "\ud800")), "'answer' should be valid Unicode, but is \"\\ud800\"."),
    (pvqa_record(7), "'img_id' should be a text, but is 7."),
    (pvqa_record("test_0001"), "the img_id 'test_0001' is that of an earlier row."),
])
def test_a_faulty_row_is_named(pvqa_root, record, message):
    path = pvqa_root / "pvqa_test.json"
    write_json(path, [pvqa_record("test_0001", ("a?", "b")), record])
    with pytest.raises(DataError) as failure:
        read(pvqa_root)
    assert failure.value.message == f"{path}, row 2: {message}"


@pytest.mark.parametrize("name", ["../val/val_0000", "/etc/passwd", "C:\\x", ".."])
def test_a_path_out_of_the_folder_is_refused(pvqa_root, name):
    write_json(pvqa_root / "pvqa_test.json", [pvqa_record(name, ("a?", "b"))])
    with pytest.raises(DataError, match=r"pvqa_test\.json, row 1: the path .* in 'img_id' does not stay inside"):
        read(pvqa_root)


def test_a_faulty_hub_row_is_named(tmp_path):
    row = {"image": 10, "question": "is it benign?", "answer": "yes"}
    for number, (changes, message) in enumerate([
            ({"answer": 4}, "'answer' should be a text, but is 4."),
            ({"question": None}, "'question' should be a text, but is null."),
            ({"image": None}, "'image' should be a text, but is null."),
            ({"image": "\ud800.png"}, "'image' should be valid Unicode, but is \"\\ud800.png\"."),
            ({"image": "../secret.png"}, "the path \"../secret.png\" in 'image' does not stay inside '{root}'.")]):
        root = build_hub(tmp_path / str(number), {"test": [row, row | changes]})
        with pytest.raises(DataError) as failure:
            read(root)
        assert failure.value.message == f"{root}/test.jsonl, row 2: {message.format(root=root)}"
    root = build_hub(tmp_path / "renamed", {"test": [{"image": 10, "question": "is it benign?", "label": "yes"}]})
    with pytest.raises(DataError) as failure:
        read(root)
    assert failure.value.message == f"{root}/test.jsonl, row 1: the key 'answer' is missing."
    assert failure.value.hint == "The keys found are: image, question, label."


@pytest.mark.parametrize(("text", "message"), [
    ("", r"pvqa_val\.json: the file is empty"),
    ('[{"img_id": "val_', r"pvqa_val\.json: the JSON is cut off"),
    ("{}", r"pvqa_val\.json: expected a list of records, found an object"),
])
def test_a_faulty_file_is_named(pvqa_root, text, message):
    (pvqa_root / "pvqa_val.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read(pvqa_root)


def test_a_wrong_layout_says_what_is_missing(pvqa_root):
    (pvqa_root / "pvqa_val.json").unlink()
    shutil.rmtree(pvqa_root / "images" / "val")
    with pytest.raises(DataError) as failure:
        PLUGIN.find_root(pvqa_root)
    assert failure.value.message == (f"'{pvqa_root}' is not laid out like PathVQA: pvqa_val.json, images/val are "
                                     "missing.")
    assert "https://github.com/UCSD-AI4H/PathVQA" in failure.value.hint
    shutil.rmtree(pvqa_root / "images")
    with pytest.raises(DataError, match="pvqa_val.json, images/train, images/val, images/test are missing"):
        PLUGIN.find_root(pvqa_root)


def test_default_folders_are_searched(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"The files of PathVQA were not found\. Tried: /data/datasets/PathVQA, "):
        PLUGIN.find_root(None)
    root = build_pvqa(tmp_path / "data" / "path_vqa")
    assert PLUGIN.find_root(None) == root

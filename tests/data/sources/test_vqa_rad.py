"""VQA-RAD: every quirk of its file, both meanings of "closed", and the published counts on the real files."""

from __future__ import annotations

from collections import Counter

import pytest

from medvqa_cli.data.sources.vqa_rad import PLUGIN
from medvqa_cli.errors import DataError
from tests.data.builders import rad_record, write_json


def read(root, closed="answer_type"):
    return list(PLUGIN.read(PLUGIN.find_root(root), PLUGIN.Options(closed=closed)))


def test_quirks_are_tidied(rad_root):
    samples = read(rad_root)
    assert [sample.question_id for sample in samples] == list("0123456")
    assert [sample.answer for sample in samples] == ["Yes", "no", "Heart lungs", "4", "MRI", "Yes", "axial"]
    assert samples[3].question == "How many?"
    assert [sample.question_type for sample in samples] == ["PRES", "POS, PRES", "POS, PRES", "PRES", "OTHER", "ATTRIB",
                                                            "PRES"]
    assert [sample.organ for sample in samples] == ["Chest"] * 4 + ["Head", "Abdomen", "Chest"]
    assert [sample.split for sample in samples] == ["train"] * 4 + ["test"] * 3
    assert samples[0].images == (f"{rad_root}/VQA_RAD Image Folder/synpic1.jpg",)
    assert samples[0].image_id == "synpic1"


def test_what_is_not_stated_is_left_out(rad_root):
    samples = read(rad_root)
    assert samples[0].extra == {"phrase_type": "freeform", "evaluation": "evaluated", "qid_linked_id": "abc",
                                "image_case_url": "https://example.org/1"}
    assert samples[4].extra["question_rephrase"] == "Which one?"
    assert (samples[0].modality, samples[0].boxes, samples[0].language) == ("", (), "en")


def test_closed_has_two_meanings(rad_root):
    assert [sample.answer_type for sample in read(rad_root)] == ["closed", "closed", "open", "open", "closed", "closed",
                                                                 "open"]
    assert [sample.answer_type for sample in read(rad_root, "yes_no")] == ["closed", "closed", "open", "open", "open",
                                                                           "closed", "open"]
    assert PLUGIN.Options().closed == "answer_type"


def test_a_wrong_layout_says_what_is_missing(tmp_path, rad_root):
    (rad_root / "VQA_RAD Dataset Public.json").unlink()
    with pytest.raises(DataError) as failure:
        PLUGIN.find_root(rad_root)
    assert failure.value.message == (f"'{rad_root}' is not laid out like VQA-RAD: 'VQA_RAD Dataset Public.json' is "
                                     "missing.")
    assert "https://osf.io/89kps/" in failure.value.hint
    with pytest.raises(DataError, match="'VQA_RAD Dataset Public.json' and 'VQA_RAD Image Folder' are missing"):
        PLUGIN.find_root(tmp_path)


@pytest.mark.parametrize(("changes", "message"), [
    ({"qid": None}, "row 1: 'qid' should be a text or a whole number, but is null."),
    ({"qid": 1.5}, "row 1: 'qid' should be a text or a whole number, but is 1.5."),
    ({"answer": True}, "row 1: 'answer' should be a text or a whole number, but is true."),
    ({"phrase_type": 0}, "row 1: 'phrase_type' should be a text, but is 0."),
    ({"image_organ": "LEG"}, "row 1: 'image_organ' should be one of HEAD, CHEST, ABD, but is \"LEG\"."),
    ({"answer_type": "BOTH"}, "row 1: 'answer_type' should be one of OPEN, CLOSED, but is \"BOTH\"."),
    ({"question_type": 3}, "row 1: 'question_type' should be a text, but is 3."),
])
def test_a_faulty_row_is_named(rad_root, changes, message):
    path = rad_root / "VQA_RAD Dataset Public.json"
    write_json(path, [rad_record(0, "synpic1.jpg", **changes)])
    with pytest.raises(DataError) as failure:
        read(rad_root)
    assert failure.value.message == f"{path}, {message}"


def test_a_path_out_of_the_folder_is_refused(rad_root):
    write_json(rad_root / "VQA_RAD Dataset Public.json", [rad_record(0, "/etc/passwd")])
    with pytest.raises(DataError, match="row 1: the path \"/etc/passwd\" in 'image_name' does not stay inside"):
        read(rad_root)


@pytest.mark.parametrize(("closed", "counts"), [("answer_type", (272, 179)), ("yes_no", (251, 200))])
def test_the_published_counts(real_data, closed, counts):
    samples = read(real_data / "vqa_rad", closed)
    assert Counter(sample.split for sample in samples) == {"train": 1797, "test": 451}
    types = Counter(sample.answer_type for sample in samples if sample.split == "test")
    assert (types["closed"], types["open"]) == counts


def test_the_real_quirks(real_data):
    samples = {sample.question_id: sample for sample in read(real_data / "vqa_rad")}
    assert len(samples) == 2248
    assert [samples[qid].answer for qid in ("1511", "1568", "1683", "2234", "2235")] == ["4", "2", "2", "12", "12"]
    assert not any("\t" in sample.question + sample.answer for sample in samples.values())
    assert len({sample.question_type for sample in samples.values()}) == 19
    assert len({sample.image_id for sample in samples.values()}) == 314

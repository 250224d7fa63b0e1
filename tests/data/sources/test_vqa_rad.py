"""VQA-RAD: every quirk of its file, both meanings of "closed", and the published counts on the real files."""

from __future__ import annotations

from collections import Counter

import pytest

from medvqa_cli.data.sources.vqa_rad import PLUGIN
from medvqa_cli.errors import DataError, SettingsError
from medvqa_cli.records import VQASample
from tests.data.builders import rad_record, write_json
from tests.data.sources.layouts import build_hub, build_mevf


def read(root, closed="auto", release="auto"):
    return list(PLUGIN.read(PLUGIN.find_root(root), PLUGIN.Options(closed=closed, release=release)))


def describe(root, **options):
    return PLUGIN.describe_closed(PLUGIN.find_root(root), PLUGIN.Options(**options))


@pytest.fixture
def hub_root(tmp_path):
    return build_hub(tmp_path / "hub", {
        "train": [{"image": 10, "question": "is it  normal?", "answer": "Yes"},
                  {"image": 10, "question": "what is it?", "answer": "left\tlung"}],
        "test": [{"image": 20, "question": "is it normal?", "answer": "no"}]}, "flaviagiammarino/vqa-rad")


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
    assert read(rad_root, "answer_type") == read(rad_root)


def test_the_meaning_of_closed_is_told(rad_root, hub_root):
    assert describe(rad_root) == "the data set's own label, answer_type CLOSED (options.closed = answer_type)"
    assert describe(rad_root, closed="answer_type") == describe(rad_root)
    for told in (describe(rad_root, closed="yes_no"), describe(hub_root), describe(hub_root, closed="yes_no")):
        assert told == "the answer is yes or no (options.closed = yes_no)"


def test_the_hub_copy(hub_root):
    samples = read(hub_root)
    assert samples[0] == VQASample(
        dataset="vqa_rad", split="train", question_id="train_1", image_id=samples[0].image_id,
        question="is it normal?", answer="Yes", answer_type="closed",
        images=(f"{hub_root}/images/{samples[0].image_id[:2]}/{samples[0].image_id}.png",))
    assert [(sample.question_id, sample.answer, sample.answer_type) for sample in samples[1:]] == [
        ("train_2", "left lung", "open"), ("test_1", "no", "closed")]
    assert samples[0].image_id == samples[1].image_id != samples[2].image_id
    assert read(hub_root, "yes_no") == samples


def test_the_hub_copy_has_no_label(hub_root):
    for use in (lambda: read(hub_root, "answer_type"), lambda: describe(hub_root, closed="answer_type")):
        with pytest.raises(SettingsError) as failure:
            use()
        assert failure.value.message == (
            "Setting 'data.options.closed' is \"answer_type\", but the hub copy of VQA-RAD has no such label: a "
            "question can only be closed by its answer, yes or no.")
        assert failure.value.hint == ("Use data.options.closed=yes_no, or the original files "
                                      "(https://osf.io/89kps/).")


@pytest.mark.parametrize(("changes", "message"), [
    ({"question": " "}, "'question' should be a text that is not empty, but is \" \"."),
    ({"answer": None}, "'answer' should be a text or a whole number, but is null."),
    ({"image": "images/../../x.png"}, "the path \"images/../../x.png\" in 'image' does not stay inside '{root}'."),
])
def test_a_faulty_row_of_the_hub_copy_is_named(tmp_path, changes, message):
    row = {"image": 10, "question": "is it normal?", "answer": "yes"}
    root = build_hub(tmp_path / "hub", {"train": [row], "test": [row, row | changes]})
    with pytest.raises(DataError) as failure:
        read(root)
    assert failure.value.message == f"{root}/test.jsonl, row 2: {message.format(root=root)}"


@pytest.mark.parametrize("folder", ["", "mevf_split"])
def test_the_mevf_split(rad_root, folder):
    build_mevf(rad_root / folder)
    (rad_root / "VQA_RAD Dataset Public.json").unlink()
    samples = read(rad_root)
    assert [(sample.split, sample.question_id, sample.answer) for sample in samples] == [
        ("train", "1", "Yes"), ("train", "2", "2"), ("test", "3", "MRI")]
    assert [sample.extra["phrase_type"] for sample in samples] == ["freeform", "frame", "para"]
    assert samples[2].images == (f"{rad_root}/VQA_RAD Image Folder/synpic2.jpg",)
    assert [sample.answer_type for sample in samples] == ["closed"] * 3
    assert [sample.answer_type for sample in read(rad_root, "yes_no")] == ["closed", "open", "open"]


def test_pictures_may_lie_in_images(rad_root):
    (rad_root / "VQA_RAD Image Folder").rename(rad_root / "images")
    build_mevf(rad_root)
    assert read(rad_root, release="mevf")[0].images == (f"{rad_root}/images/synpic1.jpg",)


def test_the_release_can_be_chosen(rad_root, hub_root):
    with pytest.raises(SettingsError) as failure:
        read(rad_root, release="mevf")
    assert failure.value.message == (f"Setting 'data.options.release' is \"mevf\", but the annotations in '{rad_root}' "
                                     "are: original.")
    assert failure.value.hint == "Leave it out, or name a folder that holds trainset.json and testset.json."
    with pytest.raises(SettingsError, match="the annotations in '.*' are: hub"):
        read(hub_root, release="original")
    build_mevf(rad_root / "mevf_split")
    assert len(read(rad_root)) == len(read(rad_root, release="original")) == 7
    assert len(read(rad_root, release="mevf")) == 3


def test_a_wrong_layout_says_what_is_missing(tmp_path, rad_root):
    (rad_root / "VQA_RAD Dataset Public.json").unlink()
    with pytest.raises(DataError) as failure:
        PLUGIN.find_root(rad_root)
    assert failure.value.message == (f"'{rad_root}' is not laid out like VQA-RAD: 'VQA_RAD Dataset Public.json' (or "
                                     "'trainset.json' and 'testset.json') is missing.")
    assert "https://osf.io/89kps/" in failure.value.hint
    with pytest.raises(DataError, match=r"json'\) and 'VQA_RAD Image Folder' \(or 'images'\) are missing\."):
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


@pytest.mark.parametrize("qids", [(4, 4), ("0", 0)])
def test_an_id_that_returns_is_named(rad_root, qids):
    path = rad_root / "VQA_RAD Dataset Public.json"
    write_json(path, [rad_record(qid, "synpic1.jpg") for qid in qids])
    with pytest.raises(DataError) as failure:
        read(rad_root)
    assert failure.value.message == f"{path}, row 2: the qid {qids[0]} is that of an earlier question."


def test_an_empty_file_and_a_missing_key_are_named(rad_root):
    path = rad_root / "VQA_RAD Dataset Public.json"
    record = rad_record(0, "synpic1.jpg")
    del record["image_organ"]
    write_json(path, [record])
    with pytest.raises(DataError, match=r"Public\.json, row 1: the key 'image_organ' is missing\."):
        read(rad_root)
    path.write_text("")
    with pytest.raises(DataError, match=r"Public\.json: the file is empty"):
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


def test_the_mevf_counts(real_data):
    if not (real_data / "vqa_rad" / "mevf_split").is_dir():
        pytest.skip("the MEVF re-split is not among the real data")
    samples = read(real_data / "vqa_rad", release="mevf")
    assert Counter(sample.split for sample in samples) == {"train": 3064, "test": 451}

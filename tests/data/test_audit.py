"""The analysis: counts by hand, leakage and duplicates by pixels, faults that block and warnings that do not."""

from __future__ import annotations

import json

import pytest

from medvqa_cli.data.audit import ImageReport, audit_samples, describe_split, inspect_images
from medvqa_cli.data.leakage import find_duplicates, find_leakage
from medvqa_cli.data.selection import filter_language
from medvqa_cli.data.sources.slake import PLUGIN as SLAKE
from medvqa_cli.data.sources.vqa_rad import PLUGIN as VQA_RAD
from tests.data.builders import draw_image, make_sample

HASHES = {"/a.png": "1", "/copy.png": "1", "/b.png": "2", "/c.png": "3"}
IMAGES = ImageReport(HASHES, {})


def audit(splits, images=IMAGES):
    document = audit_samples(splits, images)
    assert json.loads(json.dumps(document)) == document
    return document


def codes(document, kind):
    return [item["code"] for item in document["verdict"][kind]]


def test_a_split_is_counted():
    samples = [make_sample(1, "/a.png", question="Is it a b c?", modality="CT", organ="Lung"),
               make_sample(2, "/a.png", answer="Yes.", modality="CT"),
               make_sample(3, "/b.png", answer="left upper lung", answer_type="open", question_type="Position",
                           language="zh"),
               make_sample(4, "/b.png", answer="")]
    counts = describe_split(samples)
    assert (counts["questions"], counts["images"], counts["empty_answers"]) == (4, 2, 1)
    assert counts["answer_types"] == {"closed": 3, "open": 1}
    assert counts["question_types"] == {"": 3, "Position": 1}
    assert counts["modalities"] == {"CT": 2, "": 2}
    assert counts["organs"] == {"": 3, "Lung": 1}
    assert counts["languages"] == {"en": 3, "zh": 1}
    assert counts["question_words"] == {"mean": 2.75, "max": 5}
    assert counts["answer_words"] == {"mean": 1.25, "max": 3}
    assert counts["closed"] == {"distinct_answers": 2, "frequent_answers": {"yes": 2, "": 1}, "majority_share": 2 / 3}
    assert counts["open"]["frequent_answers"] == {"left upper lung": 1}


def test_an_empty_split_is_counted():
    counts = describe_split([])
    assert (counts["questions"], counts["question_words"]) == (0, {"mean": 0.0, "max": 0})
    assert counts["closed"] == {"distinct_answers": 0, "frequent_answers": {}, "majority_share": None}


def test_leakage_is_found_by_pixels():
    splits = {"train": [make_sample(1, "/a.png", question="What?"), make_sample(2, "/b.png")],
              "test": [make_sample(3, "/copy.png", question="what"), make_sample(4, "/copy.png"),
                       make_sample(5, "/c.png", question="What?")]}
    assert find_leakage(splits, HASHES) == [
        {"splits": ["train", "test"], "images": 2, "shared_images": 1, "questions": 3, "questions_on_shared_images": 2,
         "shared_questions": 1}]
    assert find_leakage(splits, {})[0]["shared_images"] == 0
    document = audit(splits)
    assert codes(document, "warnings")[0] == "shared_images"
    assert document["verdict"]["warnings"][0]["message"] == (
        "1 of 2 images of 'test' are also in 'train'; questions asked there about the same image: 1.")
    assert document["verdict"]["ready"]
    assert document["images"] == {"distinct": 4, "unreadable": {}, "identical": 1}


def test_every_pair_of_splits_is_compared():
    splits = {name: [make_sample(1, "/a.png")] for name in ("train", "validation", "test")}
    assert [pair["splits"] for pair in find_leakage(splits, {})] == [
        ["train", "validation"], ["train", "test"], ["validation", "test"]]
    assert all(pair["shared_images"] == pair["shared_questions"] == 1 for pair in find_leakage(splits, {}))


def test_text_only_questions_share_no_image():
    splits = {"train": [make_sample(1, question="A?")], "test": [make_sample(2, question="A?")]}
    assert find_leakage(splits, {})[0]["shared_questions"] == 0


def test_duplicates_are_counted():
    samples = [make_sample(1, "/a.png", question="A?"), make_sample(2, "/copy.png", question="a"),
               make_sample(3, "/a.png", question="A?", answer="no"), make_sample(4, "/b.png", question="A?")]
    assert find_duplicates(samples, HASHES) == {"same_question": 2, "same_answer": 1}
    assert "duplicates" in codes(audit({"train": samples}), "warnings")


def test_baselines_learn_from_the_training_split():
    train = [make_sample(1, "/a.png", question="A?", answer="yes"),
             make_sample(2, "/a.png", question="B?", answer="no"),
             make_sample(3, "/a.png", question="C?", answer="no"),
             make_sample(4, "/a.png", question="A?", answer="x", answer_type="open")]
    test = [make_sample(5, "/b.png", question="A?", answer="Yes"), make_sample(6, "/b.png", question="D?", answer="no")]
    document = audit({"train": train, "test": test})
    assert document["baselines"] == {"test": {
        "closed": {"questions": 2, "majority": 0.5, "majority_per_question_type": 0.5, "same_question_text": 1.0},
        "open": {"questions": 0, "majority": None, "majority_per_question_type": None, "same_question_text": None}}}
    warnings = {warning["code"]: warning for warning in document["verdict"]["warnings"]}
    assert warnings["question_only"] == {
        "code": "question_only", "value": 1.0, "threshold": 0.6,
        "message": "The question alone, looked up in 'train', answers 100.0% of the closed questions of 'test'."}
    assert warnings["imbalance"]["message"] == "'no' answers 66.7% of the closed questions of 'train'."


def test_balance_at_the_threshold_is_no_warning():
    answers = ["yes"] * 6 + ["no"] * 4
    samples = [make_sample(number, "/a.png", answer=answer) for number, answer in enumerate(answers)]
    assert codes(audit({"train": samples}), "warnings") == []
    samples.append(make_sample(11, "/a.png", answer="yes"))
    assert codes(audit({"train": samples}), "warnings") == ["imbalance"]


GOOD = [make_sample(1, "/a.png")]


@pytest.mark.parametrize(("splits", "images", "code", "message"), [
    ({"train": []}, IMAGES, "no_questions", "There is no question."),
    ({"train": [make_sample(1)]}, IMAGES, "no_images", "No question has an image."),
    ({"train": GOOD}, ImageReport({}, {"/a.png": "The image '/a.png' is missing."}), "unreadable_images",
     "Missing or unreadable images: 1, such as: The image '/a.png' is missing."),
    ({"train": [*GOOD, make_sample(2, "/a.png", question=" ")]}, IMAGES, "empty_questions",
     "Questions without a text: 1, such as: 2"),
    ({"train": [*GOOD, make_sample(7, "/a.png", options=("a", "b"))]}, IMAGES, "answers_outside_options",
     "Questions whose answer is not among their options: 1, such as: 7"),
])
def test_a_fault_blocks(splits, images, code, message):
    document = audit(splits, images)
    assert document["verdict"]["faults"] == [{"code": code, "message": message}]
    assert not document["verdict"]["ready"]


def test_what_is_odd_warns_only():
    document = audit({"exam": [make_sample(1, "/a.png", answer=" "), make_sample(2, "/b.png", options=("Yes", "no"))],
                      "test": []})
    assert document["verdict"]["ready"]
    assert codes(document, "warnings") == ["empty_answers", "empty_split", "no_training_split"]


def test_every_picture_is_decoded_once(tmp_path):
    good, copy, cut = draw_image(tmp_path / "a.png"), draw_image(tmp_path / "b.png"), tmp_path / "c.jpg"
    draw_image(cut, size=(300, 300))
    cut.write_bytes(cut.read_bytes()[:-300])
    samples = [make_sample(1, good), make_sample(2, good), make_sample(3, copy), make_sample(4, cut),
               make_sample(5, tmp_path / "gone.png")]
    report = inspect_images(samples, 100_000)
    assert set(report.hashes) == {str(good), str(copy)}
    assert report.hashes[str(good)] == report.hashes[str(copy)]
    assert report.unreadable[str(tmp_path / "gone.png")] == f"The image '{tmp_path}/gone.png' is missing."
    assert report.unreadable[str(cut)].startswith(f"The image '{cut}' is broken")
    assert audit({"train": samples}, report)["images"]["distinct"] == 4


def by_split(samples):
    return {split: [sample for sample in samples if sample.split == split] for split in ("train", "validation", "test")}


def test_the_real_leakage_of_vqa_rad(real_data):
    samples = by_split(list(VQA_RAD.read(VQA_RAD.find_root(real_data / "vqa_rad"), VQA_RAD.Options())))
    pair = next(pair for pair in find_leakage(samples, {}) if pair["splits"] == ["train", "test"])
    assert (pair["shared_images"], pair["images"], pair["shared_questions"]) == (202, 203, 1)
    assert find_duplicates(samples["train"], {}) == {"same_question": 3, "same_answer": 3}


def test_the_real_leakage_of_slake_across_languages(real_data):
    samples = list(SLAKE.read(SLAKE.find_root(real_data / "slake"), None))
    pairs = {tuple(pair["splits"]): pair for pair in find_leakage(by_split(samples), {})}
    assert (pairs["train", "test"]["shared_images"], pairs["train", "test"]["images"]) == (142, 180)
    english = find_leakage(by_split(filter_language(samples, "en")), {})
    assert [(pair["shared_images"], pair["images"]) for pair in english] == [(0, 96)] * 3

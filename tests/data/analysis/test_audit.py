"""The analysis as one document, made in one pass."""

from __future__ import annotations

import json

from medvqa_cli.data.analysis.audit import ImageReport, audit_samples, inspect_images
from tests.data.builders import draw_image, make_sample

HASHES = {"/a.png": "1", "/copy.png": "1", "/b.png": "2", "/c.png": "3"}
LOOKS = {"/a.png": "5" * 64, "/copy.png": "5" * 64, "/b.png": "5" * 63 + "4", "/c.png": "a" * 32 + "5" * 32}
IMAGES = ImageReport(HASHES, {"/gone.png": "The image '/gone.png' is missing."}, LOOKS)


def audit(splits, images=IMAGES):
    document = audit_samples(splits, images)
    assert json.loads(json.dumps(document)) == document
    return document


def test_baselines_learn_from_the_training_split():
    train = [make_sample(1, "/a.png", question="A?", answer="yes"),
             make_sample(2, "/a.png", question="B?", answer="no"),
             make_sample(3, "/a.png", question="C?", answer="no"),
             make_sample(4, "/a.png", question="A?", answer="x", answer_type="open")]
    test = [make_sample(5, "/b.png", question="A?", answer="Yes"), make_sample(6, "/b.png", question="D?", answer="no")]
    expected = {"test": {
        "closed": {"questions": 2, "majority": 0.5, "majority_per_question_type": 0.5, "same_question_text": 1.0},
        "open": {"questions": 0, "majority": None, "majority_per_question_type": None, "same_question_text": None}}}
    assert audit({"train": train, "test": test})["baselines"] == expected
    assert audit({"test": test, "train": train})["baselines"] == expected
    assert audit({"exam": test})["baselines"]["exam"]["closed"] == expected["test"]["closed"] | {
        "majority": None, "majority_per_question_type": None, "same_question_text": None}


def test_images_are_described():
    document = audit({"train": [make_sample(1, "/a.png"), make_sample(2, "/b.png")],
                      "test": [make_sample(3, "/copy.png"), make_sample(4, "/c.png")]})
    assert document["images"] == {
        "distinct": 5, "unreadable": {"/gone.png": "The image '/gone.png' is missing."}, "identical": 1, "texts": {},
        "near": {"max_distance": 24, "of_bits": 256, "pairs": 1, "distances": {"1": 1},
                 "splits": {"train": 2, "test": 0},
                 "examples": [{"images": ["/a.png", "/b.png"], "distance": 1,
                               "splits": [["train", "test"], ["train"]]}]}}
    assert document["leakage"][0]["splits"] == ["train", "test"]
    assert document["duplicates"] == {split: {"same_question": 0, "same_answer": 0} for split in ("train", "test")}


def test_samples_may_come_one_by_one():
    splits = {"train": [make_sample(1, "/a.png"), make_sample(2, "/b.png", answer="no")],
              "test": [make_sample(3, "/copy.png"), make_sample(4, "/c.png", answer_type="open")]}
    assert audit({split: iter(samples) for split, samples in splits.items()}) == audit(splits)


def test_the_same_samples_give_the_same_document_in_any_order():
    samples = [make_sample(n, f"/{name}.png", answer=("yes", "no")[n % 2]) for n, name in enumerate("abcabc")]
    one, other = audit({"train": samples}), audit({"train": samples[::-1]})
    assert one["images"] == other["images"]
    assert one["splits"]["train"]["closed"]["majority_share"] == 0.5
    assert one["verdict"] == other["verdict"]


def test_pictures_on_disk_are_analysed(tmp_path):
    one, other = draw_image(tmp_path / "a.png"), draw_image(tmp_path / "b.png")
    samples = {"train": [make_sample(1, one)], "test": [make_sample(1, other), make_sample(2, tmp_path / "gone.png")]}
    report = inspect_images([sample for part in samples.values() for sample in part], 10**6)
    document = audit(samples, report)
    assert document["images"]["distinct"] == 3
    assert document["images"]["identical"] == 1
    assert document["leakage"][0]["shared_images"] == document["leakage"][0]["shared_questions"] == 1
    assert not document["verdict"]["ready"]

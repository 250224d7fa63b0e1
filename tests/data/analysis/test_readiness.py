"""What blocks, what warns at which threshold, what an analysis covers."""

from __future__ import annotations

import pytest

from medvqa_cli.data.analysis.audit import ImageReport, audit_samples
from medvqa_cli.data.analysis.leakage import compare_datasets
from medvqa_cli.data.analysis.readiness import CHECKS, covers, summarize_warnings
from tests.data.builders import make_sample

IMAGES = ImageReport({"/a.png": "1", "/copy.png": "1", "/b.png": "2", "/c.png": "3"},
                     {}, {"/b.png": "5" * 64, "/c.png": "5" * 63 + "4"})


def audit(splits, images=IMAGES, **options):
    return audit_samples(splits, images, **options)


def codes(document, kind="warnings"):
    return [item["code"] for item in document["verdict"][kind]]


def warnings_of(document):
    return {item["code"]: item for item in document["verdict"]["warnings"]}


def answer(answers, **changes):
    return [make_sample(number, "/a.png", answer=text, **changes) for number, text in enumerate(answers)]


GOOD = [make_sample(1, "/a.png")]


@pytest.mark.parametrize(("splits", "images", "code", "message"), [
    ({"train": []}, IMAGES, "no_questions", "There is no question."),
    ({}, IMAGES, "no_questions", "There is no question."),
    ({"train": [make_sample(1)]}, IMAGES, "no_images",
     "No question has an image (if that is meant, set data.text_only)."),
    ({"train": GOOD}, ImageReport({}, {"/a.png": "The image '/a.png' is missing."}), "unreadable_images",
     "Missing or unreadable images: 1, such as: The image '/a.png' is missing."),
    ({"train": [*GOOD, make_sample(2, "/a.png", question=" "), make_sample(3, "/a.png", question="\t")]}, IMAGES,
     "empty_questions", "Questions without a text: 2, such as: 2"),
    ({"train": [*GOOD, make_sample(7, "/a.png", options=("a", "b"))]}, IMAGES, "answers_outside_options",
     "Questions whose answer is not among their options: 1, such as: 7"),
])
def test_a_fault_blocks(splits, images, code, message):
    document = audit(splits, images)
    assert document["verdict"]["faults"] == [{"code": code, "message": message}]
    assert not document["verdict"]["ready"]


def test_a_data_set_of_text_alone_passes_where_it_is_meant_to_be_one():
    splits = {"train": [make_sample(1), make_sample(2, answer="no")]}
    assert codes(audit(splits), "faults") == ["no_images"]
    document = audit(splits, text_only=True)
    assert document["verdict"]["ready"]
    assert "without_image" not in codes(document)
    assert not audit({"train": []}, text_only=True)["verdict"]["ready"]


def test_what_is_odd_warns_only():
    document = audit({"exam": [make_sample(1, "/a.png", answer=" "), make_sample(2, options=("YES", "no")),
                               make_sample(3, "/a.png", answer="No.")],
                      "test": []})
    assert document["verdict"]["ready"]
    assert codes(document) == ["answer_type", "empty_answers", "without_image", "empty_split", "no_training_split"]
    found = warnings_of(document)
    assert found["without_image"]["message"] == "1 of 3 questions of 'exam' have no image."
    assert found["no_training_split"]["message"] == "There is no split 'train' to train on."


def test_leakage_warns():
    document = audit({"train": [make_sample(1, "/a.png"), make_sample(2, "/b.png", answer="no")],
                      "test": [make_sample(1, "/copy.png"), make_sample(3, "/c.png", answer="no")]})
    found = warnings_of(document)
    assert found["shared_images"] == {
        "code": "shared_images", "value": 1, "threshold": 0,
        "message": "1 of 2 images of 'test' are also in 'train'; questions asked there about the same image: 1."}
    assert found["near_images"]["message"] == (
        "1 of 2 images of 'test' look almost like one in 'train': copies, or neighbouring slices of one scan.")
    assert document["verdict"]["ready"]


def test_what_another_data_set_shares_warns():
    ours = {"train": answer(["yes", "no"]),
            "test": [make_sample(3, "/copy.png"), make_sample(4, "/c.png", answer="no")]}
    other = compare_datasets(ours, {"all": [make_sample(9, "/a.png"), make_sample(8, "/b.png")]}, IMAGES, IMAGES, "rad")
    messages = [item["message"] for item in audit(ours, against=[other])["verdict"]["warnings"]
                if item["code"] in ("shared_with_other", "near_other")]
    assert messages == [
        "1 of 1 images of 'train' are also in 'rad': a model that has seen 'rad' has seen them.",
        "1 of 2 images of 'test' are also in 'rad': a model that has seen 'rad' has seen them.",
        "1 of 2 images of 'test' look almost like one in 'rad'."]


@pytest.mark.parametrize(("yes", "no", "expected"), [
    (6, 4, []), (61, 39, ["imbalance"]), (7, 3, ["imbalance"]), (71, 29, ["imbalance", "positive_share"]),
    (4, 6, []), (3, 7, ["imbalance"]), (29, 71, ["imbalance", "positive_share"])])
def test_balance_is_judged_at_its_thresholds(yes, no, expected):
    samples = answer(["yes"] * yes + ["no"] * no) + answer(["a", "b", "c"] * 20, answer_type="open")
    document = audit({"train": samples})
    assert [code for code in codes(document) if code in ("imbalance", "positive_share")] == expected


def test_a_bias_is_told_with_its_value_and_threshold():
    found = warnings_of(audit({"train": answer(["yes"] * 4 + ["no"])}))
    assert found["imbalance"] == {"code": "imbalance", "message": "'yes' answers 80 % of the closed questions of "
                                                                  "'train'.", "value": 0.8, "threshold": 0.6}
    assert found["positive_share"] == {"code": "positive_share", "value": 0.8, "threshold": [0.3, 0.7],
                                       "message": "'yes' answers 80 % of the 5 yes/no questions of 'train'."}


@pytest.mark.parametrize(("closed", "is_skewed"), [(4, False), (5, True)])
def test_one_kind_of_question_alone_warns(closed, is_skewed):
    samples = answer(["yes", "no", "yes", "no", "no"][:closed]) + answer(["a"], answer_type="open")
    found = warnings_of(audit({"train": samples}))
    assert ("answer_type" in found) == is_skewed
    if is_skewed:
        assert found["answer_type"]["message"] == "83 % of the questions of 'train' are closed."


@pytest.mark.parametrize(("places", "expected"), [
    ("abcab", None), ("aaaba", None),
    ("abcaa", "Option 1 is right in 60 % of the questions with options of 'train'.")])
def test_a_favoured_place_among_three_or_more_options_warns(places, expected):
    samples = [make_sample(number, "/a.png", answer=place, options=("a", "b", "c"))
               for number, place in enumerate(places)]
    assert warnings_of(audit({"train": samples})).get("option_place", {}).get("message") == expected


def test_questions_that_give_their_answer_away_warn():
    train = [make_sample(1, "/a.png", question="A?"), make_sample(2, "/a.png", question="B?", answer="no")]
    test = [make_sample(3, "/b.png", question="A?"), make_sample(4, "/b.png", question="B?", answer="no")]
    assert warnings_of(audit({"train": train, "test": test}))["question_only"] == {
        "code": "question_only", "value": 1.0, "threshold": 0.6,
        "message": "The question alone, looked up in 'train', answers 100 % of the closed questions of 'test'."}


@pytest.mark.parametrize(("total", "warns"), [(100, False), (99, True)])
def test_repeated_questions_warn_above_one_in_a_hundred(total, warns):
    samples = [make_sample(number, "/a.png") for number in range(total - 1)]
    samples.append(make_sample(total, "/a.png", question="Question 1?"))
    assert ("duplicates" in codes(audit({"train": samples}))) == warns


def test_text_in_pictures_warns():
    images = ImageReport({"/a.png": "1"}, texts={"/a.png": "'/a.png' is an ultrasound picture."})
    assert warnings_of(audit({"train": GOOD}, images))["burned_in_text"]["message"] == (
        "Images that may have text in their pixels: 1, such as: '/a.png' is an ultrasound picture.")


def test_every_warning_has_its_check():
    assert audit({"train": GOOD})["verdict"]["checks"] == CHECKS


EVERYTHING = {"language": "all", "question_type": "all", "limit": None, "subsample": None}


@pytest.mark.parametrize(("analysed", "wanted", "expected"), [
    ({}, {"language": "en", "question_type": "closed", "limit": 5, "subsample": 3}, True),
    ({"language": "en"}, {"language": "en"}, True),
    ({"language": "en"}, {"language": "zh"}, False),
    ({"language": "en"}, {}, False),
    ({"question_type": "open"}, {"question_type": "closed"}, False),
    ({"question_type": "open"}, {"question_type": "open", "language": "en"}, True),
    ({"limit": 5}, {"limit": 5}, False),
    ({"subsample": 5}, {"subsample": 5}, False),
])
def test_an_analysis_covers_what_it_includes(analysed, wanted, expected):
    assert covers(EVERYTHING | analysed, EVERYTHING | wanted) == expected


def test_warnings_travel_as_lines():
    document = audit({"train": answer(["yes"] * 4 + ["no"])}) | {"selection": EVERYTHING}
    lines = ["'yes' answers 80 % of the closed questions of 'train'.",
             "'yes' answers 80 % of the 5 yes/no questions of 'train'.",
             "100 % of the questions of 'train' are closed."]
    assert summarize_warnings(document) == lines
    assert summarize_warnings(document, EVERYTHING) == lines
    assert summarize_warnings(document, EVERYTHING | {"language": "en"}) == [
        *lines, "This was found among more questions than are used: language 'all'."]
    clean = audit({"train": [make_sample(1, "/a.png"), make_sample(2, "/b.png", answer="no"),
                             make_sample(3, "/b.png", answer="lung", answer_type="open")]}) | {"selection": EVERYTHING}
    assert summarize_warnings(clean, EVERYTHING | {"language": "en"}) == []
    assert summarize_warnings(audit({})) == ["There is no question.", "There is no split 'train' to train on."]

"""Which questions are shown, and that each picture is in the page once."""

from __future__ import annotations

import base64

import pytest

from medvqa_cli.records import Prediction, VQASample
from medvqa_cli.reporting.gallery import Entry, build_gallery, choose_entries


def make_entry(number: int, outcome: str, picture: str = "a.png", **fields) -> Entry:
    sample = VQASample(dataset="d", split="test", question_id=f"q{number}", image_id="i", answer_type="closed",
                       question=f"Question {number}?", answer="yes", images=(picture,) if picture else (),
                       modality="CT", **fields)
    return Entry(Prediction(sample=sample, answer="no"), outcome, 0.123456, "share", (("Blank images", "yes"),))


def make_entries(right: int, wrong: int) -> list[Entry]:
    return [make_entry(number, "wrong" if number < wrong else "right") for number in range(right + wrong)]


def count(entries, outcome: str) -> int:
    return sum(entry.outcome == outcome for entry in entries)


@pytest.mark.parametrize(("right", "wrong", "limit", "shown_wrong"), [
    (50, 30, 100, 30),   # all fit
    (500, 400, 100, 60),  # wrong ones get their 60 %
    (500, 20, 100, 20),   # few wrong ones are all there
    (10, 400, 100, 90),   # few right ones leave their room
    (0, 400, 100, 100),
])
def test_wrong_answers_come_first_but_not_alone(right, wrong, limit, shown_wrong):
    shown = choose_entries(make_entries(right, wrong), limit)
    assert len(shown) == min(limit, right + wrong)
    assert count(shown, "wrong") == shown_wrong


def test_choice_keeps_the_order_and_depends_on_ids_only():
    entries = make_entries(300, 200)
    shown = [entry.prediction.sample.question_id for entry in choose_entries(entries, 50)]
    assert shown == sorted(shown, key=lambda name: int(name[1:]))
    again = choose_entries(entries[::-1], 50)
    assert {entry.prediction.sample.question_id for entry in again} == set(shown)
    kept = {int(name[1:]) for name in shown if int(name[1:]) >= 200}
    assert max(kept) - min(kept) > 150  # drawn evenly, not from the start


def test_each_picture_is_embedded_once():
    entries = [make_entry(number, "right", picture)
               for number, picture in enumerate(("a.png", "a.png", "b.png", "c.png", ""))]
    gallery = build_gallery(entries, entries, {"a.png": b"\xff\xd8jpeg", "b.png": b"\x89PNG\r\n"})
    assert gallery.pictures == {"p0": "data:image/jpeg;base64," + base64.b64encode(b"\xff\xd8jpeg").decode(),
                                "p1": "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n").decode()}
    assert [question["picture"] for question in gallery.questions] == ["p0", "p0", "p1", "", ""]
    assert [question["absent"] for question in gallery.questions[3:]] == ["The picture could not be read.",
                                                                         "This question has no picture."]


def test_question_carries_what_a_card_shows():
    gallery = build_gallery([make_entry(7, "wrong", question_type="side", organ="lung")], [], {})
    question = gallery.questions[0]
    assert question | {"absent": ""} == {
        "id": "q7", "question": "Question 7?", "gold": "yes", "answer": "no", "others": [["Blank images", "yes"]],
        "outcome": "wrong", "confidence": 0.1235, "basis": "share", "type": "side", "kind": "closed", "modality": "CT",
        "organ": "lung", "language": "en", "tags": ["side", "closed", "CT", "lung"], "picture": "", "absent": "",
        "alt": "CT i"}


def test_only_filters_that_tell_apart_are_offered():
    entries = [make_entry(0, "right", question_type="side"), make_entry(1, "wrong", question_type="count")]
    assert build_gallery(entries, entries, {}).filters == {"outcome": ("Outcome", ["right", "wrong"]),
                                                           "type": ("Question type", ["count", "side"])}


def test_a_picture_without_room_is_said():
    entries = [make_entry(0, "right", "a.png"), make_entry(1, "right", "b.png"), make_entry(2, "wrong", "b.png")]
    gallery = build_gallery(entries, entries, {"a.png": b"\xff\xd8jpeg", "b.png": b""})
    assert list(gallery.pictures) == ["p0"]
    assert [question["absent"] for question in gallery.questions[1:]] == ["Left out: the page would be too large."] * 2
    assert gallery.shown == ("All 3 questions are here. 2 of them are without their picture: the page would be too "
                             "large.")


def test_page_says_what_is_shown():
    entries = make_entries(500, 400)
    assert build_gallery(choose_entries(entries, 100), entries, {}).shown == (
        "Here are 100 of 900 questions: 60 of 400 wrong, 40 of 500 right, drawn by their id. Wrong answers are "
        "over-represented on purpose, so do not read a rate off this list.")
    assert build_gallery(entries, entries, {}).shown == "All 900 questions are here."

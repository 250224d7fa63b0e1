"""Closed questions are routed by their text; the gold answer is out of reach."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvqa_cli.errors import DataError
from medvqa_cli.inference.routing import MAX_CANDIDATES, MAX_VOCABULARY, CandidateRouter, is_polar
from medvqa_cli.inference.vocabulary import Vocabulary, build_vocabulary, read_vocabulary, write_vocabulary
from medvqa_cli.records import VQASample

ANSWERS = {"en": {"yes": 9, "No": 8, "Yes": 3, "Lung": 7, "Heart": 5, "heart": 1, "Right Lung": 2,
                  "In the bowels": 1, "T1": 1, "T2": 1, "Transverse Plane": 1},
           "zh": {"不是": 5, "肺": 3, "T1": 2, "没有": 1}}
VOCABULARY = Vocabulary("d", "train", "f", ANSWERS)


def ask(question: str, **fields) -> VQASample:
    return VQASample(**{"dataset": "d", "split": "test", "question_id": "1", "image_id": "1", "question": question,
                        "answer": "the gold", "answer_type": "closed", **fields})


def route(question: str, mode="auto", vocabulary=VOCABULARY, **fields):
    offer = CandidateRouter(vocabulary, mode).route(ask(question, **fields))
    return offer.route, [list(forms) for forms in offer.options]


@pytest.mark.parametrize(("question", "expected"), [
    ("Is there a mass?", ("yesno", [["yes"], ["No"]])),
    ("Is it abnormal (yes or no)?", ("yesno", [["yes"], ["No"]])),
    ("Normal, yes or no?", ("yesno", [["yes"], ["No"]])),
    ("Which is bigger, lung or heart?", ("options", [["Lung"], ["Heart"]])),
    ("Which is bigger, heart or right lung?", ("options", [["Heart"], ["Right Lung"]])),
    ("Is this T1 weighted or T2 weighted MRI?", ("options", [["T1", "T1 weighted", "T1 weighted MRI"],
                                                            ["T2", "T2 weighted", "T2 weighted MRI"]])),
    ("Is it in the bowels or the vasculature?", ("options", [["In the bowels"], ["vasculature"]])),
    ("Is there a mass or a cyst?", ("options", [["mass"], ["cyst"], ["yes"], ["No"]])),
    ("Which is bigger, lung or lung?", ("vocab", None)),
    ("Which plane is shown?", ("vocab", None)),
])
def test_each_question_takes_its_route(question, expected):
    found = route(question)
    assert found[0] == expected[0]
    assert expected[1] is None or found == expected


def test_the_vocabulary_offers_answers_that_share_words_first_and_no_yes():
    options = [forms[0] for forms in route("Which plane is shown?")[1]]
    assert options[:3] == ["Transverse Plane", "Lung", "Heart"]
    assert not {"yes", "No", "heart"} & set(options)
    many = Vocabulary("d", "train", "f", {"en": {f"answer {n}": 1 for n in range(80)}})
    assert len(route("Which?", vocabulary=many)[1]) == MAX_VOCABULARY


def test_chinese_questions_are_answered_with_their_own_verb():
    assert route("图片中包含肝脏吗?", language="zh") == ("yesno", [["包含", "包括", "是的"],
                                                                    ["不包含", "不包括", "不是"]])
    assert route("这是t1还是t2?", language="zh") == ("options", [["T1"], ["t2"]])
    assert route("图中肺和肝脏哪个更大?", language="zh") == ("options", [["肺"], ["肝脏"]])
    assert route("图片中包含哪些疾病?", language="zh") == ("vocab", [["肺"], ["T1"], ["没有"]])


@pytest.mark.parametrize(("mode", "question", "expected"), [
    ("yesno", "Which is bigger, lung or heart?", ("yesno", [["yes"], ["No"]])),
    ("options", "Which is bigger, lung or heart?", ("options", [["Lung"], ["Heart"]])),
    ("options", "Is there a mass?", ("none", [])),
])
def test_a_mode_forces_its_route(mode, question, expected):
    assert route(question, mode) == expected


def test_mode_vocab_offers_all_answers_each_once():
    kind, options = route("Is there a mass?", "vocab")
    assert kind == "vocab"
    assert {forms[0] for forms in options} == set(ANSWERS["en"]) - {"heart", "Yes"}


def test_without_a_vocabulary_yes_and_no_remain_and_nothing_else_is_invented():
    assert route("Is it?", vocabulary=Vocabulary()) == ("yesno", [["Yes"], ["No"]])
    assert route("Which one?", vocabulary=Vocabulary()) == ("none", [])


def test_options_that_the_data_set_lists_are_taken_as_they_are():
    assert route("Which?", options=("a lung", "b", "b")) == ("options", [["a lung"], ["b"]])
    assert route("Is it?", options=("yes", "no")) == ("yesno", [["yes"], ["no"]])
    assert route("Is it?", options=("only",))[0] == "yesno"


class Sealed(str):
    """A text that must not be read."""

    def _refuse(self, *args, **kwargs):
        raise AssertionError("the gold answer was read")

    __eq__ = __hash__ = __iter__ = __len__ = __contains__ = __getitem__ = __str__ = _refuse
    lower = casefold = split = strip = encode = _refuse


@pytest.mark.parametrize("mode", ["auto", "yesno", "options", "vocab"])
@pytest.mark.parametrize("question", ["Is there a mass?", "Lung or heart?", "Which plane?", "图中有肿块吗?"])
def test_the_gold_answer_is_never_read(mode, question):
    router = CandidateRouter(VOCABULARY, mode)
    sealed = ask(question)
    object.__setattr__(sealed, "answer", Sealed("Heart"))
    object.__setattr__(sealed, "alternatives", Sealed("x"))
    assert router.route(sealed) == router.route(ask(question, answer="other", answer_type="open"))


WORDS = st.sampled_from(["Is", "Which", "the", "left", "right", "lung", "heart", "or", ",", "/", "in", "Lung", "lungs",
                         "T1", "还是", "和", "哪个", "肺", "a", "with", "non", "vs", "?", "there"])


@given(st.lists(WORDS, max_size=14).map(" ".join))
def test_no_form_stands_twice_and_short_choices_stay_short(question):
    offer = CandidateRouter(VOCABULARY).route(ask(question))
    assert len(offer.candidates) == len(set(offer.candidates))
    assert len(offer.options) != 1 or offer.route == "vocab"
    if len(offer.options) <= MAX_CANDIDATES and offer.route in ("yesno", "options"):
        assert len(offer.candidates) <= MAX_CANDIDATES
    assert (offer.route == "none") == (not offer.options)


@pytest.mark.parametrize(("answer", "expected"), [("Yes.", True), ("no", True), ("包含", True), ("Normal", False)])
def test_polar_answers(answer, expected):
    assert is_polar(answer) is expected


def test_a_vocabulary_holds_closed_answers_by_language_the_frequent_ones_first(tmp_path):
    samples = [ask("?", answer=answer) for answer in ("Lung", "Heart", "Heart", " two\tparts ", "  ")]
    samples += [ask("?", answer="肺", language="zh"), ask("?", answer="open one", answer_type="open")]
    made = build_vocabulary(samples, dataset="d", split="train", fingerprint="abc")
    assert list(made.list_answers("en").items()) == [("Heart", 2), ("Lung", 1), ("two parts", 1)]
    assert made.list_answers("zh") == {"肺": 1}
    assert made.list_answers("fr") == {}
    write_vocabulary(tmp_path / "v.json", made)
    assert read_vocabulary(tmp_path / "v.json") == made
    assert made.describe() == {"dataset": "d", "split": "train", "fingerprint": "abc", "answers": 4,
                               "hash": made.describe()["hash"]}
    assert replace(made, answers={"en": {"Heart": 3}}).describe()["hash"] != made.describe()["hash"]


@pytest.mark.parametrize(("content", "fault"), [
    ("{", "Expecting property name"), ("[]", 'it has no "format": 1'), ({"format": 9}, 'it has no "format": 1'),
    ({"format": 1, "dataset": 3}, '"dataset" should be a text, but is 3'),
    ({"format": 1, "dataset": "d", "split": "s", "fingerprint": "f", "answers": {"en": ["Yes"]}},
     '"answers" should hold, for each language, answers and their numbers'),
    ({"format": 1, "dataset": "d", "split": "s", "fingerprint": "f", "answers": {"en": {"Yes": 0}}},
     "the answer 'Yes' should have a whole number above 0, but has 0"),
])
def test_another_file_is_no_vocabulary(tmp_path, content, fault):
    path = tmp_path / "v.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_vocabulary(path)
    assert str(path) in caught.value.message
    assert fault in caught.value.message
    assert "leave out --closed-vocab" in caught.value.hint


def test_a_missing_vocabulary_file_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_vocabulary(tmp_path / "none.json")

"""Named ways to make texts comparable, against the rules their sources state."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvqa_cli.errors import SettingsError
from medvqa_cli.scoring.answers import is_closed_correct, match_exactly, normalize_answer, score_tokens
from medvqa_cli.scoring.profiles import (
    LLAVA_MED,
    MEDVQA,
    PROFILES,
    SQUAD,
    VQA,
    find_profile,
    name_key,
    normalize_squad,
    normalize_vqa,
)

TEXTS = st.text(alphabet="aAnteh'.,;-!?1 9éß\n", max_size=30)


@pytest.mark.parametrize(("text", "wanted"), [
    ("The left lung.", "left lung"), ("Two nodules", "2 nodules"), ("none", "0"), ("an X-ray", "x ray"),
    ("x- ray", "x ray"), ("1,000 cells!", "1000 cells"), ("2.5 cm.", "2.5 cm"), ("dont know", "don't know"),
    ("couldntve couldnt've", "couldntve couldn't've"), ("CT/MRI", "ct mri"), ("CT / MRI", "ct mri"), ("A", ""),
    ("left\nlung", "left lung"),
])
def test_rules_of_the_vqa_challenge(text, wanted):
    """Worked out by hand from the challenge's rules."""
    assert normalize_vqa(text) == wanted


@given(TEXTS)
def test_squad_is_lower_case_words_without_marks_and_articles(text):
    """Take the same steps letter by letter: drop marks, part words, drop the articles."""
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    assert normalize_squad(text).split() == [word for word in kept.split() if word not in ("a", "an", "the")]


def test_profiles_differ_where_they_say_so():
    assert [score_tokens("the left lung", ["a left lung"], profile).f1 for profile in (MEDVQA, VQA, SQUAD)] == [
        pytest.approx(2 / 3), 1.0, 1.0]
    assert match_exactly("two", ["2"], VQA)
    assert not match_exactly("two", ["2"], SQUAD)
    assert match_exactly("x-ray", ["xray"], SQUAD)
    assert not match_exactly("x-ray", ["xray"], LLAVA_MED)
    assert MEDVQA.normalize is normalize_answer


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_traps_hold_under_every_profile(profile):
    assert is_closed_correct("Yes, there is a nodule", "yes", profile=profile)
    assert not is_closed_correct("The image is normal", "no", profile=profile)
    for text in ("Normal chest x-ray", "not sure", "I don't know"):
        assert not is_closed_correct(text, "yes", profile=profile)
        assert not is_closed_correct(text, "no", profile=profile)
    assert is_closed_correct("Left.", "left", profile=profile)
    assert not match_exactly("a", ["ct scan of abdomen"], profile)
    assert not match_exactly("not a ct; an mri", ["ct"], profile)
    assert match_exactly("lung, liver", ["Liver, lung"], profile)
    assert match_exactly("angiomyolipoma", ["aml (angiomyolipoma)", "aml", "angiomyolipoma"], profile)
    assert match_exactly("\u80ba\u90e8", ["\u80ba\u90e8"], profile)
    assert not match_exactly("\u6b63\u5e38", ["\u662f"], profile)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_what_a_profile_drops_wholly_is_no_joker(profile):
    assert not match_exactly("", ["A"], profile)
    assert not match_exactly("the", ["a"], profile)
    assert not match_exactly("...", ["A"], profile)
    assert match_exactly("a", ["A"], profile)


def test_an_unknown_profile_is_one_error():
    with pytest.raises(SettingsError) as caught:
        find_profile("bert")
    assert caught.value.message == "There is no text profile 'bert'."
    assert caught.value.hint == "Choose one of: medvqa, vqa, llava-med, squad."


def test_keys_say_their_profile():
    assert name_key("token_f1", "squad") == "token_f1@squad"

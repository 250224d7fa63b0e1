import pytest

from medvqa_cli.scoring.generic import is_generic


@pytest.mark.parametrize("answer", [
    "Image", "a scan", "This is an X-ray.", "the picture", "Unknown", "not sure", "I don't know",
    "I don\u2019t know what it is", "N/A", "cannot be determined", "I cannot tell from this image",
    "Unable to determine", "I'm not sure", "Sorry, no."])
def test_what_fits_every_question_is_generic(answer):
    assert is_generic(answer, ("left lung",))


@pytest.mark.parametrize("answer", [
    "left lung", "chest x-ray", "ct scan", "", "no", "not seen", "unknown mass in the liver", "none",
    "image of a liver"])
def test_what_says_something_is_not(answer):
    assert not is_generic(answer, ("left lung",))


def test_a_gold_answer_is_never_generic():
    assert not is_generic("X-Ray", ("x-ray",))
    assert is_generic("X-Ray", ("ct",))

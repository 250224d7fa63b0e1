import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvqa_cli.data.controls import drop_images, rotate_options, shows_order, shuffle_images
from medvqa_cli.data.prompts import build_turns
from medvqa_cli.errors import DataError
from medvqa_cli.records import Box, VQASample
from medvqa_cli.settings.data import PromptSettings

PROMPT = PromptSettings()


def ask(number: int, image: str, *, modality: str = "CT", **values) -> VQASample:
    return VQASample(**{"dataset": "d", "split": "test", "question_id": str(number), "image_id": image,
                        "question": "What is shown?", "answer": "lung", "answer_type": "open",
                        "images": (f"/{image}.png",), "modality": modality} | values)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=40).filter(lambda ids: len(set(ids)) > 1), st.integers(0, 99))
def test_each_image_gives_way_to_another_one_and_none_is_left_over(ids, seed):
    samples = [ask(number, f"i{image}") for number, image in enumerate(ids)]
    shuffled, others = shuffle_images(samples, seed)
    given_to = {}
    for before, after in zip(samples, shuffled, strict=True):
        assert after.images != before.images
        assert (after.question_id, after.image_id) == (before.question_id, before.image_id)
        assert given_to.setdefault(before.images, after.images) == after.images
    assert set(given_to.values()) == set(given_to)
    assert others == 0


def test_the_order_of_the_samples_does_not_matter_and_the_seed_does():
    samples = [ask(number, f"i{number}") for number in range(12)]
    one = {s.question_id: s.images for s in shuffle_images(samples, 3).samples}
    assert one == {s.question_id: s.images for s in shuffle_images(samples[::-1], 3).samples}
    assert one != {s.question_id: s.images for s in shuffle_images(samples, 4).samples}


def test_within_a_modality_only_what_stands_alone_gets_another_ones():
    samples = [ask(n, f"i{n}", modality=m) for n, m in enumerate(["CT", "MRI", "CT", "MRI", "CT", "X-ray"])]
    shuffled, others = shuffle_images(samples, 0, same_modality=True)
    modality = {s.images: s.modality for s in samples}
    assert [modality[s.images] == s.modality for s in shuffled] == [True] * 5 + [False]
    assert others == 1
    assert shuffle_images(samples, 0).other_modality > 1


def test_two_ids_of_one_file_do_not_stand_for_each_other():
    samples = [ask(0, "a"), ask(1, "b", images=("/a.png",)), ask(2, "c")]
    shown = {s.image_id: s.images for s in shuffle_images(samples, 1).samples}
    assert shown["a"] == shown["b"] == ("/c.png",)


def test_what_lies_on_the_own_image_is_taken_away():
    boxed = [ask(n, f"i{n}", boxes=(Box("lung", 0, 0, 2, 2),), masks=("/m.png",)) for n in range(2)]
    for sample in (*shuffle_images(boxed, 0).samples, *drop_images(boxed)):
        assert (sample.boxes, sample.masks) == ((), ())
    assert drop_images(boxed)[0].images == ()


def test_one_image_alone_cannot_be_shuffled():
    with pytest.raises(DataError, match="Image 'a' has no other image of 'd/test' to give way to"):
        shuffle_images([ask(0, "a"), ask(1, "a")], 0)
    text = ask(0, "a", images=())
    assert shuffle_images([text], 0).samples == [text]


def test_options_are_moved_on_where_the_prompt_shows_them():
    four = ask(0, "a", options=("liver", "lung", "heart", "spleen"))
    two = ask(1, "a", options=("yes", "no"), question="Is it a lung?")
    named = ask(2, "a", options=("lung", "liver"), question="Is it lung or liver?")
    three = ask(3, "a", options=("liver", "lung", "heart"))
    assert [shows_order(s, PROMPT) for s in (four, two, named, three)] == [True, False, False, True]
    moved = rotate_options([four, three], 2, PROMPT)
    assert [s.options for s in moved] == [("heart", "spleen", "liver", "lung"), ("heart", "liver", "lung")]
    assert [s.question_id for s in rotate_options([four, three], 3, PROMPT)] == ["0"]
    assert "A) heart" in build_turns(moved[0], PROMPT)[-1].text

"""Varied training pictures: small changes, the same for the same picture and epoch, and left stays left."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from medvqa_cli.data.augmentation import SIDES, Augmentation, Variation, apply_variation, find_sided
from medvqa_cli.records import Box, VQASample
from medvqa_cli.settings.augmentation import AugmentSettings

LIGHT = AugmentSettings(mode="light")
SAMPLE = VQASample(dataset="d", split="train", question_id="q", image_id="i", question="Is there a nodule?",
                   answer="yes", answer_type="closed", images=("a.png",))


def draw_spot(width=80, height=60, x=20, y=15) -> Image.Image:
    """A bright spot left of the middle and above it, on a dark ground."""
    pixels = np.full((height, width, 3), 20, dtype=np.uint8)
    pixels[y - 3: y + 4, x - 3: x + 4] = 220
    return Image.fromarray(pixels)


def find_spot(picture: Image.Image) -> tuple[float, float]:
    levels = np.asarray(picture.convert("L"), dtype=float)
    rows, columns = np.nonzero(levels > levels.max() * 0.7)
    return columns.mean(), rows.mean()


def test_no_variation_changes_nothing():
    picture = draw_spot()
    assert np.array_equal(np.asarray(apply_variation(picture, Variation())), np.asarray(picture))


@pytest.mark.parametrize(("variation", "place"), [
    (Variation(shift_x=0.1, shift_y=0.2), (28, 27)),
    (Variation(scale=1.5), (10.25, 7.75)),
    (Variation(flips=True), (59, 15)),
])
def test_geometry_moves_a_spot_to_where_it_belongs(variation, place):
    assert find_spot(apply_variation(draw_spot(), variation)) == pytest.approx(place, abs=0.6)


def test_a_positive_angle_turns_counter_clockwise():
    picture = draw_spot(80, 80, 60, 40)
    x, y = find_spot(apply_variation(picture, Variation(angle=30.0)))
    turned = find_spot(picture.rotate(30.0, Image.Resampling.BICUBIC))
    assert (x, y) == pytest.approx(turned, abs=0.3)
    assert y < 40, "up is a smaller row"


def test_levels_change_as_said():
    grey = Image.new("RGB", (400, 300), (100, 100, 100))
    level = 100 / 255
    for variation, wanted in ((Variation(brightness=0.1), level + 0.1), (Variation(gamma=1.2), level ** 1.2),
                              (Variation(contrast=0.5), level)):
        assert np.asarray(apply_variation(grey, variation)).mean() / 255 == pytest.approx(wanted, abs=0.003)
    halves = np.asarray(apply_variation(draw_spot(), Variation(contrast=0.5)), dtype=float)
    assert np.ptp(halves) == pytest.approx(100, abs=1.5), "200 levels apart before"
    noisy = np.asarray(apply_variation(grey, Variation(noise=0.02, noise_seed=1)), dtype=float)
    assert noisy[..., 0].std() / 255 == pytest.approx(0.02, rel=0.05)
    assert np.array_equal(noisy[..., 0], noisy[..., 1]), "grey stays grey"


def test_light_keeps_the_size_the_sides_and_almost_all_of_the_picture():
    picture = draw_spot()
    augmentation = Augmentation(LIGHT, 42)
    seen = [augmentation.vary(picture, "a.png", epoch) for epoch in range(60)]
    for varied in seen:
        x, y = find_spot(varied)
        assert varied.size == picture.size
        assert x < 30, "left of the middle stays left"
        assert y < 25
    drawn = [augmentation.draw(picture, "a.png", epoch) for epoch in range(300)]
    assert not any(one.flips for one in drawn)
    assert max(abs(one.angle) for one in drawn) == pytest.approx(5.0, abs=0.2)
    assert max(one.scale for one in drawn) == pytest.approx(1.05, abs=0.005)
    assert len({one.angle for one in drawn}) == 300


def test_what_comes_into_view_continues_the_border():
    white = Image.new("RGB", (50, 40), (240, 240, 240))
    varied = np.asarray(apply_variation(white, Variation(angle=20.0, scale=0.7, shift_x=0.2)))
    assert varied.min() == 240


def test_a_variation_depends_on_seed_epoch_and_pixels_alone():
    picture, other = draw_spot(), draw_spot(x=50)
    one = Augmentation(LIGHT, 1)
    assert one.draw(picture, "a.png", 3) == Augmentation(LIGHT, 1).draw(picture.copy(), "elsewhere/b.png", 3)
    different = [one.draw(picture, "a.png", 4), Augmentation(LIGHT, 2).draw(picture, "a.png", 3),
                 one.draw(other, "a.png", 3)]
    assert all(one.draw(picture, "a.png", 3) != drawn for drawn in different)


def test_a_flip_is_drawn_for_every_second_epoch_and_never_for_a_sided_picture():
    mirror = AugmentSettings(mode="light", flip="horizontal")
    picture = draw_spot()
    free, bound = (Augmentation(mirror, 42, sided) for sided in (frozenset(), frozenset({"a.png"})))
    flips = [free.draw(picture, "a.png", epoch).flips for epoch in range(200)]
    assert 70 < sum(flips) < 130
    assert not any(bound.draw(picture, "a.png", epoch).flips for epoch in range(200))
    others = [dataclasses.replace(free.draw(picture, "a.png", epoch), flips=False) for epoch in range(9)]
    assert others == [bound.draw(picture, "a.png", epoch) for epoch in range(9)], "the flip changes nothing else"


@pytest.mark.parametrize("change", [
    {"question": "Is there a nodule in the left lung?"}, {"answer": "Right"}, {"options": ("left", "both")},
    {"question": "Where is the nodule?"}, {"answer": "upper-left quadrant"}, {"question": "病变在哪里？"},  # noqa: RUF001
    {"answer": "左肺"}, {"context": ("right-sided aorta",)}, {"history": (("Which side?", "both"),)},
    {"alternatives": ("RUL",)}, {"answer": "bilateral"}, {"question": "Is this a lateral view?"},
    {"boxes": (Box(label="nodule", x1=1, y1=1, x2=9, y2=9),)}, {"masks": ("m.png",)},
    {"answer": "L"}, {"question": "Is there dextrocardia?"}, {"answer": "left-sided"}, {"answer": "hemithorax"},
])
def test_one_sided_question_keeps_its_picture_unflipped(change):
    other = dataclasses.replace(SAMPLE, images=("b.png",))
    sided = dataclasses.replace(SAMPLE, question_id="q2", **change)
    assert find_sided([SAMPLE, sided, other]) == {"a.png"}


@pytest.mark.parametrize("text", ["Is there a nodule?", "Which modality is this?", "liver", "MRI",
                                  "Is the heart enlarged?", "这是什么模态？", "What is the largest organ?"])  # noqa: RUF001
def test_other_texts_name_no_side(text):
    assert SIDES.search(text) is None
    assert find_sided([dataclasses.replace(SAMPLE, question=text)]) == frozenset()


def test_settings_out_of_range_are_refused():
    for values in ({"rotation": 60.0}, {"zoom": 1.0}, {"noise": -0.1}, {"flip": "vertical"}):
        with pytest.raises(ValidationError):
            AugmentSettings(**values)

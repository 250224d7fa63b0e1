"""Filters, seeded draws that do not depend on order, splits that keep a picture's questions together."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvqa_cli.data.selection import draw_subsample, filter_answer_type, filter_language, split_by_image
from tests.data.builders import make_sample

SAMPLES = [make_sample(number, language="zh" if number % 3 == 0 else "en",
                       answer_type="open" if number % 2 else "closed") for number in range(12)]


def ids(samples):
    return [int(sample.question_id) for sample in samples]


def test_filters_keep_order():
    assert ids(filter_language(SAMPLES, "zh")) == [0, 3, 6, 9]
    assert ids(filter_language(SAMPLES, "all")) == ids(filter_language(SAMPLES, "")) == list(range(12))
    assert filter_language(SAMPLES, "de") == []
    assert ids(filter_answer_type(SAMPLES, "open")) == [1, 3, 5, 7, 9, 11]
    assert ids(filter_answer_type(SAMPLES, "all")) == list(range(12))


@given(st.randoms(use_true_random=False), st.integers(0, 12), st.integers(0, 5))
def test_a_draw_does_not_depend_on_order(chance, size, seed):
    shuffled = random.Random(chance.random()).sample(SAMPLES, len(SAMPLES))
    drawn = draw_subsample(shuffled, size, seed)
    assert sorted(ids(drawn)) == sorted(ids(draw_subsample(SAMPLES, size, seed)))
    assert drawn == [sample for sample in shuffled if sample in drawn]
    assert len(drawn) == size
    assert set(ids(draw_subsample(SAMPLES, max(size - 1, 0), seed))) <= set(ids(drawn))


def test_a_draw_is_random_and_seeded():
    draws = {tuple(ids(draw_subsample(SAMPLES, 4, seed))) for seed in range(50)}
    assert len(draws) > 40
    counts = [sum(number in ids(draw_subsample(SAMPLES, 6, seed)) for seed in range(400)) for number in range(12)]
    assert min(counts) > 150  # 200 expected of each, standard deviation 10
    assert max(counts) < 250


def test_a_draw_stays_what_it_is():
    assert ids(draw_subsample(SAMPLES, 4, 42)) == [0, 2, 7, 8]


FRACTIONS = {"train": 0.6, "validation": 0.2, "test": 0.2}


def by_image(number_of_images, per_image):
    return [make_sample(number, f"/p/{number % number_of_images}.png", image_id=f"i{number % number_of_images}")
            for number in range(number_of_images * per_image)]


@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 9))
def test_no_picture_stands_in_two_parts(number_of_images, per_image, seed):
    samples = by_image(number_of_images, per_image)
    parts = split_by_image(samples, FRACTIONS, seed)
    assert sorted(number for part in parts.values() for number in ids(part)) == list(range(len(samples)))
    pictures = {part: {sample.image_id for sample in members} for part, members in parts.items()}
    assert sum(map(len, pictures.values())) == number_of_images
    for part, fraction in FRACTIONS.items():
        assert abs(len(pictures[part]) - fraction * number_of_images) <= 1
    again = split_by_image(samples[::-1], FRACTIONS, seed)
    assert {part: sorted(ids(members)) for part, members in again.items()} == {
        part: sorted(ids(members)) for part, members in parts.items()}


def test_samples_that_share_a_file_stay_together():
    samples = [make_sample(0, "/p/a.png", image_id="x"), make_sample(1, "/p/a.png", image_id="y"),
               make_sample(2, "/p/b.png", image_id="y"), make_sample(3, image_id="x"), make_sample(4, image_id="z")]
    for seed in range(20):
        parts = split_by_image(samples, {"a": 0.5, "b": 0.5}, seed)
        assert sorted(sorted(ids(members)) for members in parts.values()) == [[0, 1, 2, 3], [4]]


def test_the_split_does_not_depend_on_where_the_files_lie():
    here = [make_sample(number, f"/a/{number}.png") for number in range(20)]
    there = [make_sample(number, f"/z/{99 - number}.png") for number in range(20)]
    parts = [split_by_image(samples, FRACTIONS, 1) for samples in (here, there)]
    assert [ids(part) for part in parts[0].values()] == [ids(part) for part in parts[1].values()]


@pytest.mark.parametrize("fractions", [{"a": 0.5}, {"a": 1.5, "b": -0.5}])
def test_fractions_sum_to_one(fractions):
    with pytest.raises(ValueError, match="fractions must be at least 0 and sum to 1"):
        split_by_image(SAMPLES, fractions, 0)

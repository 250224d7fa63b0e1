"""Equal and near-equal pictures: the hash against what is done to a picture, the search against all pairs."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from medvqa_cli.data.analysis import image_hashes
from medvqa_cli.data.analysis.image_hashes import BITS, MAX_DISTANCE, find_near_pairs, hash_look, hash_pixels
from medvqa_cli.data.images import hash_image, read_image


def draw_scan(seed, size=(300, 240)):
    """A picture of smooth blobs, another for each seed."""
    noise = np.random.default_rng(seed).random((9, 9)) * 200
    return Image.fromarray(noise.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC).convert("RGB")


def save_as_jpeg(image):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=40)
    return Image.open(stream).convert("RGB")


def measure_distance(first, second):
    return (int(first, 16) ^ int(second, 16)).bit_count()


CHANGES = {
    "jpeg": save_as_jpeg,
    "small": lambda image: image.resize((120, 96)),
    "bright": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_near(change):
    image = draw_scan(1)
    assert hash_pixels(CHANGES[change](image)) != hash_pixels(image)
    assert measure_distance(hash_look(image), hash_look(CHANGES[change](image))) <= MAX_DISTANCE


def test_other_pictures_are_far():
    looks = [hash_look(draw_scan(seed)) for seed in range(30)]
    assert min(measure_distance(a, b) for a in looks for b in looks if a != b) > 60


def test_half_of_the_bits_are_set():
    look = hash_look(draw_scan(1))
    assert len(look) == BITS // 4
    assert int(look, 16).bit_count() == BITS // 2


def test_a_mirrored_picture_is_another():
    image = draw_scan(1)
    assert measure_distance(hash_look(image), hash_look(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))) > 60


@pytest.mark.parametrize("shade", [0, 90, 255])
def test_a_picture_of_one_shade_looks_like_nothing(shade):
    assert hash_look(Image.new("RGB", (50, 40), (shade, shade, shade))) == ""


def test_the_hash_is_that_of_a_plain_cosine_transform():
    """Written out as in the textbook, without matrices."""
    image = draw_scan(3, (64, 64))
    levels = np.asarray(image.convert("L"), float)
    places = 2 * np.arange(64) + 1
    strengths = [(levels * np.outer(np.cos(np.pi * u * places / 128), np.cos(np.pi * v * places / 128))).sum()
                 for u in range(16) for v in range(16)]
    bits = "".join("1" if strength > np.median(strengths) else "0" for strength in strengths)
    assert hash_look(image) == f"{int(bits, 2):064x}"


def test_the_pixel_hash_is_that_of_the_file(tmp_path):
    draw_scan(1).save(tmp_path / "a.png")
    assert hash_pixels(read_image(tmp_path / "a.png")) == hash_image(tmp_path / "a.png")


def flip(look, places):
    number = int(look, 16)
    for place in places:
        number ^= 1 << place
    return f"{number:064x}"


def list_pairs(looks, max_distance):
    found = [(min(a, b), max(a, b), distance) for first, second, distances in find_near_pairs(looks, max_distance)
             for a, b, distance in zip(first.tolist(), second.tolist(), distances.tolist(), strict=True)]
    assert len(found) == len(set(found))
    return sorted(found)


def compare_all(looks, max_distance):
    return sorted((a, b, distance) for a in range(len(looks)) for b in range(a + 1, len(looks))
                  if (distance := measure_distance(looks[a], looks[b])) <= max_distance)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 2**BITS - 1), min_size=1, max_size=4, unique=True),
       st.lists(st.sets(st.integers(0, BITS - 1), max_size=34), max_size=12), st.integers(0, 31))
def test_the_search_finds_what_comparing_all_finds(bases, changes, max_distance):
    looks = [f"{base:064x}" for base in bases]
    looks += [flip(looks[number % len(bases)], places) for number, places in enumerate(changes)]
    looks = list(dict.fromkeys(looks))
    assert list_pairs(looks, max_distance) == compare_all(looks, max_distance)


@pytest.mark.parametrize("has_counter", [True, False])
def test_the_search_is_exact_in_small_chunks_and_without_numpy_2(monkeypatch, has_counter):
    draw = random.Random(0)
    bases = [f"{draw.getrandbits(BITS):064x}" for _ in range(20)]
    looks = list(dict.fromkeys(flip(draw.choice(bases), draw.sample(range(BITS), draw.randint(0, 16)))
                               for _ in range(300)))
    monkeypatch.setattr(image_hashes, "_CHUNK", 7)
    if not has_counter:
        monkeypatch.delattr(np, "bitwise_count", raising=False)
    expected = compare_all(looks, MAX_DISTANCE)
    assert len(expected) > 500
    assert list_pairs(looks, MAX_DISTANCE) == expected


@pytest.mark.parametrize("looks", [[], ["0" * 64]])
def test_nothing_to_compare(looks):
    assert list_pairs(looks, MAX_DISTANCE) == []


@pytest.mark.parametrize("distance", [-1, 32])
def test_a_distance_the_search_would_miss_is_refused(distance):
    with pytest.raises(ValueError, match=f"max_distance should be in 0-31, not {distance}"):
        next(find_near_pairs(["0" * 64], distance))

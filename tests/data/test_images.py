"""The decoder: every kind of picture becomes upright 8-bit RGB, every bad file one error that names it."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medvqa_cli.data.images import check_image, hash_image, make_thumbnail, read_image
from medvqa_cli.errors import DataError
from tests.data.builders import draw_image


def save(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (40, 20), "black")
    image.paste("white", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side: turn 90 degrees clockwise
    upright = read_image(save(tmp_path / "a.jpg", image, exif=exif, quality=95))
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 5))[0] > 200
    assert upright.getpixel((10, 35))[0] < 50


def test_transparency_is_laid_on_white(tmp_path):
    layered = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    layered.putpixel((1, 0), (0, 0, 0, 0))
    for name, image in {"rgba.png": layered, "la.png": layered.convert("LA")}.items():
        assert read_image(save(tmp_path / name, image)).getpixel((1, 0)) == (255, 255, 255)
    assert read_image(tmp_path / "rgba.png").getpixel((0, 0)) == (255, 0, 0)
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([9, 9, 9])
    assert read_image(save(tmp_path / "p.png", palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_deep_grey_is_stretched(tmp_path, name):
    levels = np.array([[1000, 2000, 3000], [3000, 4000, 5000]], dtype=np.uint16)
    image = read_image(save(tmp_path / name, Image.fromarray(levels)))
    assert np.array_equal(np.asarray(image)[..., 0], [[0, 64, 128], [128, 191, 255]])
    assert image.mode == "RGB"


def test_float_and_flat_pictures(tmp_path):
    levels = np.array([[-1.0, np.nan], [1.0, 0.0]], dtype=np.float32)
    image = read_image(save(tmp_path / "float.tif", Image.fromarray(levels)))
    assert np.asarray(image)[..., 0].tolist() == [[0, 128], [255, 128]]
    flat = read_image(save(tmp_path / "flat.tif", Image.fromarray(np.full((2, 2), 7, np.uint16))))
    assert flat.getextrema() == ((0, 0),) * 3


@pytest.mark.parametrize(("mode", "name"), [("L", "a.png"), ("1", "a.png"), ("P", "a.png"), ("CMYK", "a.jpg"),
                                            ("YCbCr", "a.jpg"), ("L", "a.tif"), ("RGB", "a.bmp"), ("RGB", "a.webp")])
def test_every_mode_becomes_rgb(tmp_path, mode, name):
    image = read_image(save(tmp_path / name, Image.new("RGB", (8, 8), "white").convert(mode)))
    assert (image.mode, image.size) == ("RGB", (8, 8))
    assert min(image.getpixel((4, 4))) > 240


def test_a_picture_with_too_many_pixels_is_refused_before_decoding(tmp_path):
    path = draw_image(tmp_path / "a.png", size=(100, 50))
    assert read_image(path, 5000).size == (100, 50)
    for refuse in (read_image, check_image):
        with pytest.raises(DataError) as failure:
            refuse(path, 4999)
        assert failure.value.message == f"The image '{path}' has 100 x 50 pixels; at most 4,999 are allowed."
        assert failure.value.hint == "Make it smaller, or raise data.max_pixels."


def test_a_decompression_bomb_is_refused_without_a_warning(tmp_path, recwarn):
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match="is too large to decode safely"):
        read_image(path)
    medium = tmp_path / "medium.png"
    Image.new("1", (10_000, 10_000)).save(medium)
    with pytest.raises(DataError, match="has 10000 x 10000 pixels; at most 64,000,000 are allowed"):
        read_image(medium)
    assert not recwarn.list


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    whole = draw_image(folder / "whole.jpg", size=(200, 200)).read_bytes()
    contents = {"text.png": b"no picture", "empty.png": b"", "cut.jpg": whole[:-200]}
    for kind in ("TIFF", "GIF", "BMP", "WEBP"):
        stream = io.BytesIO()
        Image.radial_gradient("L").save(stream, kind)
        contents[f"cut.{kind.lower()}"] = stream.getvalue()[:-100]
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.png").mkdir()
    return {name: (folder / name, message) for name, message in {
        "text.png": "The file '{}' is not an image of a known kind (PNG, JPEG, TIFF, BMP, GIF, WEBP, DICOM).",
        "empty.png": "The file '{}' is not an image of a known kind (PNG, JPEG, TIFF, BMP, GIF, WEBP, DICOM).",
        "cut.jpg": "The image '{}' is broken: ",
        "cut.tiff": "The image '{}' is broken: ",
        "cut.gif": "The image '{}' is broken: ",
        "cut.bmp": "The image '{}' is broken: ",
        "cut.webp": "The ",
        "missing.png": "The image '{}' is missing.",
        "folder.png": "The image '{}' is a folder.",
    }.items()}


def test_a_bad_file_is_named(tmp_path):
    for path, message in bad_files(tmp_path).values():
        for read in (read_image, hash_image):
            with pytest.raises(DataError) as failure:
                read(path)
            assert failure.value.message.startswith(message.format(path)), failure.value.message


def test_the_cheap_check_finds_what_is_cut_off(tmp_path):
    for path, message in bad_files(tmp_path).values():
        with pytest.raises(DataError) as failure:
            check_image(path)
        assert failure.value.message.startswith(message.format(path))
    damaged = draw_image(tmp_path / "damaged.png", size=(50, 50))
    content = bytearray(damaged.read_bytes())
    content[-20] ^= 0xFF
    damaged.write_bytes(content)
    with pytest.raises(DataError, match="is broken"):
        check_image(damaged)


def test_the_check_names_the_format(tmp_path):
    for name, kind in {"a.png": "PNG", "a.jpg": "JPEG", "a.tif": "TIFF", "a.gif": "GIF", "a.webp": "WEBP",
                       "a.bmp": "BMP"}.items():
        assert check_image(save(tmp_path / name, Image.radial_gradient("L"))) == kind
    assert check_image((tmp_path / "a.png").rename(tmp_path / "b.jpg")) == "PNG"


def test_every_cut_of_a_jpeg_is_found_and_no_whole_one_is_refused(tmp_path):
    picture = Image.effect_noise((64, 64), 80)
    plain, progressive, thumbnail = tmp_path / "plain.jpg", tmp_path / "progressive.jpg", tmp_path / "thumbnail.jpg"
    picture.save(plain)
    picture.save(progressive, progressive=True)
    inner = plain.read_bytes()
    marker = b"\xff\xe1" + (len(inner) + 2).to_bytes(2) + inner  # a picture in its header, as cameras write it
    thumbnail.write_bytes(inner[:2] + marker + inner[2:])
    for path in (plain, progressive, thumbnail):
        whole = path.read_bytes()
        for extra in (b"", b"\0" * 1000, b"\xff\xda" + b"maker's notes" * 10):
            path.write_bytes(whole + extra)
            assert check_image(path) == "JPEG"
        start = whole.rfind(b"\xff\xda")
        for cut in (start + 20, (start + len(whole)) // 2, len(whole) - 300):
            path.write_bytes(whole[:cut])
            with pytest.raises(DataError, match="is broken: image file is truncated"):
                check_image(path)


def test_files_of_no_bearable_kind_are_refused_unread(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    path = draw_image(tmp_path / "a.png")
    monkeypatch.setattr("medvqa_cli.data.images.MAX_BYTES", path.stat().st_size - 1)
    for work in (read_image, check_image):
        with pytest.raises(DataError, match=r"The image '.*pipe\.png' is no regular file\."):
            work(tmp_path / "pipe.png")
        with pytest.raises(DataError, match=r"a\.png' has 7[0-9] bytes; at most 7[0-9] are allowed\."):
            work(path)


def test_a_window_has_a_width(tmp_path):
    for width in (0.5, 0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="the width of a window is at least 1, not"):
            read_image(draw_image(tmp_path / "a.png"), window=(0.0, width))


def test_an_image_path_with_a_nul_byte_is_named():
    with pytest.raises(DataError, match="is broken: embedded null byte"):
        read_image("a\0b.png")


PICTURES = {}
for kind in ("PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP"):
    stream = io.BytesIO()
    Image.radial_gradient("L").resize((16, 16)).save(stream, kind)
    PICTURES[kind] = stream.getvalue()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(PICTURES)), st.data())
def test_no_damage_brings_down_the_decoder(tmp_path_factory, kind, data):
    content = bytearray(PICTURES[kind])
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=6)):
        content[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    mode, fault = "", ""
    try:
        mode = read_image(path, max_pixels=1_000_000).mode
    except DataError as error:
        fault = error.message
    assert mode == "RGB" or str(path) in fault


def test_thumbnails_are_small_jpegs(tmp_path):
    path = draw_image(tmp_path / "a.png", 200, size=(300, 100))
    thumbnail = Image.open(io.BytesIO(make_thumbnail(path, 60)))
    assert (thumbnail.format, thumbnail.size) == ("JPEG", (60, 20))
    assert abs(thumbnail.getpixel((30, 10))[0] - 200) < 3


def test_equal_pixels_have_equal_hashes(tmp_path):
    image = Image.radial_gradient("L")
    first = hash_image(save(tmp_path / "a.png", image))
    assert hash_image(save(tmp_path / "b.tif", image)) == first
    assert hash_image(save(tmp_path / "c.png", image.resize((128, 512)))) != first
    image.putpixel((0, 0), 0)
    assert hash_image(save(tmp_path / "d.png", image)) != first
    flat = Image.new("L", (4, 2)), Image.new("L", (2, 4))
    assert hash_image(save(tmp_path / "e.png", flat[0])) != hash_image(save(tmp_path / "f.png", flat[1]))

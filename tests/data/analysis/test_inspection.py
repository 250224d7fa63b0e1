"""Every picture is decoded once, what is wrong with it is kept, and nothing is decoded anew without need."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from medvqa_cli.data.analysis import inspection
from medvqa_cli.data.analysis.image_hashes import hash_look
from medvqa_cli.data.analysis.inspection import inspect_images
from medvqa_cli.data.images import hash_image
from medvqa_cli.errors import MissingDependencyError, RunError
from tests.data.builders import draw_image, make_sample


@pytest.fixture
def pictures(tmp_path):
    """Two equal pictures, another one, one cut off, one that is not there."""
    good, copy, other = (draw_image(tmp_path / name) for name in ("a.png", "b.png", "c.png"))
    Image.linear_gradient("L").save(other)
    cut = draw_image(tmp_path / "d.jpg", size=(300, 300))
    cut.write_bytes(cut.read_bytes()[:-300])
    return [good, copy, other, cut, tmp_path / "gone.png"]


@pytest.fixture
def decoded(monkeypatch):
    """The paths decoded, in any order."""
    paths = []
    read = inspection.read_image
    monkeypatch.setattr(inspection, "read_image", lambda path, max_pixels: paths.append(path) or read(path, max_pixels))
    return paths


def ask(paths):
    return [make_sample(number, path) for number, path in enumerate([*paths, *paths])]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_picture_is_decoded_once(pictures, decoded, workers):
    good, copy, other, cut, gone = map(str, pictures)
    report = inspect_images(ask(pictures), 100_000, workers=workers)
    assert sorted(decoded) == sorted(map(str, pictures))
    assert report.hashes == {path: hash_image(path) for path in (good, copy, other)}
    assert report.looks == {other: hash_look(Image.open(other))}
    assert set(report.unreadable) == {cut, gone}
    assert report.unreadable[gone] == f"The image '{gone}' is missing."
    assert cut in report.unreadable[cut]
    assert report.texts == {}


def test_samples_may_come_one_by_one(pictures):
    assert len(inspect_images((sample for sample in ask(pictures)), 100_000).hashes) == 3


def test_burned_in_text_is_asked_for(pictures):
    report = inspect_images(ask(pictures), 100_000, find_text=lambda path: "A name." if path.endswith("a.png") else "")
    assert report.texts == {str(pictures[0]): "A name."}


def test_a_missing_package_is_no_fault_of_the_picture(pictures):
    def fail(path):
        raise MissingDependencyError("DICOM", "pydicom", "dicom")

    with pytest.raises(MissingDependencyError):
        inspect_images(ask(pictures), 100_000, find_text=fail)


def test_what_was_found_is_kept(pictures, decoded, tmp_path):
    cache = tmp_path / "kept" / "images.jsonl"
    first = inspect_images(ask(pictures), 100_000, cache=cache)
    decoded.clear()
    assert inspect_images(ask(pictures), 100_000, cache=cache) == first
    assert sorted(decoded) == sorted(map(str, pictures[3:]))
    Image.linear_gradient("L").rotate(90).save(pictures[0])
    draw_image(pictures[4])
    decoded.clear()
    mended = inspect_images(ask(pictures), 100_000, cache=cache)
    assert sorted(decoded) == sorted(map(str, [pictures[0], *pictures[3:]]))
    assert mended == inspect_images(ask(pictures), 100_000)
    assert mended.hashes[str(pictures[0])] != first.hashes[str(pictures[0])]


def test_what_is_kept_counts_only_where_it_answers_the_question(pictures, decoded, tmp_path, monkeypatch):
    cache = tmp_path / "images.jsonl"
    inspect_images(ask(pictures[:3]), 100_000, cache=cache)
    decoded.clear()
    assert len(inspect_images(ask(pictures[:3]), 1000, cache=cache).unreadable) == 1
    assert decoded == [str(pictures[2])]
    decoded.clear()
    assert inspect_images(ask(pictures[:3]), 100_000, cache=cache, find_text=lambda path: "A name.").texts
    assert len(decoded) == 3
    decoded.clear()
    inspect_images(ask(pictures[:3]), 100_000, cache=cache, find_text=lambda path: "A name.")
    assert decoded == []
    monkeypatch.setattr(inspection, "VERSION", inspection.VERSION + 1)
    inspect_images(ask(pictures[:3]), 100_000, cache=cache)
    assert len(decoded) == 3


def test_an_interruption_loses_nothing(pictures, decoded, tmp_path):
    class Impatient:
        def __getattr__(self, name):
            return lambda *args, **kwargs: None

        def advance(self, steps=1, note=""):
            raise KeyboardInterrupt

    cache = tmp_path / "images.jsonl"
    with pytest.raises(KeyboardInterrupt):
        inspect_images(ask(pictures), 100_000, Impatient(), cache=cache, workers=1)
    with cache.open("a") as stream:
        stream.write('{"version": 1, "fi')
    kept = json.loads(cache.read_text().splitlines()[0])
    decoded.clear()
    inspect_images(ask(pictures), 100_000, cache=cache)
    assert kept["file"][0] not in decoded
    assert len(decoded) == 4


@pytest.mark.parametrize("line", ['{"version": 1}', '{"version": 1, "file": 3, "area": 1}', "[]", "{"])
def test_a_damaged_cache_is_one_clear_error(pictures, tmp_path, line):
    cache = tmp_path / "images.jsonl"
    cache.write_text(line + "\n")
    with pytest.raises(RunError, match="images.jsonl") as caught:
        inspect_images(ask(pictures), 100_000, cache=cache)
    assert "elete" in caught.value.hint or "found list" in caught.value.message

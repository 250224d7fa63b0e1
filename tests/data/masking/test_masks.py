"""Masks: regions drawn by hand, crops computed by hand, every kind of mask file, and all pictures of SLAKE."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from medvqa_cli.data.images import read_image
from medvqa_cli.data.masking import files as mask_files
from medvqa_cli.data.masking.files import MaskFiles, find_labels, find_mask, read_class_map, read_labels
from medvqa_cli.data.masking.masks import apply_masks, check_hit_rate, warn_hit_rate
from medvqa_cli.data.masking.regions import BoxSet, choose_labels, find_window, is_disease, is_named, shift_boxes
from medvqa_cli.data.sources.slake import PLUGIN
from medvqa_cli.errors import DataError
from medvqa_cli.records import Box
from medvqa_cli.settings.data import MaskSettings
from tests.data.builders import make_sample

LABELS = "10:Liver\n20:Left Kidney\n25:Right Kidney\n30:Liver Cancer\n"


def save_array(path: Path, values, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values))
    (image.convert(mode) if mode else image).save(path)
    return path


@pytest.fixture
def picture(tmp_path):
    """A picture of 20 x 10 pixels, each with a colour of its own, none of them black."""
    rows, columns = np.mgrid[1:11, 1:21]
    return save_array(tmp_path / "set" / "imgs" / "a" / "source.png",
                      np.stack([rows * 20, columns * 10, rows + columns], axis=-1).astype(np.uint8))


@pytest.fixture
def mask(picture):
    """Liver at x 4-7, y 2-3; liver cancer at x 6-7, y 3; left kidney at x 17-19, y 8-9."""
    values = np.zeros((10, 20), np.uint8)
    values[2:4, 4:8] = 10
    values[3, 6:8] = 30
    values[8:10, 17:20] = 20
    (picture.parents[2] / "mask.txt").write_text(LABELS, encoding="utf-8")
    return save_array(picture.with_name("mask.png"), values)


def run(samples, folder, **settings):
    return apply_masks(samples, MaskSettings(**{"mode": "crop"} | settings), folder)


def pixels(path) -> np.ndarray:
    return np.asarray(read_image(path))


@pytest.mark.parametrize(("question", "pad_ratio", "window"), [
    ("the liver", 0.0, (4, 2, 8, 4)),
    ("the liver", 0.5, (2, 1, 10, 5)),
    ("the liver", 0.1, (3, 1, 9, 5)),  # 0.4 and 0.2 pixels of margin are rounded outwards
    ("the liver", 1.0, (0, 0, 12, 6)),
    ("the left kidney", 1.0, (14, 6, 20, 10)),  # clipped at two edges
    ("nothing", 0.0, (4, 2, 20, 10)),
])
def test_a_crop_is_the_padded_box_around_the_region(tmp_path, picture, mask, question, pad_ratio, window):
    sample = make_sample(0, picture, masks=(str(mask),), question=f"Where is {question}?")
    masked = run([sample], tmp_path / "out", classes="question", pad_ratio=pad_ratio)
    left, top, right, bottom = window
    assert np.array_equal(pixels(masked.samples[0].images[0]), pixels(picture)[top:bottom, left:right])
    assert masked.report["kept_area"] == (right - left) * (bottom - top) / 200
    assert masked.report["fallbacks"] == (question == "nothing")


def test_outside_the_region_is_black(tmp_path, picture, mask):
    sample = make_sample(0, picture, masks=(str(mask),), boxes=(Box("Liver", 0, 0, 2, 2),), modality="CT")
    masked = run([sample], tmp_path / "out", mode="masked")
    result, inside = pixels(masked.samples[0].images[0]), np.asarray(Image.open(mask)) > 0
    assert np.array_equal(result[inside], pixels(picture)[inside])
    assert not result[~inside].any()
    assert masked.report["modalities"] == {"CT": {"questions": 1, "hits": 1, "hit_rate": 1.0, "kept_area": 14 / 200}}
    assert (masked.samples[0].masks, masked.samples[0].boxes) == (sample.masks, sample.boxes)
    assert masked.samples[0].image_id == sample.image_id


def test_grey_pictures_come_back_as_they_were(tmp_path):
    path = save_array(tmp_path / "a.png", np.arange(200, dtype=np.uint8).reshape(10, 20))
    masked = run([make_sample(0, path, boxes=(Box("x", 5, 5, 15, 9),))], tmp_path / "out", pad_ratio=0.0)
    assert np.array_equal(pixels(masked.samples[0].images[0]), pixels(path)[5:9, 5:15])


def test_boxes_cover_every_pixel_they_touch_and_move_with_the_crop(tmp_path, picture):
    boxes = (Box("Nodule", 3.2, 1.5, 6.1, 4.0), Box("Mass", 12, -5, 14, 2), Box("Mass", 99, 0, 120, 5))
    region = BoxSet(boxes).draw({"Nodule"}, (20, 10))
    assert np.argwhere(region).min(axis=0).tolist() == [1, 3]
    assert np.argwhere(region).max(axis=0).tolist() == [3, 6]
    sample = make_sample(0, picture, boxes=boxes, question="Where is the nodule?")
    (cropped,) = run([sample], tmp_path / "out", classes="question", pad_ratio=0.0).samples
    assert read_image(cropped.images[0]).size == (4, 3)
    assert cropped.boxes == (Box("Nodule", pytest.approx(0.2), 0.5, pytest.approx(3.1), 3.0),)
    assert BoxSet(boxes).draw({"Mass"}, (20, 10)).sum() == 4


def test_a_box_that_is_not_finite_is_refused(tmp_path, picture):
    with pytest.raises(DataError, match="A side of the box of 'Mass' is not finite: 0, 0, inf, 4"):
        run([make_sample(0, picture, boxes=(Box("Mass", 0, 0, float("inf"), 4),))], tmp_path / "out")


def test_a_picture_without_a_region_stays_as_it_is(tmp_path, picture):
    empty = save_array(picture.with_name("empty.png"), np.zeros((10, 20), np.uint8))
    samples = [make_sample(0, picture, masks=(str(empty),), boxes=(Box("Mass", 5, 5, 5, 9),)), make_sample(1),
               make_sample(2, picture)]
    masked = run(samples, tmp_path / "out", debug=3)
    assert masked.samples == samples
    assert {key: masked.report[key] for key in ("questions", "hits", "hit_rate", "kept_area", "sources")} == {
        "questions": 2, "hits": 0, "hit_rate": 0.0, "kept_area": None, "sources": {}}
    assert not (tmp_path / "out").exists()


def test_sources_are_tried_in_order(tmp_path, picture, mask):
    legacy = save_array(picture.parent / "masks" / "source.png", np.eye(10, 20, dtype=np.uint8) * 255)
    empty = save_array(picture.with_name("empty.png"), np.zeros((10, 20), np.uint8))
    box = (Box("Mass", 0, 0, 4, 4),)
    samples = [make_sample(0, picture, masks=(str(mask),), boxes=box),
               make_sample(1, picture, masks=(str(empty),), boxes=box),
               make_sample(2, picture, boxes=box), make_sample(3, picture),
               make_sample(4, picture, masks=(str(empty),))]
    report = run(samples, tmp_path / "out").report
    assert report["sources"] == {"boxes": 2, "class map": 1, "mask folder": 1}
    assert report["hits"] == 4
    assert find_mask(picture) == legacy


@pytest.mark.parametrize("place", ["mask/source.png", "masks/source_mask.png", "seg/source.png", "../masks/source.png",
                                   "../seg/source_mask.png", "source_mask.png"])
def test_masks_are_found_in_the_usual_places(picture, place):
    assert find_mask(picture) is None
    path = save_array(picture.parent / place, np.ones((10, 20), np.uint8))
    assert find_mask(picture).resolve() == path.resolve()


def test_annotated_pictures_beside_a_picture_are_not_taken_for_masks(picture):
    for name in ("mask.png", "annotated.png", "source2_mask.png"):
        save_array(picture.with_name(name), np.ones((10, 20), np.uint8))
    assert find_mask(picture) is None


def test_every_kind_of_class_map(tmp_path):
    values = np.array([[0, 10], [200, 10]], np.uint8)
    for mode in ("L", "RGB", "RGBA", "LA"):
        assert np.array_equal(read_class_map(save_array(tmp_path / f"{mode}.png", values, mode), 100), values)
    transparent = Image.fromarray(values).convert("RGBA")
    transparent.putalpha(0)
    transparent.save(tmp_path / "transparent.png")
    assert np.array_equal(read_class_map(tmp_path / "transparent.png", 100), values)
    palette = Image.new("P", (2, 2))
    palette.putdata([0, 1, 2, 1])
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "palette.png")
    assert read_class_map(tmp_path / "palette.png", 100).tolist() == [[0, 1], [2, 1]]
    deep = save_array(tmp_path / "deep.png", np.array([[0, 1000], [65535, 1000]], np.uint16))
    assert read_class_map(deep, 100).tolist() == [[0, 1000], [65535, 1000]]
    assert MaskFiles(100).read(deep).numbers == (1000, 65535)
    Image.fromarray(values > 0).save(tmp_path / "bits.png")
    assert MaskFiles(100).read(tmp_path / "bits.png").numbers == (1,)


def test_bad_mask_files(tmp_path):
    image = Image.new("RGB", (8, 8), (90, 90, 90))
    ImageDraw.Draw(image).rectangle((1, 1, 6, 6), outline=(0, 0, 255))
    image.save(tmp_path / "annotated.png")
    with pytest.raises(DataError) as failure:
        read_class_map(tmp_path / "annotated.png", 100)
    assert failure.value.message == (f"The mask '{tmp_path / 'annotated.png'}' has colours: it is no class map, but a "
                                     "picture with annotations on it.")
    assert "Remove the file, or convert it" in failure.value.hint
    save_array(tmp_path / "float.tif", np.ones((2, 2), np.float32))
    image.convert("L").save(tmp_path / "grey.jpg")
    (tmp_path / "cut.png").write_bytes((tmp_path / "annotated.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("no picture")
    for name, message in {"float.tif": "is of the kind 'F': its values are no classes", "cut.png": "broken",
                          "grey.jpg": "is a JPEG: its compression changes values",
                          "text.png": "is not an image", "none.png": "is missing"}.items():
        with pytest.raises(DataError, match=message):
            read_class_map(tmp_path / name, 100)
    with pytest.raises(DataError, match="8 x 8 pixels; at most 63 are allowed"):
        read_class_map(tmp_path / "annotated.png", 63)


def test_a_mask_of_another_size_is_fitted_by_nearest_neighbour(tmp_path):
    path = save_array(tmp_path / "m.png", np.array([[0, 7], [7, 0]], np.uint8))
    region = MaskFiles(100).read(path).draw({""}, (6, 4))
    assert region.tolist() == [[False] * 3 + [True] * 3] * 2 + [[True] * 3 + [False] * 3] * 2
    assert MaskFiles(100).read(path).draw({""}, (1, 1)).tolist() == [[False]]


def test_label_files(tmp_path, mask):
    assert find_labels(mask) == mask.parents[2] / "mask.txt"
    assert find_labels(mask.parents[2] / "imgs" / "imgs" / "a" / "mask.png") == mask.parents[2] / "mask.txt"
    assert find_labels(tmp_path / "1" / "2" / "3" / "4" / "5" / "mask.png") is None
    path = tmp_path / "mask.txt"
    path.write_bytes("\ufeff 3 : Left: upper \r\n\r\n5:Lung".encode())
    assert read_labels(path) == {3: "Left: upper", 5: "Lung"}
    for text, message in {"3 Liver": "line 1: expected 'number:label', found \"3 Liver\"",
                          "3:Liver\n-4:Lung": "line 2: expected", "3:": "line 1",
                          "3:a\n03:b": "class 03 stands twice"}.items():
        path.write_text(text)
        with pytest.raises(DataError) as failure:
            read_labels(path)
        assert message in failure.value.message
        assert str(path) in failure.value.message


def test_unknown_classes_are_counted_and_kept(tmp_path, picture, mask):
    values = np.asarray(Image.open(mask)).copy()
    values[0, 0] = 99
    save_array(mask, values)
    masked = run([make_sample(n, picture, masks=(str(mask),)) for n in range(3)], tmp_path / "out")
    assert masked.report["unknown_classes"] == {"99": 1}
    assert read_image(masked.samples[0].images[0]).size == (20, 10)
    (mask.parents[2] / "mask.txt").unlink()
    assert run([make_sample(0, picture, masks=(str(mask),))], tmp_path / "out").report["unknown_classes"] == {}


@pytest.mark.parametrize(("classes", "question_type", "question", "expected", "is_fallback"), [
    ("all", "Abnormality", "Where is the liver?", {"Liver", "Liver Cancer", "Left Kidney"}, False),
    ("disease", "Abnormality", "Is it normal?", {"Liver Cancer"}, False),
    ("disease", "PRES, ABN", "Is it normal?", {"Liver Cancer"}, False),
    ("disease", "Organ", "Is it normal?", {"Liver", "Liver Cancer", "Left Kidney"}, False),
    ("question", "", "Is the KIDNEY normal?", {"Left Kidney"}, False),
    ("question", "", "Is there a spleen?", {"Liver", "Liver Cancer", "Left Kidney"}, True),
])
def test_which_classes_count(classes, question_type, question, expected, is_fallback):
    sample = make_sample(0, question_type=question_type, question=question)
    assert choose_labels({"Liver", "Liver Cancer", "Left Kidney"}, sample, classes) == (expected, is_fallback)


def test_no_disease_in_the_picture_falls_back_to_all():
    sample = make_sample(0, question_type="Abnormality")
    assert choose_labels({"Liver"}, sample, "disease") == ({"Liver"}, True)
    assert choose_labels(set(), sample, "disease") == (frozenset(), False)


@pytest.mark.parametrize(("label", "question", "expected"), [
    ("Liver", "Is the liver healthy?", True), ("Liver", "Are the LIVERS big?", True), ("Liver", "deliver?", False),
    ("Liver", "liverwort", False), ("Left Lung", "Where are the lungs?", True),
    ("Left Lung", "Is the left lung normal?", True), ("Right Lung", "Is the left lung normal?", False),
    ("Left Lung", "Is the right lung normal?", False), ("Small Bowel", "the small  bowel", True),
    ("Small Bowel", "the bowel", False), ("Mass", "any masses?", True), ("A (b)", "is a (b) there?", True),
    ("", "anything", False), ("Left", "on the left?", True), ("肝", "图中肝在哪?", True), ("肺", "图中肝在哪?", False),
])
def test_labels_that_a_question_names(label, question, expected):
    assert is_named(label, question) is expected


def test_diseases_are_known_by_their_words(real_data):
    labels = set(read_labels(real_data / "slake" / "mask.txt").values())
    for path in (real_data / "slake" / "imgs").glob("*/detection.json"):
        labels |= {label for box in json.loads(path.read_text()) for label in box}
    assert len(labels) == 39 + 8
    assert set(filter(is_disease, labels)) == {
        "Brain Edema", "Brain Non-enhancing Tumor", "Kidney Cancer", "Liver Cancer", "Brain Enhancing Tumor",
        "Lung Cancer", "Atelectasis", "Cardiomegaly", "Effusion", "Infiltrate", "Mass", "Nodule", "Pneumonia",
        "Pneumothorax"}


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 100), st.data())
def test_a_window_holds_the_region_and_its_margin_and_stays_in_the_picture(width, height, percent, data):
    points = data.draw(st.sets(st.tuples(st.integers(0, height - 1), st.integers(0, width - 1)), min_size=1))
    region = np.zeros((height, width), bool)
    region[tuple(np.array(list(points)).T)] = True
    left, top, right, bottom = find_window(region, percent / 100)
    rows, columns = sorted(row for row, _ in points), sorted(column for _, column in points)
    assert region[top:bottom, left:right].sum() == len(points)
    for low, high, size, first, last in ((left, right, width, columns[0], columns[-1]),
                                         (top, bottom, height, rows[0], rows[-1])):
        margin = -(-percent * (last + 1 - first) // 100)  # rounded up, in whole numbers
        assert 0 <= low <= first
        assert last < high <= size
        assert low == max(first - margin, 0)
        assert high == min(last + 1 + margin, size)


@given(st.lists(st.builds(Box, st.just("a"), *[st.floats(-50, 50)] * 4)), st.integers(-5, 5), st.integers(1, 20))
def test_moved_boxes_lie_in_the_crop_and_cover_the_same_pixels(boxes, start, size):
    window = (start, 2 * start, start + size, 2 * start + size)
    moved = shift_boxes(boxes, window)
    assert all(0 <= box.x1 < box.x2 <= size and 0 <= box.y1 < box.y2 <= size for box in moved)
    overlapping = [box for box in boxes if max(box.x1, window[0]) < min(box.x2, window[2])
                   and max(box.y1, window[1]) < min(box.y2, window[3])]
    assert len(moved) <= len(overlapping)
    for box in moved:
        assert any(other.x1 <= box.x1 + start + 1e-9 and box.x2 + start - 1e-9 <= other.x2 for other in overlapping)


def test_results_are_written_once(tmp_path, picture, mask):
    samples = [make_sample(number, picture, masks=(str(mask),)) for number in range(3)]
    first = run(samples, tmp_path / "out")
    (path,) = (tmp_path / "out").rglob("*.*")
    assert {image for sample in first.samples for image in sample.images} == {str(path)}
    assert path.is_absolute()
    os.utime(path, (1, 1))
    again = run(samples, tmp_path / "out")
    assert again == first
    assert path.stat().st_mtime == 1
    run(samples, tmp_path / "out", mode="masked")
    run(samples, tmp_path / "out", pad_ratio=0.3)
    os.utime(picture, (5, 5))
    run(samples, tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.png"))) == 4
    save_array(mask, np.full((10, 20), 10, np.uint8))
    assert pixels(run(samples, tmp_path / "out").samples[0].images[0]).shape == (10, 20, 3)
    assert not list((tmp_path / "out").rglob("*.part"))


def test_several_images_have_a_mask_each(tmp_path, picture, mask):
    other = save_array(tmp_path / "b.png", np.full((6, 6), 50, np.uint8))
    other_mask = save_array(tmp_path / "b_map.png", np.diag([0, 0, 1, 1, 0, 0]).astype(np.uint8))
    sample = dataclasses.replace(make_sample(0), images=(str(picture), str(other)), masks=(str(mask), str(other_mask)))
    (both,) = run([sample], tmp_path / "out", pad_ratio=0.0).samples
    assert [read_image(path).size for path in both.images] == [(16, 8), (2, 2)]
    lone = dataclasses.replace(sample, masks=(str(mask),), boxes=(Box("Liver", 0, 0, 5, 5),))
    (first,) = run([lone], tmp_path / "out", pad_ratio=0.0).samples
    assert first.images[1] == str(other)
    assert read_image(first.images[0]).size == (5, 5)


def test_report_and_limits(tmp_path, picture, mask):
    samples = [make_sample(0, picture, masks=(str(mask),), modality="CT"), make_sample(1, picture, modality="CT"),
               make_sample(2, picture, modality="MRI"), make_sample(3, picture)]
    report = run(samples, tmp_path / "out").report
    assert json.loads(json.dumps(report)) == report
    assert {name: count["hits"] for name, count in report["modalities"].items()} == {"CT": 1, "MRI": 0, "unknown": 0}
    assert report["privileged"] is True
    assert "annotations of the pictures" in report["note"]
    check_hit_rate(report, 0.25)
    assert warn_hit_rate(report) == ""
    with pytest.raises(DataError) as failure:
        check_hit_rate(report, 0.3)
    assert failure.value.message == ("Only 1 of 4 questions (25.0%) have a mask (CT 1 of 2, MRI 0 of 1, unknown 0 of "
                                     "1); at least 30.0% are required.")
    assert "--mask-mode none" in failure.value.hint
    nothing = run(samples[1:], tmp_path / "out").report
    assert warn_hit_rate(nothing) == ("Only 0 of 3 questions (0.0%) have a mask (CT 0 of 1, MRI 0 of 1, unknown 0 of "
                                      "1): the numbers are nearly those of whole images.")
    with pytest.raises(ValueError, match="masks nothing"):
        run(samples, tmp_path / "out", mode="none")


def test_pictures_to_look_at(tmp_path, picture, mask):
    samples = [make_sample(number, picture, masks=(str(mask),), modality=modality, image_id="../../x",
                           question=question)
               for number, (modality, question) in enumerate(
                   [("CT", "liver?"), ("CT", "left kidney?"), ("CT", "?"), ("MRI", "liver cancer?"), ("", "kidney?")])]
    run(samples, tmp_path / "out", classes="question", debug=3)
    names = sorted(path.name for path in (tmp_path / "out" / "debug").iterdir())
    assert names == ["000_CT_x_0.png", "001_MRI_x_3.png"]  # one a modality; the last one's region is not new
    panel = pixels(tmp_path / "out" / "debug" / names[0])
    assert panel.shape[0] > 320
    assert (panel == (86, 180, 233)).all(axis=-1).any()  # the frame of the crop


def test_no_annotated_xray_is_ever_used(real_data, tmp_path, monkeypatch):
    """All 179 X-rays with an annotated picture as mask.png: the real one where there is one, else one drawn here."""
    slake, root = real_data / "slake", tmp_path / "slake"
    for name in ("train.json", "validate.json", "test.json", "mask.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).symlink_to(slake / name)
    records = [record for name in ("train", "validate", "test")
               for record in json.loads((slake / f"{name}.json").read_text(encoding="utf-8"))]
    folders = sorted({Path(record["img_name"]).parent for record in records if record["modality"] == "X-Ray"})
    assert len(folders) == 179
    num_real = 0
    for folder in folders:
        real, copy = slake / "imgs" / folder, root / "imgs" / folder
        copy.mkdir(parents=True)
        for name in ("source.jpg", "detection.json"):
            (copy / name).symlink_to(real / name)
        num_real += (real / "mask.png").exists()
        if (real / "mask.png").exists():
            (copy / "mask.png").symlink_to(real / "mask.png")
        else:
            with Image.open(real / "source.jpg") as image:
                image.draft("RGB", (128, 128))
                ImageDraw.Draw(image).rectangle((20, 20, 60, 60), outline=(0, 0, 255))
                image.save(copy / "mask.png")
        with pytest.raises(DataError, match="has colours"):
            MaskFiles(10**7).read(copy / "mask.png")
    assert num_real >= 6
    opened = []
    monkeypatch.setattr(mask_files, "read_class_map", lambda path, _: opened.append(path))
    samples = {sample.images[0]: sample for sample in PLUGIN.read(root, None) if sample.modality == "X-Ray"}
    masked = run(list(samples.values()), tmp_path / "out")
    assert (len(samples), masked.report["hits"], masked.report["sources"]) == (179, 179, {"boxes": 179})
    assert opened == []
    assert all(Path(sample.images[0]).is_relative_to(tmp_path / "out") for sample in masked.samples)


def test_the_class_maps_of_slake(real_data):
    root = real_data / "slake"
    samples = {sample.images[0]: sample for sample in PLUGIN.read(root, None)}
    maps = [MaskFiles(10**7).read(Path(path)) for sample in samples.values() for path in sample.masks]
    assert (len(samples), len(maps), sum(not each.numbers for each in maps)) == (642, 463, 61)
    assert all(number in each.names for each in maps for number in each.numbers)
    assert sum(not sample.boxes for sample in samples.values()) == 62

"""The store gives back what was put in, opens with plain `datasets`, and is whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from medvqa_cli.data.prepared.rows import decode_samples, encode_samples, make_features
from medvqa_cli.data.prepared.store import (
    fingerprint_files,
    iterate_split,
    lock_store,
    read_facts,
    read_split,
    write_store,
)
from medvqa_cli.errors import DataError
from medvqa_cli.progress import SilentProgress
from medvqa_cli.records import Box, VQASample
from tests.data.builders import build_slake, draw_image, make_sample

FACTS = {"fingerprint": "f" * 16}
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
NUMBERS = st.none() | st.dictionaries(TEXT, NUMBER, max_size=3)
SAMPLES = st.builds(
    VQASample, dataset=TEXT, split=TEXT, question_id=TEXT, image_id=TEXT, question=TEXT, answer=TEXT,
    answer_type=st.sampled_from(["open", "closed"]), images=TEXTS, question_type=TEXT, modality=TEXT, organ=TEXT,
    language=TEXT, alternatives=TEXTS, options=TEXTS, masks=TEXTS, output_images=TEXTS,
    boxes=st.lists(st.builds(Box, TEXT, NUMBER, NUMBER, NUMBER, NUMBER), max_size=3).map(tuple),
    triples=st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=2).map(tuple), context=TEXTS,
    history=st.lists(st.tuples(TEXT, TEXT), max_size=2).map(tuple),
    scene_graph=st.none() | st.dictionaries(TEXT, st.lists(NUMBER | TEXT, max_size=2), max_size=2),
    labels=NUMBERS, answer_probabilities=NUMBERS, extra=st.dictionaries(TEXT, TEXT, max_size=3))


@pytest.fixture(scope="module")
def schema():
    return make_features().arrow_schema


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(SAMPLES, max_size=3))
def test_a_sample_survives_its_row(schema, samples):
    batch = encode_samples(samples, schema)
    assert decode_samples(batch) == samples
    assert decode_samples(batch.slice(1)) == samples[1:]
    assert batch.schema == schema
    batch.validate(full=True)


def full_sample(path) -> VQASample:
    return make_sample(
        1, path, alternatives=("Yes", "y"), options=("yes", "no"), boxes=(Box("Liver", 1.0, 2.5, 3.0, 4.0),),
        masks=(str(path),), triples=(("vhead", "_", "ktail"),), scene_graph={"nodes": [{"id": 1}]}, labels={"a": 0.1},
        answer_probabilities={"yes": 0.7, "no": 0.3}, extra={"base_type": "vqa"}, language="zh", answer="是")


def write(folder, samples, **options):
    return write_store(folder, samples, FACTS, **{"max_pixels": 10_000, **options})


def test_what_is_written_is_read(tmp_path):
    path = draw_image(tmp_path / "a.png")
    samples = [full_sample(path), make_sample(2, split="test"), make_sample(3, path, answer_type="open")]
    facts = write(tmp_path / "store", samples)
    assert facts == {"fingerprint": "f" * 16, "folder": str(tmp_path / "store"), "counts": {"train": 2, "test": 1},
                     "images": 1, "skipped": []}
    assert read_facts(tmp_path / "store") == facts
    assert read_split(tmp_path / "store", "train") == [samples[0], samples[2]]
    assert read_split(tmp_path / "store", "test") == [samples[1]]


@pytest.mark.parametrize("count", [999, 1000, 2345, 10_001])
def test_more_rows_than_a_batch(tmp_path, count):
    samples = [make_sample(number) for number in range(count)]
    assert write(tmp_path / "store", samples)["counts"] == {"train": count}
    assert read_split(tmp_path / "store", "train") == samples
    stream = iterate_split(tmp_path / "store", "train")
    assert next(stream) == samples[0]
    assert sum(1 for _ in stream) == count - 1


def test_plain_datasets_opens_it_and_decodes_lazily(tmp_path):
    import datasets

    path = draw_image(tmp_path / "a.png", 77)
    write(tmp_path / "store", [full_sample(path), make_sample(2, split="test")])
    opened = datasets.load_from_disk(str(tmp_path / "store" / "arrow"))
    assert {split: len(table) for split, table in opened.items()} == {"train": 1, "test": 1}
    assert opened["train"].split == "train"
    row = opened["train"][0]
    assert (row["answer"], row["options"], row["triples"]) == ("是", ["yes", "no"], [["vhead", "_", "ktail"]])
    assert isinstance(row["images"][0], Image.Image)
    assert row["images"][0].getpixel((0, 0)) == 77
    assert json.loads(row["answer_probabilities"]) == {"yes": 0.7, "no": 0.3}
    assert opened["test"][0]["answer_probabilities"] is None
    path.unlink()
    raw = opened["train"].with_format("arrow")[0]["images"].to_pylist()
    assert raw == [[{"bytes": None, "path": str(path)}]]


WRONG_KIND = "Question '2' of data set 'd', split 'train', has a value of the wrong kind: "


@pytest.mark.parametrize(("change", "message"), [
    ({"split": "t/s"}, "Question '2' of data set 'd' is in split 't/s': a split's name has only letters, digits"),
    ({"answer_type": "CLOSED"}, "Question '2' of data set 'd' has answer_type 'CLOSED': it is 'open' or 'closed'."),
    ({"images": ("a.png",)}, "Question '2' of data set 'd' has the image path 'a.png', which is not absolute."),
    ({"question_id": "1"}, "Two questions of split 'train' have the id '1'."),
    ({"answer": 5}, WRONG_KIND),
    ({"extra": {"a": {1}}}, WRONG_KIND),
    ({"labels": {"a": float("nan")}}, WRONG_KIND),
    ({"answer": "\ud800"}, WRONG_KIND),
    ({"boxes": ("box",)}, WRONG_KIND),
    ({"boxes": (Box("a", None, 0, 0, 0),)}, f"{WRONG_KIND}boxes holds None."),
    ({"answer": None}, f"{WRONG_KIND}answer holds None."),
    ({"options": "yes"}, f"{WRONG_KIND}options is a text, not a tuple of texts."),
    ({"context": (None,)}, f"{WRONG_KIND}context holds None."),
    ({"triples": (("a", None, "c"),)}, f"{WRONG_KIND}triples holds None."),
])
def test_a_faulty_sample_is_named_and_the_old_store_stays(tmp_path, change, message):
    write(tmp_path / "store", [make_sample(7)])
    bad = make_sample(**{"number": 2, **change})
    with pytest.raises(DataError) as failure:
        write(tmp_path / "store", [make_sample(1), bad, make_sample(3)])
    assert failure.value.message.startswith(message)
    assert read_split(tmp_path / "store", "train") == [make_sample(7)]
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["arrow", "store.json"]


def test_missing_images_stop_it_or_are_left_out(tmp_path):
    good, bad, gone = draw_image(tmp_path / "a.png"), tmp_path / "b.png", tmp_path / "c.png"
    bad.write_bytes(b"no picture")
    large = draw_image(tmp_path / "large.png", size=(101, 100))
    samples = [make_sample(1, good), make_sample(2, gone), make_sample(3, bad), make_sample(4, gone, split="test"),
               make_sample(5, good, masks=(str(gone),)), make_sample(6, large), make_sample(7, good, split="test")]
    with pytest.raises(DataError) as failure:
        write(tmp_path / "store", samples)
    assert failure.value.message == (f"Question '2' of split 'train': The image '{gone}' is missing. "
                                     "(Unusable images in all: 3; their questions: 5.)")
    assert "--missing-images skip" in failure.value.hint
    assert read_facts(tmp_path / "store") is None
    facts = write(tmp_path / "store", samples, skip_missing=True)
    assert facts["counts"] == {"train": 1, "test": 1}
    assert [(row["split"], row["question_id"]) for row in facts["skipped"]] == [
        ("train", "2"), ("train", "3"), ("test", "4"), ("train", "5"), ("train", "6")]
    assert facts["skipped"][1] == {
        "split": "train", "question_id": "3", "image": str(bad),
        "reason": f"The file '{bad}' is not an image of a known kind (PNG, JPEG, TIFF, BMP, GIF, WEBP, DICOM)."}


def test_every_picture_is_looked_at_once(tmp_path, monkeypatch):
    looked_at = []
    monkeypatch.setattr("medvqa_cli.data.prepared.image_copies.check_image",
                        lambda path, max_pixels: looked_at.append(path))
    paths = [str(tmp_path / name) for name in ("a", "b")]
    write(tmp_path / "store", [make_sample(number, paths[number % 2]) for number in range(10)])
    assert sorted(looked_at) == paths


def test_an_empty_data_set_is_no_store(tmp_path):
    with pytest.raises(DataError, match=r"The data set 'store' has no question\."):
        write(tmp_path / "store", [])
    with pytest.raises(DataError, match=r"The data set 'store' has no question left\."):
        write(tmp_path / "store", [make_sample(1, tmp_path / "gone.png")], skip_missing=True)
    assert read_facts(tmp_path / "store") is None


class Interrupted(SilentProgress):
    def advance(self, steps=1, note=""):
        raise KeyboardInterrupt


def test_ctrl_c_leaves_no_half_store(tmp_path):
    samples = [make_sample(number) for number in range(3000)]
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "store", samples, progress=Interrupted())
    assert list((tmp_path / "store").iterdir()) == []
    write(tmp_path / "store", samples[:5])
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "store", samples, progress=Interrupted())
    assert read_split(tmp_path / "store", "train") == samples[:5]


def test_a_full_disk_at_the_last_step_leaves_the_old_store(tmp_path, monkeypatch):
    write(tmp_path / "store", [make_sample(1)])

    def die(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medvqa_cli.data.prepared.store.write_json", die)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "store", [make_sample(2)])
    assert read_split(tmp_path / "store", "train") == [make_sample(1)]
    monkeypatch.undo()
    write(tmp_path / "store", [make_sample(3)])
    assert read_split(tmp_path / "store", "train") == [make_sample(3)]
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["arrow", "store.json"]


@pytest.mark.parametrize("step", range(1, 10))
def test_whoever_comes_between_two_steps_reads_a_whole_store(tmp_path, monkeypatch, step):
    """Every removing or renaming below the store's folder is interrupted in turn."""
    folder, taken = tmp_path / "store", []
    write(folder, [make_sample(1)])

    def interrupt(name, work):
        def work_or_die(*arguments, **options):
            taken.append(name)
            if len(taken) == step:
                raise KeyboardInterrupt
            return work(*arguments, **options)
        return work_or_die

    monkeypatch.setattr("shutil.rmtree", interrupt("rmtree", shutil.rmtree))
    monkeypatch.setattr("pathlib.Path.rename", interrupt("rename", Path.rename))
    monkeypatch.setattr("pathlib.Path.replace", interrupt("replace", Path.replace))
    with contextlib.suppress(KeyboardInterrupt):
        write(folder, [make_sample(2), make_sample(3)])
    monkeypatch.undo()
    assert len(taken) >= min(step, 8)
    found = read_split(folder, "train")
    assert found in ([make_sample(1)], [make_sample(2), make_sample(3)])
    assert len(found) == read_facts(folder)["counts"]["train"]
    with lock_store(folder):
        assert read_split(folder, "train") == found
        assert {path.name for path in folder.iterdir()} == {"arrow", "store.json", ".lock"}


def test_damage_is_named(tmp_path):
    folder = tmp_path / "store"
    write(folder, [make_sample(number) for number in range(50)])
    data = folder / "arrow" / "train" / "data-00000-of-00001.arrow"
    whole = data.read_bytes()
    for content in (b"", whole[:100], whole[: len(whole) // 2], b"x" * 1000):
        data.write_bytes(content)
        with pytest.raises(DataError, match="The prepared data of split 'train' in .* are missing or") as failure:
            read_split(folder, "train")
        assert failure.value.hint == "Run `medvqa data prepare store --force`."
    stream = pa.ipc.open_stream(whole)
    with pa.ipc.new_stream(str(data), stream.schema) as writer:
        writer.write_batch(next(iter(stream)).slice(0, 20))
    with pytest.raises(DataError, match="20 of 50 questions are there"):
        read_split(folder, "train")
    data.unlink()
    with pytest.raises(DataError, match="are missing or damaged"):
        read_split(folder, "train")
    for content in ("{", "[]", ""):
        (folder / "store.json").write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=r"store\.json' is damaged"):
            read_facts(folder)


def test_the_fingerprint_follows_the_files(tmp_path):
    first = build_slake(tmp_path / "a")
    same = fingerprint_files(build_slake(tmp_path / "b"))
    assert fingerprint_files(first) == same
    os.utime(first / "train.json", (0, 0))
    (first / ".hidden").write_text("x", encoding="utf-8")
    assert fingerprint_files(first) == same
    text = (first / "train.json").read_text(encoding="utf-8")
    (first / "train.json").write_text(text.replace("Yes", "Yep"), encoding="utf-8")  # same size
    changed = fingerprint_files(first)
    assert changed != same
    (first / "imgs" / "xmlab4" / "mask.png").rename(first / "imgs" / "xmlab4" / "mask2.png")
    assert fingerprint_files(first) != changed


def test_the_fingerprint_goes_through_links_but_not_in_circles(tmp_path):
    root = build_slake(tmp_path / "a")
    (root / "imgs").rename(tmp_path / "elsewhere")
    (root / "imgs").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(root)
    (root / "nowhere").symlink_to(tmp_path / "gone")
    before = fingerprint_files(root)
    (tmp_path / "elsewhere" / "xmlab1" / "mask.png").unlink()
    assert fingerprint_files(root) != before


def test_the_fingerprint_keeps_its_value_over_versions(tmp_path):
    """A store made by an earlier version is not made anew because files are put in another order or read otherwise."""
    for name in ("a/b.txt", "a.txt", "a-b/c.json", "A/z.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    digest = hashlib.sha256()
    for name, content in (("A/z.png", ""), ("a/b.txt", "a/b.txt"), ("a-b/c.json", "a-b/c.json"), ("a.txt", "a.txt")):
        digest.update(f"{name}\n{len(name)}\n{content}".encode())
    assert fingerprint_files(tmp_path) == digest.hexdigest()


def test_the_fingerprint_of_one_file_is_that_of_its_content(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"one")
    (tmp_path / "other.txt").write_bytes(b"x")
    before = fingerprint_files(path)
    path.write_bytes(b"two")
    assert fingerprint_files(path) != before
    path.write_bytes(b"one")
    assert fingerprint_files(path) == before


def test_one_process_at_a_time(tmp_path):
    events = []

    def work():
        with lock_store(tmp_path / "store"):
            events.append("second in")

    (tmp_path / "store" / "arrow.1.part").mkdir(parents=True)
    with lock_store(tmp_path / "store"):
        assert not (tmp_path / "store" / "arrow.1.part").exists()  # left by a killed process
        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.1)
        events.append("first out")
    thread.join()
    assert events == ["first out", "second in"]

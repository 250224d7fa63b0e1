"""Images are looked at once, by one process or several, also across a kill; copies are whole, and enough."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from medvqa_cli.data.prepared import image_checks
from medvqa_cli.data.prepared.image_checks import Journal
from medvqa_cli.data.prepared.image_workers import ImageWorkers
from medvqa_cli.data.prepared.store import read_facts, read_split, write_store
from medvqa_cli.errors import DataError
from tests.data.builders import draw_image, make_sample


def write(folder, samples, **options):
    return write_store(folder, samples, {"fingerprint": "f"}, **{"max_pixels": 10_000, **options})


def draw_samples(folder: Path, count: int) -> list:
    return [make_sample(number, draw_image(folder / f"{number}.png", number % 256, size=(8, number // 256 + 1)))
            for number in range(count)]


def count_looks(monkeypatch) -> list[str]:
    looked_at, look = [], image_checks.look_at_image
    monkeypatch.setattr(image_checks, "look_at_image",
                        lambda path, *others: looked_at.append(Path(path).name) or look(path, *others))
    return looked_at


def test_processes_find_what_one_finds(tmp_path):
    samples = draw_samples(tmp_path / "in", 700)
    bad, gone = tmp_path / "bad.png", tmp_path / "gone.png"
    bad.write_bytes(b"no picture")
    samples[600:600] = [make_sample(1000, bad), make_sample(1001, gone)]
    alone = write(tmp_path / "alone", samples, skip_missing=True, workers=1)
    several = write(tmp_path / "several", samples, skip_missing=True, workers=2)
    assert several | {"folder": ""} == alone | {"folder": ""}
    assert [row["reason"] for row in several["skipped"]] == [
        f"The file '{bad}' is not an image of a known kind (PNG, JPEG, TIFF, BMP, GIF, WEBP, DICOM).",
        f"The image '{gone}' is missing."]
    assert read_split(tmp_path / "several", "train") == read_split(tmp_path / "alone", "train")
    assert len(read_split(tmp_path / "alone", "train")) == 700


def test_a_process_that_dies_is_named(tmp_path, monkeypatch):
    paths = [str(draw_image(tmp_path / f"{number}.png")) for number in range(40)]
    with ImageWorkers(1, 10_000, None) as workers:
        assert [look for _, look in workers.look(paths)] == [("", "")] * 40
        workers._processes[0].kill()
        with pytest.raises(DataError) as failure:
            list(workers.look(paths))
    assert failure.value.message == (f"A process that looks at images has died (exit code -9) between '{paths[0]}' and "
                                     f"'{paths[31]}'.")
    assert failure.value.hint == "Run the same command again with --workers 1."


def test_an_image_that_cannot_be_copied_is_the_callers_error(tmp_path):
    paths = [str(draw_image(tmp_path / "a.png"))]
    (tmp_path / "file").write_bytes(b"")
    with ImageWorkers(1, 10_000, tmp_path / "file") as workers, pytest.raises(FileExistsError):
        list(workers.look(paths))


def test_workers_end_when_their_caller_is_killed(tmp_path):
    script = ("from medvqa_cli.data.prepared.image_workers import ImageWorkers\nimport time\n"
              "workers = ImageWorkers(2, 10, None)\n"
              "print(*[process.pid for process in workers._processes], flush=True)\ntime.sleep(60)")
    caller = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in caller.stdout.readline().split()]
    assert all(map(is_alive, pids))
    caller.kill()
    caller.wait()
    deadline = time.monotonic() + 10
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, pids))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_embedded_images_are_there_once_and_enough(tmp_path):
    first, second = draw_image(tmp_path / "in" / "a.png", 10), draw_image(tmp_path / "in" / "b.png", 20)
    twin = tmp_path / "in" / "twin.bin"
    shutil.copy(first, twin)
    picture = Image.radial_gradient("L").resize((60, 60))
    picture.save(tmp_path / "in" / "c.jpg")
    samples = [make_sample(1, first, masks=(str(second),)), make_sample(2, twin),
               make_sample(3, tmp_path / "in" / "c.jpg", output_images=(str(first),)), make_sample(4)]
    originals = {path.name: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    write(tmp_path / "store", samples, embed_images=True)
    shutil.rmtree(tmp_path / "in")
    copies = sorted(path for path in (tmp_path / "store" / "images").rglob("*") if path.is_file())
    assert len(copies) == 3
    assert all(path.parent.name == path.name[:2] and len(path.stem) == 64 for path in copies)
    found = read_split(tmp_path / "store", "train")
    assert found[0].images == found[1].images == found[2].output_images
    assert Path(found[1].images[0]).read_bytes() == originals["a.png"]
    assert Path(found[0].masks[0]).read_bytes() == originals["b.png"]
    assert Path(found[2].images[0]).read_bytes() == originals["c.jpg"]
    assert [Path(path).suffix for path in (*found[1].images, *found[2].images)] == [".png", ".jpg"]
    assert [sample.question_id for sample in found] == ["1", "2", "3", "4"]


def test_a_moved_store_finds_its_images(tmp_path):
    outside = draw_image(tmp_path / "outside.png")
    write(tmp_path / "store", [make_sample(1, draw_image(tmp_path / "a.png"))], embed_images=True)
    before = read_split(tmp_path / "store", "train")
    shutil.move(tmp_path / "store", tmp_path / "store2")
    after = read_split(tmp_path / "store2", "train")
    assert after != before
    assert Path(after[0].images[0]).is_relative_to(tmp_path / "store2" / "images")
    assert Path(after[0].images[0]).is_file()
    write(tmp_path / "plain", [make_sample(1, outside)])
    shutil.move(tmp_path / "plain", tmp_path / "plain2")
    assert read_split(tmp_path / "plain2", "train") == [make_sample(1, outside)]


def test_copies_that_no_sample_uses_are_removed(tmp_path):
    first, second = draw_image(tmp_path / "a.png", 10), draw_image(tmp_path / "b.png", 20)
    images = tmp_path / "store" / "images"
    for paths, count in (([first, second], 2), ([second], 1)):
        write(tmp_path / "store", [make_sample(number, path) for number, path in enumerate(paths)], embed_images=True)
        assert sum(path.is_file() for path in images.rglob("*")) == count
    write(tmp_path / "store", [make_sample(1, first)])
    assert not images.exists()
    assert read_split(tmp_path / "store", "train")[0].images == (str(first),)


def test_a_failed_preparation_goes_on_where_it_stopped(tmp_path, monkeypatch):
    samples = draw_samples(tmp_path / "in", 5)
    gone = tmp_path / "in" / "gone.png"
    with pytest.raises(DataError, match=r"gone\.png' is missing"):
        write(tmp_path / "store", [*samples, make_sample(9, gone)])
    looked_at = count_looks(monkeypatch)
    draw_image(gone)
    Path(samples[3].images[0]).write_bytes(gone.read_bytes())  # another size
    os.utime(samples[4].images[0], ns=(1, 1))
    write(tmp_path / "store", [*samples, make_sample(9, gone)])
    assert looked_at == ["3.png", "4.png", "gone.png"]
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["arrow", "store.json"]
    write(tmp_path / "store", samples)
    assert len(looked_at) == 8  # a finished store leaves no journal


@pytest.mark.parametrize("change", [{"max_pixels": 9_999}, {"embed_images": True}])
def test_a_journal_kept_under_other_conditions_does_not_count(tmp_path, monkeypatch, change):
    samples = draw_samples(tmp_path / "in", 3)
    with pytest.raises(DataError):
        write(tmp_path / "store", [*samples, make_sample(9, tmp_path / "gone.png")])
    looked_at = count_looks(monkeypatch)
    write(tmp_path / "store", samples, **change)
    assert looked_at == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize("content", [b"", b"\0\0\0\n", b"[]\n", b'{"max_pixels": 1}\n{"path": "a"}\n', b'{"max_pi'])
def test_a_damaged_journal_does_not_count(tmp_path, content):
    path = tmp_path / "looked_at.jsonl"
    path.write_bytes(content)
    journal = Journal(path, {"max_pixels": 1})
    image = str(draw_image(tmp_path / "a.png"))
    assert journal.find(image) is None
    journal.add(image, "copy")
    journal.close()
    with path.open("ab") as stream:
        stream.write(b'{"path": "torn')
    again = Journal(path, {"max_pixels": 1})
    assert (again.find(image), again.find("other")) == ("copy", None)
    again.add(str(draw_image(tmp_path / "b.png")), "")
    again.close()
    assert [json.loads(line).get("copy") for line in path.read_text().splitlines()] == [None, "copy", ""]


def test_a_copy_that_was_lost_is_made_again(tmp_path):
    samples = draw_samples(tmp_path / "in", 2)
    with pytest.raises(DataError):
        write(tmp_path / "store", [*samples, make_sample(9, tmp_path / "gone.png")], embed_images=True)
    shutil.rmtree(tmp_path / "store" / "images")
    write(tmp_path / "store", samples, embed_images=True)
    assert all(Path(sample.images[0]).is_file() for sample in read_split(tmp_path / "store", "train"))


KILLED = """
import sys
from pathlib import Path
from medvqa_cli.data.prepared.store import write_store
from tests.data.builders import make_sample
folder, images = Path(sys.argv[1]), Path(sys.argv[2])
paths = sorted(images.iterdir())
print("ready", flush=True)
write_store(folder, (make_sample(number, paths[number % len(paths)]) for number in range(8_000)), {"fingerprint": "2"},
            max_pixels=10_000, embed_images=True, workers=2)
print("done", flush=True)
"""


@pytest.mark.parametrize("delay", [0.2, 0.6, 1.0, None])
def test_a_real_kill_leaves_the_old_store_or_the_new_one(tmp_path, repository, delay):
    draw_samples(tmp_path / "in", 600)
    folder = tmp_path / "store"
    old = [make_sample(1, tmp_path / "in" / "1.png")]
    write(folder, old, embed_images=True)
    old = read_split(folder, "train")
    command = [sys.executable, "-c", KILLED, str(folder), str(tmp_path / "in")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=repository)
    assert process.stdout.readline() == "ready\n"
    if delay is not None:
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    process.wait()
    found, facts = read_split(folder, "train"), read_facts(folder)
    is_new = facts["fingerprint"] == "2"
    assert len(found) == (8_000 if is_new else 1)
    assert is_new or found == old
    assert all(Path(path).is_file() for path in {sample.images[0] for sample in found})
    assert is_new or delay is not None
    write(folder, [make_sample(7, tmp_path / "in" / "7.png")], embed_images=True)
    names = sorted(path.name for path in folder.iterdir() if not path.name.endswith(".part"))
    assert names == ["arrow", "images", "store.json"]



"""Tables saved by `datasets`, clones of hub repositories and the hub's errors; the network alone is played."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import sys
import zipfile
from datetime import date
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    IncompleteSnapshotError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from PIL import Image as Pictures

from medvqa_cli.data.files.hub import fetch_hub_copy, is_saved_table, lay_out_saved
from medvqa_cli.data.files.layout import find_extension, lay_out_rows
from medvqa_cli.data.protocol import HubCopy
from medvqa_cli.data.reading import is_hub_layout, read_hub_rows
from medvqa_cli.errors import DataError

http = sys.modules[HfHubHTTPError.__bases__[0].__module__.partition(".")[0]]
"""The HTTP library that the hub's client uses: httpx, or its successor."""
COMMIT = "0123456789abcdef0123456789abcdef01234567"
BY_HAND = ("Or fetch it elsewhere with `hf download owner/set --repo-type dataset --local-dir FOLDER` and run `medvqa "
           "data prepare NAME --root FOLDER`.")


def draw(colour: str, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Pictures.new("RGB", (8, 8), colour).save(stream, kind)
    return stream.getvalue()


RED, BLUE = draw("red"), draw("blue", "JPEG")
FEATURES = Features({"image": Image(), "question": Value("string"), "answer": Value("string"),
                     "kind": ClassLabel(names=["open", "closed"]), "views": List(Image())})
ROWS = [
    {"image": {"bytes": RED, "path": "a.png"}, "question": "is it é?\u2028", "answer": "yes", "kind": 1, "views": []},
    {"image": {"bytes": BLUE, "path": None}, "question": "which?", "answer": "5", "kind": 0,
     "views": [{"bytes": RED, "path": None}, {"bytes": BLUE, "path": None}]},
    {"image": {"bytes": RED, "path": "b.png"}, "question": "", "answer": None, "kind": None, "views": None},
]


def place(content: bytes, extension: str) -> str:
    digest = hashlib.sha256(content).hexdigest()
    return f"images/{digest[:2]}/{digest}{extension}"


RED_PLACE, BLUE_PLACE = place(RED, ".png"), place(BLUE, ".jpg")
EXPECTED = [
    {"image": RED_PLACE, "question": "is it é?\u2028", "answer": "yes", "kind": "closed", "views": []},
    {"image": BLUE_PLACE, "question": "which?", "answer": "5", "kind": "open", "views": [RED_PLACE, BLUE_PLACE]},
    {"image": RED_PLACE, "question": "", "answer": None, "kind": None, "views": None},
]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Keep what `datasets` and the hub's client write out of the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
        yield


@pytest.fixture(scope="module")
def table() -> Dataset:
    return Dataset.from_list(ROWS, features=FEATURES)


def check_layout(target: Path, splits: dict[str, list]) -> None:
    assert is_hub_layout(target)
    found = {split: [] for split in splits}
    for split, row in read_hub_rows(target):
        found[split].append(dict(row.values))
    assert found == splits
    files = {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert {name: files[name] for name in files if name.startswith("images/")} == {RED_PLACE: RED, BLUE_PLACE: BLUE}
    assert files.keys() == {"hub.json", RED_PLACE, BLUE_PLACE, *(f"{split}.jsonl" for split in splits)}
    facts = json.loads(files["hub.json"])
    assert facts["splits"] == {split: len(rows) for split, rows in splits.items()}
    assert facts["pictures"] == ["image", "views"]
    assert not target.with_name(f"{target.name}.part").exists()


def fault_of(call, *arguments, **options) -> DataError:
    with pytest.raises(DataError) as failure:
        call(*arguments, **options)
    return failure.value


def test_a_saved_table_with_splits(tmp_path, table):
    DatasetDict(train=table, test=table.select([0, 1])).save_to_disk(str(tmp_path / "saved"))
    assert is_saved_table(tmp_path / "saved")
    lay_out_saved(tmp_path / "saved", tmp_path / "out")
    check_layout(tmp_path / "out", {"train": EXPECTED, "test": EXPECTED[:2]})
    ((_, row), *_) = read_hub_rows(tmp_path / "out")
    assert row.path("image", tmp_path / "out").read_bytes() == RED


def test_a_saved_table_without_splits(tmp_path, table):
    table.save_to_disk(str(tmp_path / "saved"))
    assert is_saved_table(tmp_path / "saved")
    lay_out_saved(tmp_path / "saved", tmp_path / "out")
    check_layout(tmp_path / "out", {"train": EXPECTED})


def write_clone(folder: Path, table: Dataset, place: str = "data") -> Path:
    """A hub repository as git clones it."""
    (folder / place).mkdir(parents=True)
    table.select([0]).to_parquet(str(folder / place / "train-00000-of-00002.parquet"))
    table.select([1, 2]).to_parquet(str(folder / place / "train-00001-of-00002.parquet"))
    table.select([0, 1]).to_parquet(str(folder / place / "test-00000-of-00001.parquet"))
    (folder / "README.md").write_text("# A set\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("where", ["data", "."])
def test_a_clone_with_parquet_files(tmp_path, table, where):
    clone = write_clone(tmp_path / "clone", table, where)
    assert is_saved_table(clone)
    lay_out_saved(clone, tmp_path / "out")
    check_layout(tmp_path / "out", {"train": EXPECTED, "test": EXPECTED[:2]})
    assert json.loads((tmp_path / "out" / "hub.json").read_text())["folder"] == str(clone)


def test_rows_are_fetched_by_datasets(tmp_path, table):
    """`load_dataset` takes a folder for a repository: everything but the network runs."""
    clone = write_clone(tmp_path / "clone", table)
    assert fetch_hub_copy(HubCopy(id=str(clone), form="rows"), tmp_path / "out") == ""
    check_layout(tmp_path / "out", {"train": EXPECTED, "test": EXPECTED[:2]})
    facts = json.loads((tmp_path / "out" / "hub.json").read_text())
    assert (facts["hub"], facts["revision"], facts["commit"]) == (str(clone), "main", "")


def test_other_folders_are_no_saved_tables(tmp_path):
    (tmp_path / "train.json").touch()
    (tmp_path / "state.json").touch()
    assert not is_saved_table(tmp_path)
    assert not is_saved_table(tmp_path / "missing")


def test_a_damaged_saved_table_is_one_error(tmp_path, table):
    table.save_to_disk(str(tmp_path / "saved"))
    file = next((tmp_path / "saved").glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:100])
    error = fault_of(lay_out_saved, tmp_path / "saved", tmp_path / "out")
    assert error.message.startswith(f"The table in '{tmp_path}/saved' cannot be read: ")
    assert not (tmp_path / "out").exists()
    (tmp_path / "saved" / "dataset_info.json").write_text('{"features": {"a": {"_type": "Hologram"}}}')
    error = fault_of(lay_out_saved, tmp_path / "saved", tmp_path / "out")
    assert "Hologram" in error.message
    assert "pip install -U datasets" in error.hint


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"text"])
def test_a_damaged_clone_is_one_error(tmp_path, content):
    (tmp_path / "clone").mkdir()
    (tmp_path / "clone" / "train.parquet").write_bytes(content)
    error = fault_of(lay_out_saved, tmp_path / "clone", tmp_path / "out")
    assert error.message.startswith(f"The table in '{tmp_path}/clone' cannot be read: ")
    assert [path.name for path in tmp_path.iterdir()] == ["clone"]


def test_a_file_that_git_has_not_fetched(tmp_path):
    file = tmp_path / "clone" / "data" / "train-0.parquet"
    file.parent.mkdir(parents=True)
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    error = fault_of(lay_out_saved, tmp_path / "clone", tmp_path / "out")
    assert error.message == f"'{file}' is only a pointer: git has not fetched the file itself."
    assert error.hint == f"Run `git lfs pull` in '{tmp_path}/clone'."


def read_layout(folder: Path) -> list:
    return [dict(row.values) for _, row in read_hub_rows(folder)]


def test_values_of_a_row(tmp_path):
    dicom = bytes(128) + b"DICM" + b"header"
    rows = [{"n": 3, "x": 0.5, "nan": float("nan"), "day": date(2020, 1, 2), "raw": BLUE,
             "deep": {"a": [{"bytes": RED, "path": ""}]}, "none": {"bytes": None, "path": None},
             "odd": {"bytes": b"junk", "path": "x.png"}, "dicom": {"bytes": dicom, "path": None},
             "plain": {"bytes": 5, "path": "p"}}]
    lay_out_rows({"train": rows}, tmp_path / "out", {"hub": "h"})
    assert read_layout(tmp_path / "out") == [{
        "n": 3, "x": 0.5, "nan": None, "day": "2020-01-02", "deep": {"a": [RED_PLACE]}, "raw": BLUE_PLACE, "none": None,
        "odd": place(b"junk", ".bin"), "dicom": place(dicom, ".dcm"), "plain": {"bytes": 5, "path": "p"}}]
    assert (tmp_path / "out" / place(dicom, ".dcm")).read_bytes() == dicom
    assert json.loads((tmp_path / "out" / "hub.json").read_text()) == {
        "hub": "h", "splits": {"train": 1}, "pictures": ["deep", "dicom", "odd", "raw"]}


def test_pictures_that_a_row_only_names(tmp_path):
    (tmp_path / "a.png").write_bytes(RED)
    (tmp_path / "secret").write_text("secret")
    for name, message in [("secret", f"'{tmp_path}/secret' is no picture."),
                          ("gone.png", f"the picture '{tmp_path}/gone.png' is not in the table and cannot be read.")]:
        rows = [{"image": {"bytes": None, "path": str(tmp_path / path)}} for path in ("a.png", name)]
        error = fault_of(lay_out_rows, {"train": rows}, tmp_path / "out", {})
        assert error.message == f"Split 'train', row 2, column 'image': {message}"
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.part").exists()
    lay_out_rows({"train": rows[:1]}, tmp_path / "out", {})
    assert read_layout(tmp_path / "out") == [{"image": RED_PLACE}]


@pytest.mark.parametrize(("tables", "message"), [
    ({}, "The splits of a table need names of letters, digits and '_', but are: ."),
    ({"../x": []}, "The splits of a table need names of letters, digits and '_', but are: ../x."),
    ({"train": [{"a": b"text"}]}, "Split 'train', row 1, column 'a': bytes that are no picture."),
    ({"train": [{"a": [{1}]}]}, "Split 'train', row 1, column 'a': a value of type set has no form in JSON."),
])
def test_tables_that_cannot_be_laid_out(tmp_path, tables, message):
    assert fault_of(lay_out_rows, tables, tmp_path / "out", {}).message == message
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "mine").touch()
    for call in (lambda: lay_out_rows({"train": []}, tmp_path, {}),
                 lambda: fetch_hub_copy(HubCopy(id="owner/set", form="files"), tmp_path)):
        assert fault_of(call).message == f"'{tmp_path}' exists already."
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_rows_are_not_held_in_memory(tmp_path):
    """A row is written before the next is asked for."""
    def make_rows():
        for number in range(3):
            yield {"n": number, "image": RED}
            assert (tmp_path / "out.part" / RED_PLACE).exists()
            assert not (tmp_path / "out").exists()

    lay_out_rows({"train": make_rows()}, tmp_path / "out", {})
    assert [row["n"] for row in read_layout(tmp_path / "out")] == [0, 1, 2]


@pytest.mark.parametrize(("content", "extension"), [
    (RED, ".png"), (BLUE, ".jpg"), (draw("red", "GIF"), ".gif"), (draw("red", "BMP"), ".bmp"),
    (draw("red", "TIFF"), ".tif"), (draw("red", "WEBP"), ".webp"), (b"", ".bin"), (b"<html>", ".bin")])
def test_extensions_follow_the_bytes(content, extension):
    assert find_extension(content) == extension


class PlayedHub:
    """Answers the requests of the hub's client for one repository; the client itself, its cache included, is real."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.fetched: list[str] = []

    def answer(self, request):
        path = request.url.path
        if "/resolve/" in path:
            return self._answer_file(request, path.partition(f"/resolve/{COMMIT}/")[2])
        if "/tree/" in path:
            return http.Response(200, json=[{"type": "file", "path": name, "size": len(content), "oid": digest(content)}
                                            for name, content in self.files.items()])
        return http.Response(200, json={"id": "owner/set", "sha": COMMIT, "siblings": []})

    def _answer_file(self, request, name: str):
        content = self.files[name]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest(content)}"', "Content-Length": str(len(content))}
        if request.method == "HEAD":
            return http.Response(200, headers=headers)
        self.fetched.append(name)
        return http.Response(200, headers=headers, content=content)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:40]


@pytest.fixture
def play(monkeypatch):
    """Put a function in the place of the network, below the hub's client."""
    import huggingface_hub

    def start(answer) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
        huggingface_hub.set_client_factory(lambda: http.Client(transport=http.MockTransport(answer)))

    yield start
    huggingface_hub.utils._http.set_client_factory(huggingface_hub.utils._http.default_client_factory)


@pytest.fixture
def played(play) -> PlayedHub:
    images = io.BytesIO()
    with zipfile.ZipFile(images, "w") as archive:
        archive.writestr("imgs/xmlab0/source.jpg", BLUE)
    hub = PlayedHub({"train.json": b"[]", "imgs.zip": images.getvalue(), "README.md": b"# Set"})
    play(hub.answer)
    return hub


def test_files_are_fetched_once_and_unpacked(tmp_path, monkeypatch, played):
    copy = HubCopy(id="owner/set", form="files", patterns=("*.json", "*.zip"))
    assert fetch_hub_copy(copy, tmp_path / "out") == COMMIT
    assert sorted(played.fetched) == ["imgs.zip", "train.json"]
    files = {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
             for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {"train.json": b"[]", "imgs/xmlab0/source.jpg": BLUE}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetch_hub_copy(copy, tmp_path / "again") == COMMIT
    assert len(played.fetched) == 2
    assert (tmp_path / "again" / "imgs" / "xmlab0" / "source.jpg").read_bytes() == BLUE


def test_a_copy_without_the_files_wanted(tmp_path, played):
    copy = HubCopy(id="owner/set", form="files", patterns=("*.csv",))
    assert fault_of(fetch_hub_copy, copy, tmp_path / "out").message == (
        "The hub data set 'owner/set' holds no file like *.csv.")


@pytest.mark.parametrize("form", ["files", "rows"])
def test_offline_is_one_clear_error(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    error = fault_of(fetch_hub_copy, HubCopy(id="owner/set", form=form), tmp_path / "out")
    assert error.message == ("The hub data set 'owner/set' is not in the cache of the hub, and HF_HUB_OFFLINE forbids "
                             "to fetch it.")
    assert error.hint == f"Run again without HF_HUB_OFFLINE on a machine with a network. {BY_HAND}"
    assert list(tmp_path.iterdir()) == []


def make_failures() -> list:
    reply = http.Response(404, request=http.Request("GET", "https://hub"))
    gated = "is open only to those who were granted access."
    missing = "does not exist, or is not open to you."
    unreachable = "cannot be fetched: the hub cannot be reached."
    return [(GatedRepoError("no", response=reply), gated), (RepositoryNotFoundError("no", response=reply), missing),
            (RevisionNotFoundError("no", response=reply), "has no revision 'v9'."),
            (http.ConnectError("refused"), unreachable), (http.ReadTimeout("slow"), unreachable),
            (ConnectionError("Couldn't reach"), unreachable),
            (IncompleteSnapshotError("cut", snapshot_path="x"), unreachable),
            (ValueError("Config name is missing.\nmore"), "cannot be used: Config name is missing.")]


@pytest.mark.parametrize("form", ["files", "rows"])
@pytest.mark.parametrize("number", range(8))
def test_failures_of_the_hub(tmp_path, monkeypatch, form, number):
    failure, fault = make_failures()[number]

    def fail(*arguments, **options):
        raise failure

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.snapshot_download" if form == "files" else "datasets.load_dataset", fail)
    error = fault_of(fetch_hub_copy, HubCopy(id="owner/set", form=form), tmp_path / "out", revision="v9")
    assert error.message == f"The hub data set 'owner/set' {fault}"
    assert error.hint.endswith(BY_HAND)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["files", "rows"])
@pytest.mark.parametrize(("status", "code", "fault"), [
    (403, "GatedRepo", "is open only to those who were granted access."),
    (401, "GatedRepo", "is open only to those who were granted access."),
    (404, "RepoNotFound", "does not exist, or is not open to you."),
    (404, "RevisionNotFound", "has no revision 'v9'."),
])
def test_refusals_of_the_hub(tmp_path, monkeypatch, play, form, status, code, fault):
    monkeypatch.chdir(tmp_path)
    headers = {"X-Error-Code": code, "X-Error-Message": "no"}
    play(lambda request: http.Response(status, headers=headers, request=request))
    error = fault_of(fetch_hub_copy, HubCopy(id="owner/set", form=form), tmp_path / "out", revision="v9")
    assert error.message == f"The hub data set 'owner/set' {fault}"


def test_a_full_disk_is_one_error(tmp_path, table, monkeypatch):
    table.save_to_disk(str(tmp_path / "saved"))

    def fill(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("medvqa_cli.data.files.layout._write_once", fill)
    error = fault_of(lay_out_saved, tmp_path / "saved", tmp_path / "out")
    assert error.message == "The disk is full: the data set could not be fetched or laid out."
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]

"""Original files: searched for, named, unpacked, fetched or laid out once, and kept when nothing has changed."""

from __future__ import annotations

import json
import os
import zipfile

import pytest

from medvqa_cli.data.files import hub
from medvqa_cli.errors import DataError, SettingsError
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.data import load_samples, prepare_data
from medvqa_cli.workflows.sources import find_source
from tests.data.builders import Notes, build_rad, build_slake


def zip_folder(folder, archive, prefix=""):
    with zipfile.ZipFile(archive, "w") as stream:
        for path in sorted(folder.rglob("*")):
            stream.write(path, f"{prefix}{path.relative_to(folder).as_posix()}")
    return archive


@pytest.mark.parametrize("prefix", ["", "Slake1.0/"])
def test_an_archive_is_unpacked_once(configure, tmp_path, prefix):
    archive = zip_folder(build_slake(tmp_path / "slake"), tmp_path / "Slake1.0.zip", prefix)
    plain = prepare_data(configure("slake", tmp_path / "slake"))
    notes = Notes()
    unpacked = prepare_data(configure("slake", archive), progress=notes)
    assert unpacked.counts == plain.counts == {"train": 3, "validation": 1, "test": 2}
    assert notes.said[0] == f"Unpacking '{archive}'."
    assert load_samples(configure("slake"), "test")[0].images[0].startswith(str(tmp_path / "prepared" / "slake"))
    again = Notes()
    assert not prepare_data(configure("slake", archive), progress=again).fresh
    assert again.said == ["'slake' is prepared and unchanged: train 3, validation 1, test 2."]
    assert not prepare_data(configure("slake")).fresh


def test_a_changed_archive_is_unpacked_anew(configure, tmp_path):
    archive = zip_folder(build_slake(tmp_path / "slake"), tmp_path / "Slake1.0.zip")
    first = prepare_data(configure("slake", archive))
    (tmp_path / "slake" / "test.json").write_text(
        json.dumps(json.loads((tmp_path / "slake" / "test.json").read_text())[:1]))
    zip_folder(tmp_path / "slake", archive)
    os.utime(archive, (1, 1))
    second = prepare_data(configure("slake", archive))
    assert (second.fresh, second.counts["test"]) == (True, 1)
    assert second.fingerprint != first.fingerprint


def test_a_broken_archive_leaves_what_was_there(configure, tmp_path):
    archive = zip_folder(build_slake(tmp_path / "slake"), tmp_path / "Slake1.0.zip")
    prepare_data(configure("slake", archive))
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(DataError, match=r"Slake1\.0\.zip"):
        prepare_data(configure("slake", archive))
    assert len(load_samples(configure("slake"), "test")) == 2
    assert not list((tmp_path / "prepared" / "slake").glob("*.part"))


def test_the_hub_copy_is_fetched_when_asked_for(configure, tmp_path, monkeypatch):
    built, fetched = build_slake(tmp_path / "hub"), []

    def fetch(copy, target, *, revision, progress):
        fetched.append((copy.id, revision))
        zip_folder(built, tmp_path / "copy.zip")
        with zipfile.ZipFile(tmp_path / "copy.zip") as stream:
            stream.extractall(target)

    monkeypatch.setattr(hub, "fetch_hub_copy", fetch)
    prepared = prepare_data(configure("slake", source="hf", revision="abc"))
    assert prepared.counts == {"train": 3, "validation": 1, "test": 2}
    assert fetched == [("BoKelvin/SLAKE", "abc")]
    assert not prepare_data(configure("slake", source="hf", revision="abc")).fresh
    assert not prepare_data(configure("slake")).fresh  # auto takes what was fetched before
    assert len(fetched) == 1
    source = find_source(configure("slake", source="local"))
    facts = json.loads((prepared.path / "store.json").read_text())
    assert source.find_change(facts) == "its files were fetched from the hub copy 'BoKelvin/SLAKE' (abc)"
    notes = Notes()
    local = prepare_data(configure("slake", built), progress=notes)
    assert local.fresh
    assert notes.said[0] == (f"Preparing 'slake': its files were fetched from the hub copy 'BoKelvin/SLAKE' (abc) and "
                             f"are now in '{built}'.")


@pytest.mark.parametrize(("data", "error", "text"), [
    ({"dataset": "demo", "source": "hf"}, SettingsError,
     "data.source is 'hf', but the data set 'demo' makes its own files."),
    ({"dataset": "slake", "source": "hf", "root": "/x"}, SettingsError,
     "data.source is 'hf', but data.root names '/x'."),
    ({"dataset": "conversations", "source": "hf"}, DataError,
     "The data set 'conversations' has no copy on the hub that medvqa knows."),
    ({"dataset": "vqa_med_2019", "source": "hf"}, DataError, "vqa_med_2019"),
])
def test_what_cannot_be_fetched_is_said(data, error, text):
    with pytest.raises(error) as caught:
        find_source(make_settings({"data": data}))
    assert text in str(caught.value)
    assert caught.value.hint


def test_a_declared_data_set_has_its_own_store(tmp_path):
    root = build_rad(tmp_path / "rad")
    tree = {"paths": {"prepared": str(tmp_path / "prepared")},
            "datasets": {"my-rad": {"reader": "vqa_rad", "root": str(root), "options": {"closed": "yes_no"}}},
            "data": {"dataset": "my_rad", "question_type": "closed"}}
    prepared = prepare_data(make_settings(tree))
    assert (prepared.name, prepared.path) == ("my_rad", tmp_path / "prepared" / "my_rad")
    assert [(sample.dataset, sample.question_id) for sample in load_samples(make_settings(tree), "test")] == [
        ("my_rad", "5")], "a question carries its data set's name, not its reader's"
    tree["datasets"]["my-rad"]["options"] = {"closd": "yes_no"}
    with pytest.raises(SettingsError, match=r"Unknown setting 'datasets\.my_rad\.options\.closd'"):
        prepare_data(make_settings(tree))

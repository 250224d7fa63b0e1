"""Folders, cache, memory and hub: real folders below tmp_path, limits written as a kernel writes them."""

from __future__ import annotations

import errno
import os
import tempfile
from types import SimpleNamespace

import pytest

from medvqa_cli.workflows.machine import places
from medvqa_cli.workflows.machine.findings import GIB
from medvqa_cli.workflows.machine.probe_runner import Outcome

HUB = {"endpoint": "https://hub.example", "cache": "", "offline": False, "token": False}


@pytest.fixture
def disk(monkeypatch):
    """Let every disk have so many GiB free."""
    def set_free(gib: float) -> None:
        monkeypatch.setattr(places.shutil, "disk_usage", lambda _folder: SimpleNamespace(free=round(gib * GIB)))

    set_free(100)
    return set_free


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """Write limits of this process's control group and of those around it."""
    monkeypatch.setattr(places, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(places, "OWN_CGROUP", tmp_path / "own")

    def write(group: str, **limits: str) -> None:
        (tmp_path / "own").write_text("12:cpu:/old\n0::/slurm/job\n")
        folder = tmp_path / "cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in limits.items():
            (folder / name.replace("_", ".")).write_text(f"{value}\n")

    return write


def examine(runs, prepared, cache):
    return places.examine_folders(runs, prepared, Outcome({"cache": str(cache)}))


def test_folders_that_do_not_exist_yet_are_judged_by_what_is_above(tmp_path, disk):
    runs, prepared, cache = examine(tmp_path / "a" / "runs", tmp_path / "b", tmp_path / "hub")
    assert (runs.state, runs.detail) == ("ok", f"{tmp_path}/a/runs: 100 GiB free")
    assert (prepared.state, prepared.facts["free"]) == ("ok", 100 * GIB)
    assert (cache.state, cache.detail) == ("ok", f"{tmp_path}/hub: empty, 100 GiB free")
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_a_disk_below_one_gib_is_a_problem(tmp_path, disk):
    disk(0.9)
    runs, _, cache = examine(tmp_path, tmp_path, tmp_path)
    assert (runs.state, runs.exit_code, runs.detail) == ("problem", 7, f"{tmp_path}: 0.9 GiB free")
    assert runs.next_step.startswith("Free some space")
    assert (cache.state, cache.exit_code) == ("note", 0), "a full cache does not stop work with local models"
    disk(1.0)
    assert examine(tmp_path, tmp_path, tmp_path)[0].state == "ok"


def test_a_cache_without_room_for_a_checkpoint_is_a_note(tmp_path, disk):
    disk(20)
    assert examine(tmp_path, tmp_path, tmp_path)[2].next_step == (
        "A checkpoint of 7B takes about 14 GiB: let HF_HOME name a folder on a larger disk.")


def test_a_file_where_a_folder_should_be(tmp_path, disk):
    (tmp_path / "runs").write_text("")
    for place in (tmp_path / "runs", tmp_path / "runs" / "below"):
        found = examine(place, tmp_path, tmp_path)[0]
        assert (found.state, found.exit_code) == ("problem", 7)
        assert found.detail == f"{place}: no file can be written there (Not a directory)"


@pytest.mark.parametrize(("code", "words"), [
    (errno.EACCES, "Permission denied"), (errno.EROFS, "Read-only file system"), (errno.EDQUOT, "Disk quota exceeded")])
def test_no_leave_to_write(tmp_path, disk, monkeypatch, code, words):
    def refuse(**_arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    runs, _, cache = examine(tmp_path / "runs", tmp_path, tmp_path / "hub")
    assert runs.detail == f"{tmp_path}/runs: no file can be written there ({words})"
    assert runs.next_step == ("Choose another place with --runs-dir or --prepared-dir, or change its permissions.")
    assert (cache.state, cache.next_step) == ("note", "Let HF_HOME name a folder you may write to.")


@pytest.mark.skipif(hasattr(os, "getuid") and os.getuid() == 0, reason="root may look everywhere")
def test_a_folder_one_may_not_look_into(tmp_path, disk):
    (tmp_path / "closed").mkdir(mode=0o000)
    found = examine(tmp_path / "closed" / "runs", tmp_path, tmp_path)[0]
    assert "(Permission denied)" in found.detail


def test_the_cache_is_measured_once_for_every_link(tmp_path, disk):
    blobs = tmp_path / "models--org--name" / "blobs"
    snapshot = tmp_path / "models--org--name" / "snapshots" / "1"
    for folder in (blobs, snapshot, tmp_path / "datasets--org--set"):
        folder.mkdir(parents=True)
    (blobs / "a").write_bytes(b"0" * 1000)
    (blobs / "b.incomplete").write_bytes(b"0" * 10)
    (snapshot / "model.safetensors").symlink_to(blobs / "a")
    cache = examine(tmp_path, tmp_path, tmp_path)[2]
    assert cache.facts == {"path": str(tmp_path), "size": 1010, "repositories": 2, "unfinished": 1, "free": 100 * GIB}
    assert cache.state == "note"
    assert cache.detail == f"{tmp_path}: 0.0 GiB in 2 repositories, 100 GiB free; 1 unfinished download"
    assert cache.next_step == "Run the command that was downloading again: it goes on where it stopped."


def test_a_batch_job_may_use_less_than_the_machine_has(cgroup):
    cgroup("", memory_max="max", cpu_max="max 100000")
    cgroup("slurm", memory_max=str(10 * GIB), cpu_max="150000 100000")
    cgroup("slurm/job", memory_max=str(20 * GIB), cpu_max="max 100000")
    assert places.find_memory_limit() == 10 * GIB
    assert places.find_core_quota() == 1.5
    cores, memory = places.examine_computer(Outcome({"total": 64 * GIB, "available": 32 * GIB}))
    assert memory.facts == {"total": 10 * GIB, "available": 10 * GIB}
    assert memory.detail == "10 GiB available of 10 GiB (a limit of the container or batch job)"
    assert (memory.state, memory.next_step) == ("note", "Loading a real model wants 12 GiB or more; small ones work.")
    assert cores.facts["quota"] == 1.5


def test_without_limits_the_machine_counts(cgroup):
    cgroup("slurm/job", memory_max="max")
    assert (places.find_memory_limit(), places.find_core_quota()) == (None, None)
    memory = places.examine_computer(Outcome({"total": 64 * GIB, "available": 32 * GIB}))[1]
    assert (memory.state, memory.detail) == ("ok", "32 GiB available of 64 GiB")


def test_a_system_without_control_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "OWN_CGROUP", tmp_path / "none")
    assert places.read_limits("memory.max") == []


def test_memory_that_cannot_be_measured():
    memory = places.examine_computer(Outcome(failure="ModuleNotFoundError: No module named 'psutil'"))[1]
    assert (memory.state, memory.next_step) == ("note", "pip install psutil")
    assert memory.detail == "not known: ModuleNotFoundError: No module named 'psutil'"


@pytest.mark.parametrize(("settings", "reached", "state", "detail"), [
    ({}, Outcome({"status": 200}), "ok", "https://hub.example answers"),
    ({}, Outcome({"status": 407}), "note", "https://hub.example cannot be used: it answers with HTTP 407"),
    ({}, Outcome(failure="ConnectError: off"), "note", "https://hub.example cannot be used: ConnectError: off"),
    ({}, None, "ok", "not asked (--no-network)"),
    ({"offline": True}, None, "note",
     "offline mode is on (HF_HUB_OFFLINE): only what the cache holds can be loaded"),
    ({"offline": True}, Outcome({"status": None}), "note",
     "offline mode is on (HF_HUB_OFFLINE): only what the cache holds can be loaded"),
])
def test_the_hub(settings, reached, state, detail):
    network, token = places.examine_hub(Outcome({**HUB, **settings}), reached)
    assert (network.state, network.detail) == (state, detail)
    assert bool(network.next_step) == (state != "ok")
    assert (token.state, token.next_step) == ("note", "Only gated and private models need one: `hf auth login`.")


def test_a_token_is_there():
    assert places.examine_hub(Outcome({**HUB, "token": True}), None)[1].detail == "there is one"


def test_a_client_that_does_not_work():
    (found,) = places.examine_hub(Outcome(failure="ImportError: x"), None)
    assert (found.name, found.state, found.detail) == ("client", "note", "does not work: ImportError: x")

"""Run folders."""

from __future__ import annotations

import json
import os

import pytest

from medvqa_cli.errors import RunError, explain_os_error
from medvqa_cli.runs import (
    Run,
    check_name,
    create_run,
    describe_environment,
    find_free_name,
    latest_run,
    list_runs,
    open_run,
)


def make_run(runs, name: str, created: str, *, trained: bool = False) -> Run:
    run = create_run(runs, name)
    run.update_manifest(created=created)
    if trained:
        (run.path / "adapter").mkdir()
    return run


def test_a_new_run_has_a_manifest_with_versions(tmp_path):
    run = create_run(tmp_path / "runs", "demo-llava")
    manifest = json.loads(run.manifest.read_text())
    assert run.path == tmp_path / "runs" / "demo-llava"
    assert manifest["created"].endswith("+00:00")
    assert manifest["packages"]["numpy"]
    assert manifest["cpus"] == os.cpu_count()


def test_a_taken_name_gets_a_number(tmp_path):
    assert [create_run(tmp_path, "a").name for _ in range(3)] == ["a", "a-2", "a-3"]


def test_a_name_that_was_asked_for_is_that_name_or_an_error(tmp_path):
    run = create_run(tmp_path, "a", counts_up=False)
    assert (find_free_name(tmp_path, "a"), find_free_name(tmp_path, "b")) == ("a-2", "b")
    hints = []
    for change in (lambda: None, lambda: run.update_manifest(method="grpo", model={}), (run.path / "adapter").mkdir):
        change()
        with pytest.raises(RunError) as caught:
            create_run(tmp_path, "a", counts_up=False)
        assert caught.value.message == f"There is a run 'a' in '{tmp_path}' already."
        hints.append(caught.value.hint)
    assert hints == [
        f"Nothing has been trained in it: delete '{run.path}' if it is not needed, or choose another --name.",
        "Go on with it: medvqa train grpo --resume a, or choose another --name.",
        "It is finished: start from its weights with --init-from a and another --name."]
    assert [run.name for run in list_runs(tmp_path)] == ["a"]
    with pytest.raises(RunError, match=r"'\.\./a' is no run name"):
        check_name(tmp_path, "../a")


def test_a_folder_of_runs_that_cannot_be_made_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError) as caught:
        create_run(tmp_path / "file" / "runs", "a")
    assert caught.value.message == f"The folder of runs '{tmp_path / 'file' / 'runs'}' cannot be made: Not a directory."
    assert caught.value.hint == "Choose another place with --runs-dir."


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "-x", "ä"])
def test_a_run_name_is_a_plain_folder_name(tmp_path, name):
    with pytest.raises(RunError) as caught:
        create_run(tmp_path, name)
    assert caught.value.message == f"'{name}' is no run name."
    assert list(tmp_path.iterdir()) == []


def test_runs_come_newest_first(tmp_path):
    make_run(tmp_path, "old", "2026-01-01")
    make_run(tmp_path, "new", "2026-03-01")
    make_run(tmp_path, "middle", "2026-02-01")
    (tmp_path / "no-run").mkdir()
    (tmp_path / "file").write_text("")
    assert [run.name for run in list_runs(tmp_path)] == ["new", "middle", "old"]
    assert list_runs(tmp_path / "nowhere") == []


def test_a_damaged_manifest_hides_no_other_run(tmp_path):
    make_run(tmp_path, "good", "2026-01-01")
    bad = make_run(tmp_path, "bad", "2026-02-01")
    bad.manifest.write_text("{")
    assert [run.name for run in list_runs(tmp_path)] == ["good", "bad"]
    with pytest.raises(RunError, match=r"manifest\.json is damaged: "):
        bad.read_json("manifest.json")


def test_the_latest_run_is_the_newest_trained_one(tmp_path):
    make_run(tmp_path, "trained", "2026-01-01", trained=True)
    make_run(tmp_path, "broken-off", "2026-02-01")
    assert latest_run(tmp_path).name == "trained"


def test_without_a_trained_run_the_error_says_what_to_do(tmp_path):
    make_run(tmp_path, "broken-off", "2026-02-01")
    with pytest.raises(RunError) as caught:
        latest_run(tmp_path)
    assert caught.value.message == f"No model is named and there is no trained run in '{tmp_path}'."
    assert "medvqa quickstart" in caught.value.hint


def test_a_run_opens_by_name_or_path(tmp_path, monkeypatch):
    run = make_run(tmp_path / "runs", "a", "2026-01-01")
    monkeypatch.chdir(tmp_path)
    assert open_run(tmp_path / "runs", "a") == run
    assert open_run(tmp_path / "other", run.path) == run
    assert open_run(tmp_path / "other", "runs/a") == run


def test_an_unknown_run_lists_the_known(tmp_path):
    make_run(tmp_path, "b", "2026-01-01")
    with pytest.raises(RunError) as caught:
        open_run(tmp_path, "c")
    assert (caught.value.message, caught.value.hint) == (f"There is no run 'c' in '{tmp_path}'.", "Known: b.")
    with pytest.raises(RunError) as caught:
        open_run(tmp_path / "none", "c")
    assert caught.value.hint == "There are no runs yet: start with `medvqa quickstart`."


def test_weights_are_the_adapter_or_the_model(tmp_path):
    run = create_run(tmp_path, "a")
    assert run.weights is None
    (run.path / "model.part").mkdir()
    assert run.weights is None, "a half-written model is none"
    (run.path / "model").mkdir()
    assert run.weights == run.path / "model"


def test_the_manifest_merges_facts(tmp_path):
    run = create_run(tmp_path, "a")
    run.update_manifest(model={"family": "llava"})
    run.update_manifest(steps=3)
    manifest = run.read_json("manifest.json")
    assert (manifest["model"], manifest["steps"]) == ({"family": "llava"}, 3)


def test_a_missing_document_is_named(tmp_path):
    with pytest.raises(RunError, match=r"Run 'a' has no metrics\.json\."):
        create_run(tmp_path, "a").read_json("metrics.json")


def test_the_environment_outside_a_repository_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    assert describe_environment()["git_commit"] is None


@pytest.mark.parametrize(("number", "message"), [
    (28, "The disk is full: could not write '/x/y'."), (13, "No permission to write '/x/y'."),
    (30, "No permission to write '/x/y'."), (2, "No such file or directory: '/x/y'")])
def test_operating_system_errors_become_one_sentence(number, message):
    assert explain_os_error(OSError(number, os.strerror(number), "/x/y")).message == message

"""The whole check of tiny models, and what is left of it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

import pytest
import torch

from medvqa_cli import plugins
from medvqa_cli.errors import MedVQAError, SettingsError
from medvqa_cli.models.families import llava
from medvqa_cli.records import read_jsonl
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.sanity import SanityScope, check_sanity, open_folder

STEPS = ["load", "image tokens", "packing", "inference", "parameters", "training", "adapter", "calibration"]
CPU = {"model": {"device": "cpu", "dtype": "float32"}}


class Broken(type(llava.PLUGIN)):
    """A family whose checkpoint cannot be made."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def build_tiny(self, directory, **rest):
        directory.mkdir(parents=True)
        raise self.error


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A decoder that shares images and an encoder-decoder that does not, checked into a folder."""
    folder = tmp_path_factory.mktemp("kept")
    scope = SanityScope(tiny=True, families=("llava", "blip2"), train_samples=4, test_samples=3, calibration_samples=6,
                        output=folder)
    return folder, check_sanity(make_settings(CPU), scope)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary folders are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_every_step_of_two_families_passes(kept):
    _, report = kept
    assert [(check.title, check.detail, check.hint) for check in report.failed] == []
    assert [check.name for check in report.checks] == ["plugins", "configs", "metrics", "data", *STEPS, *STEPS]
    assert [check.title for check in report.checks if not check.passed] == ["blip2: packing"]
    assert report.peak_memory > 100 * 2**20
    report.raise_failures()


def test_what_is_said_is_what_the_runs_hold(kept):
    folder, report = kept
    for name in ("llava", "blip2"):
        said = {check.name: check.detail for check in report.checks if check.model == name}
        run = folder / name / "runs" / "trained"
        losses = [row["eval_loss"] for row in read_jsonl(run / "events.jsonl") if row["event"] == "eval"]
        assert said["training"].startswith(f"loss {losses[0]:.3f} to {losses[-1]:.3f} in 8 steps on 4 questions")
        assert losses[-1] < losses[0] - 0.2
        assert said["adapter"].startswith(f"loss {losses[-1]:.3f} as in training; 3 answers")
        assert (run / "adapter" / "adapter_model.safetensors").is_file()
        assert [len(list(read_jsonl(path / "predictions.jsonl"))) for path in (run, run.parent / "base")] == [3, 3]
        drawn = [sum(row["count"] for row in sample["samples"]) for sample in read_jsonl(run / "samples.jsonl")]
        assert drawn == [6, 6, 6]
        ece = json.loads((run / "metrics.json").read_text())["calibration"]["ece"]
        assert said["calibration"] == f"ECE {ece:.3f} on 3 questions, 6 answers each, of what was trained"


def test_the_report_is_kept_beside_them(kept):
    folder, report = kept
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(report.to_json()))
    assert report.folder == folder


def test_a_family_that_fails_hides_no_other_and_leaves_nothing_behind(temporary, monkeypatch):
    monkeypatch.setattr(plugins.models, "_loose", {"broken": Broken(KeyError("no such thing"))})
    scope = SanityScope(tiny=True, families=("broken", "llava"), inference_only=True, skip_calibration=True)
    report = check_sanity(make_settings(CPU), scope)
    found = [(check.title, check.state) for check in report.checks[4:]]
    assert found[:2] == [("broken: load", "failed"), ("broken: image tokens", "not run")]
    assert found[5:] == [(f"llava: {name}", "passed") for name in STEPS[:5]]
    assert report.checks[4].detail.startswith("KeyError: 'no such thing' (workflows/test_sanity.py, line ")
    assert report.checks[5].detail == "load failed"
    with pytest.raises(MedVQAError) as caught:
        report.raise_failures()
    assert caught.value.message == "1 of 14 checks failed: broken: load."
    assert list(temporary.iterdir()) == []
    assert report.folder is None


def test_data_that_cannot_be_had_do_not_keep_the_model_from_being_looked_at(tmp_path):
    settings = make_settings({**CPU, "data": {"dataset": "slake", "root": str(tmp_path)},
                              "paths": {"prepared": str(tmp_path / "prepared")}})
    report = check_sanity(settings, SanityScope(tiny=True, families=("llava",)))
    states = {check.name: (check.state, check.detail) for check in report.checks}
    assert states["data"][0] == "failed"
    for name in ("inference", "training", "adapter", "calibration"):
        assert states[name] == ("not run", "data failed")
    assert {states[name][0] for name in ("load", "image tokens", "packing", "parameters")} == {"passed"}


def test_when_it_is_stopped_the_temporary_folder_goes_and_a_named_one_stays(temporary, tmp_path, monkeypatch):
    monkeypatch.setattr(plugins.models, "_loose", {"broken": Broken(KeyboardInterrupt())})
    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        check_sanity(make_settings(CPU), SanityScope(tiny=True, families=("broken",)))
    assert list(temporary.iterdir()) == []
    assert torch.get_num_threads() == threads
    with pytest.raises(KeyboardInterrupt):
        check_sanity(make_settings(CPU), SanityScope(tiny=True, families=("broken",), output=tmp_path / "own"))
    found = json.loads((tmp_path / "own" / "report.json").read_text())
    assert [check["name"] for check in found["checks"]] == ["plugins", "configs", "metrics", "data"]


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(SettingsError) as caught:
            check_sanity(make_settings({}), SanityScope(basic=True, output=path))
        assert caught.value.message == f"--output-dir '{path}' is in use."
    assert (tmp_path / "file").read_text() == "mine"


def test_the_temporary_folder_can_be_kept(temporary):
    with open_folder(SanityScope(keep_outputs=True)) as folder:
        (folder / "file").write_text("mine")
    assert folder.parent == temporary
    assert (folder / "file").is_file()


def test_the_basic_check_needs_no_torch(tmp_path):
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in ("torch", "transformers", "peft", "accelerate"))
    code = (f"import sys; {blocked}; sys.argv = ['medvqa', 'sanity-check', '--basic', '--json']; "
            "from medvqa_cli.cli.app import app; app()")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
                          timeout=60)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [(check["name"], check["state"]) for check in report["checks"]] == [
        (name, "passed") for name in ("plugins", "configs", "metrics", "data")]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_every_registered_family_passes():
    report = check_sanity(make_settings(CPU), SanityScope(tiny=True, all_families=True))
    assert [(check.title, check.detail, check.hint) for check in report.failed] == []
    assert report.seconds < 300

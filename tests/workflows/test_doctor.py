"""The whole diagnosis: from what the probes tell to problems, exit codes and what fits."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from medvqa_cli.workflows import doctor
from medvqa_cli.workflows.doctor import diagnose_machine
from medvqa_cli.workflows.machine.findings import GIB, UnusableMachineError, as_gib, count
from medvqa_cli.workflows.machine.probe_runner import Outcome

GPU = {"index": 0, "name": "NVIDIA A100", "total": 40 * GIB, "free": 39 * GIB, "bf16": True, "capability": "8.0",
       "error": ""}
TORCH = {"version": "2.13.0", "cuda_build": "13.0", "hip_build": None, "warning": "", "gpus": [GPU], "mps": False,
         "mps_memory": 0}


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with an A100 where all is well; a test changes `outcomes`, and reads in `asked` what was looked at."""
    found = SimpleNamespace(asked=(), outcomes={
        "requirements": Outcome({"rows": [{"name": "torch", "range": ">=2.7", "version": "2.13.0", "extra": "",
                                           "fit": "fits"}]}),
        "memory": Outcome({"total": 64 * GIB, "available": 48 * GIB}),
        "hub settings": Outcome({"endpoint": "https://hub.example", "cache": str(tmp_path / "hub"), "offline": False,
                                 "token": True}),
        "torch": Outcome(TORCH),
        "bitsandbytes": Outcome({"version": "1", "device": "cuda", "error_4bit": 0.1, "finite_8bit": True}),
        "flash-attn": Outcome({"version": "2.8.3", "device": "cuda", "finite": True}),
        "hub": Outcome({"status": 200}),
    })

    def run(names, _progress):
        found.asked = tuple(names)
        return {name: found.outcomes[name] for name in names if name in found.outcomes}

    monkeypatch.setattr(doctor, "run_probes", run)
    monkeypatch.setattr(doctor, "find_version", lambda name: "1" if name in {"bitsandbytes", "flash-attn"} else None)
    monkeypatch.setattr("medvqa_cli.workflows.machine.places.OWN_CGROUP", tmp_path / "none")
    return found


@pytest.fixture
def diagnose(tmp_path):
    return lambda **options: diagnose_machine(tmp_path / "runs", tmp_path / "prepared", **options)


def states(diagnosis) -> dict[str, str]:
    return {finding.name: finding.state for finding in diagnosis.findings}


def test_a_machine_where_all_is_well(machine, diagnose):
    diagnosis = diagnose()
    assert {name for name, state in states(diagnosis).items() if state != "ok"} == set()
    assert diagnosis.state == "ok"
    diagnosis.raise_problems()
    assert [finding.section for finding in diagnosis.findings] == sorted(
        (finding.section for finding in diagnosis.findings), key=doctor.SECTIONS.index)
    assert diagnosis.device.name == "NVIDIA A100"
    fits = {(verdict.model, verdict.job): verdict.answer for verdict in diagnosis.verdicts}
    assert (fits["13B", "LoRA"], fits["13B", "QLoRA"]) == ("yes", "yes")


def test_only_installed_packages_are_tried(machine, diagnose):
    diagnose()
    assert machine.asked == ("requirements", "memory", "hub settings", "torch", "bitsandbytes", "flash-attn", "hub")
    diagnose(network=False)
    assert "hub" not in machine.asked


def test_notes_do_not_stop_anything(machine, diagnose):
    machine.outcomes = machine.outcomes | {"hub": Outcome(failure="ConnectError: no route")}
    diagnosis = diagnose()
    assert diagnosis.state == "note"
    assert states(diagnosis)["network"] == "note"
    diagnosis.raise_problems()


def test_without_torch_the_rest_is_still_told(machine, diagnose):
    machine.outcomes = {name: outcome for name, outcome in machine.outcomes.items()
                        if name not in {"bitsandbytes", "flash-attn"}}
    machine.outcomes["torch"] = Outcome(failure="ModuleNotFoundError: No module named 'torch'")
    diagnosis = diagnose()
    assert states(diagnosis)["torch"] == "problem"
    assert states(diagnosis)["memory"] == states(diagnosis)["runs"] == "ok"
    assert (diagnosis.device, diagnosis.verdicts) == (None, ())
    with pytest.raises(UnusableMachineError) as caught:
        diagnosis.raise_problems()
    assert caught.value.message == "1 problem must be solved first: torch."
    assert caught.value.hint.startswith("Install the build for this machine")
    assert caught.value.exit_code == 6


def test_packages_come_before_folders(machine, diagnose, tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UnusableMachineError) as caught:
        diagnose().raise_problems()
    assert (caught.value.message, caught.value.exit_code) == ("1 problem must be solved first: runs.", 7)
    machine.outcomes = machine.outcomes | {"torch": Outcome(failure="it crashed (SIGSEGV)")}
    with pytest.raises(UnusableMachineError) as caught:
        diagnose().raise_problems()
    assert (caught.value.message, caught.value.exit_code) == ("2 problems must be solved first: torch, runs.", 6)


def test_everything_fails(machine, diagnose):
    machine.outcomes = {name: Outcome(failure="it crashed (SIGSEGV)")
                        for name in ("requirements", "memory", "hub settings", "torch", "hub")}
    diagnosis = diagnose()
    assert states(diagnosis) == {"medvqa": "ok", "packages": "note", "torch": "problem", "vllm": "ok", "CPU": "ok",
                                 "memory": "note", "runs": "ok", "prepared data": "ok", "client": "note"}
    assert [item.verdict for item in diagnosis.hardware[:2]] == ["none", "none"]
    assert diagnosis.hardware[2].here > 0, "the disk is known without any package"


def test_the_document_is_plain(machine, diagnose):
    document = json.loads(json.dumps(diagnose().to_json()))
    assert document["state"] == "ok"
    gpu = next(item for item in document["findings"] if item["name"] == "GPU 0")
    assert gpu["facts"]["free"] == 39 * GIB
    assert document["device"]["kind"] == "cuda"
    assert document["verdicts"][0] == {"model": "3B", "job": "infer", "needs": document["verdicts"][0]["needs"],
                                       "answer": "yes"}
    assert document["hardware"][0] == {"part": "GPU", "here": 40 * GIB, "smallest": 16, "comfortable": 40,
                                       "verdict": "comfortable"}
    assert "parameters" in document["rule"]


def test_sizes_and_numbers_for_people():
    assert [as_gib(size * GIB) for size in (0.04, 1, 9.94, 9.96, 139.8)] == [
        "0.0 GiB", "1.0 GiB", "9.9 GiB", "10 GiB", "140 GiB"]
    assert [count(1, "repository"), count(2, "repository"), count(0, "core")] == ["1 repository", "2 repositories",
                                                                                 "0 cores"]

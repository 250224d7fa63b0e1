"""`medvqa doctor`: what is printed and how it exits; the probes run for real where they are cheap."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from medvqa_cli.cli.doctor import print_diagnosis
from medvqa_cli.cli.terminal import Terminal
from medvqa_cli.workflows import doctor
from medvqa_cli.workflows.doctor import Diagnosis
from medvqa_cli.workflows.machine.capacity import Device, compare_hardware, judge_jobs
from medvqa_cli.workflows.machine.findings import GIB, Finding

LONG = "/a/very/long/folder/name/that/does/not/fit/into/a/narrow/terminal/at/all/whatever/is/done/runs"


def make_diagnosis(*findings: Finding, device: Device | None = None) -> Diagnosis:
    hardware = compare_hardware({}, {"total": 24 * GIB}, 70 * GIB)
    return Diagnosis(findings, tuple(hardware), device, tuple(judge_jobs(device)) if device else ())


@pytest.fixture
def found(monkeypatch):
    """Let the workflow find this, and note how it was called."""
    calls = []

    def set_findings(*findings: Finding, device: Device | None = None) -> list:
        def fake(*arguments, **options):
            calls.append((*map(str, arguments), options["network"]))
            return make_diagnosis(*findings, device=device)

        monkeypatch.setattr(doctor, "diagnose_machine", fake)
        return calls

    return set_findings


GOOD = Finding(section="software", name="torch", detail="2.13.0, built for CUDA 13.0")
NOTED = Finding(section="hub", name="token", detail="there is none", state="note", next_step="`hf auth login`.")
BAD = Finding(section="folders", name="runs", detail="no file can be written there", state="problem",
              next_step="Choose another place.", exit_code=7)


def test_notes_exit_with_0(medvqa, found):
    calls = found(GOOD, NOTED)
    result = medvqa("doctor", "--runs-dir", "/a", "--prepared-dir", "/b", "--no-network")
    assert result.exit_code == 0
    assert calls == [("/a", "/b", False)]
    assert result.stdout.splitlines()[:6] == [
        "Software", "  ok      torch          2.13.0, built for CUDA 13.0", "",
        "Hub", "  note    token          there is none", "                         next: `hf auth login`."]
    assert "memory      12 GiB    32 GiB       24 GiB  enough" in result.stdout
    assert "What fits" not in result.stdout


def test_the_network_is_asked_and_folders_come_from_the_settings(medvqa, found, monkeypatch):
    calls = found(GOOD)
    monkeypatch.setenv("MEDVQA_PATHS__RUNS", "/mine")
    assert medvqa("doctor").exit_code == 0
    assert calls == [("/mine", "prepared", True)]


def test_a_problem_is_an_error_after_everything_was_printed(medvqa, found):
    found(GOOD, BAD)
    result = medvqa("doctor")
    assert result.exit_code == 7
    assert "  problem runs           no file can be written there" in result.stdout.splitlines()
    assert result.stderr == "error: 1 problem must be solved first: runs.\nhint: Choose another place.\n"


def test_json_is_one_document_with_problems_too(medvqa, found):
    found(GOOD, BAD, device=Device("CPU", "cpu", 20 * GIB, 20 * GIB))
    result = medvqa("doctor", "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["state"], document["device"]["name"]) == (7, "problem", "CPU")
    assert [item["state"] for item in document["findings"]] == ["ok", "problem"]


def test_what_fits_with_the_meaning_of_each_word(medvqa, found):
    found(GOOD, device=Device("NVIDIA A10", "cuda", 22 * GIB, 44 * GIB, count=2, runs_4bit=False))
    lines = medvqa("doctor").stdout.splitlines()
    assert "What fits: NVIDIA A10, 22 GiB free now, 44 GiB on 2 GPUs together" in lines
    assert "3B     yes, 9 GiB      no 4-bit     yes, 12 GiB     no 4-bit" in lines
    assert "13B    spread, 32 GiB  no 4-bit     spread, 38 GiB  no 4-bit" in lines
    assert any(line.startswith("Memory = parameters x 2 bytes") for line in lines)
    assert "no 4-bit: bitsandbytes does not work here." in lines
    assert not any(line.startswith("slow:") for line in lines)


@pytest.mark.parametrize("width", [80, 160])
def test_no_line_is_wider_than_the_terminal_but_for_paths(monkeypatch, capsys, width):
    terminal = Terminal()
    monkeypatch.setattr(terminal.console(stderr=False), "_width", width)
    words = Finding(section="software", name="packages", detail="many words " * 30, state="note", next_step="go " * 60)
    path = Finding(section="folders", name="runs", detail=f"{LONG}: 70 GiB free")
    print_diagnosis(terminal, make_diagnosis(words, path, GOOD, device=Device("CPU", "cpu", 20 * GIB, 20 * GIB)))
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in lines if len(line) > width] in ([], [f"{LONG}:"])
    assert any(LONG in line for line in lines), "a path can be copied whole"
    assert max(len(line) for line in lines if LONG not in line) > width * 0.8, "the width is used"


def test_help(medvqa):
    result = medvqa("doctor", "--help")
    assert result.exit_code == 0
    for word in ("--no-network", "--json", "--runs-dir"):
        assert word in result.stdout


def test_a_broken_torch_in_a_fresh_process(tmp_path):
    """The whole way: torch cannot be imported, the command says so and ends with the code of a missing package."""
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1",
                   "MEDVQA_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "medvqa_cli", "doctor", "--json"], capture_output=True, text=True,
                          env=environment, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 6, done.stderr
    findings = {item["name"]: item for item in json.loads(done.stdout)["findings"]}
    assert "libcudart.so.13" in findings["torch"]["detail"]
    assert findings["runs"]["state"] == "ok"
    assert findings["network"]["detail"].startswith("offline mode is on")
    assert done.stderr.splitlines()[-2].startswith("error: 1 problem must be solved first: torch.")
    assert "Traceback" not in done.stderr

"""Findings about packages and GPUs, from what the probes tell."""

from __future__ import annotations

import pytest

from medvqa_cli.workflows.machine import accelerators
from medvqa_cli.workflows.machine.accelerators import examine_accelerators
from medvqa_cli.workflows.machine.findings import GIB, Finding
from medvqa_cli.workflows.machine.probe_runner import Outcome
from medvqa_cli.workflows.machine.software import examine_extras, examine_packages

TORCH = {"version": "2.13.0", "cuda_build": "13.0", "hip_build": None, "warning": "", "gpus": [], "mps": False,
         "mps_memory": 0}
GPU = {"index": 0, "name": "NVIDIA A100", "total": 40 * GIB, "free": 39 * GIB, "bf16": True, "capability": "8.0",
       "error": ""}
WORKING_4BIT = {"version": "0.50", "device": "cuda", "error_4bit": 0.15, "finite_8bit": True}


@pytest.fixture(autouse=True)
def no_driver(monkeypatch, tmp_path):
    monkeypatch.setattr(accelerators, "DRIVER_FILE", tmp_path / "version")
    monkeypatch.setattr(accelerators.shutil, "which", lambda _name: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def row(name: str, fit: str, version: str | None = "1.0", extra: str = "") -> dict:
    return {"name": name, "range": ">=2", "version": version, "extra": extra, "fit": fit}


def look(name: str, torch: dict | None = None, **others: Outcome) -> Finding:
    outcomes = {"torch": Outcome(TORCH | (torch or {})), **{key.replace("_", "-"): value for key, value in
                                                            others.items()}}
    return {finding.name: finding for finding in examine_accelerators(outcomes)}[name]


def require(*rows: dict, **others: Outcome) -> dict[str, Finding]:
    return {finding.name: finding
            for finding in examine_packages({"requirements": Outcome({"rows": list(rows)}), **others})}


def test_packages_in_their_range_share_a_line():
    found = require(row("torch", "fits"), row("peft", "fits"), row("trl", "missing", None, "grpo"))
    assert list(found) == ["medvqa", "packages"]
    assert found["packages"].detail == "2 of 2 in the range medvqa needs: torch 1.0, peft 1.0"


def test_packages_out_of_their_range():
    found = require(row("torch", "newer", "3.0"), row("peft", "older"), row("jinja2", "missing", None))
    assert found["packages"].detail.startswith("0 of 3 in the range")
    peft, jinja, torch = found["peft"], found["jinja2"], found["torch"]
    assert (peft.state, peft.exit_code, peft.detail) == ("problem", 6, "1.0 is too old: >=2 is needed")
    assert (jinja.state, jinja.exit_code, jinja.next_step) == ("problem", 6, "pip install 'jinja2>=2'")
    assert (torch.state, torch.exit_code) == ("note", 0)
    assert torch.detail == "3.0 is newer than medvqa was tested with (>=2)"


def test_what_accelerators_look_at_is_not_told_twice():
    assert list(require(row("torch", "missing", None), row("bitsandbytes", "missing", None))) == ["medvqa", "packages"]


def test_a_package_that_is_installed_and_fails():
    found = require(row("peft", "fits"), peft=Outcome(failure="ImportError: cannot import name 'x'"))["peft"]
    assert (found.state, found.exit_code) == ("problem", 6)
    assert found.detail == "making an adapter fails: ImportError: cannot import name 'x'"
    assert "peft" in require(row("peft", "missing", None), peft=Outcome(failure="x"))
    assert require(row("peft", "missing", None), peft=Outcome(failure="x"))["peft"].detail == "not installed"


def test_medvqa_run_from_its_source_folder():
    outcome = Outcome(failure="PackageNotFoundError: medvqa-cli")
    found = examine_packages({"requirements": outcome})[1]
    assert (found.state, found.exit_code) == ("note", 0)
    assert found.next_step.startswith("Install medvqa with its packages")


def test_extras():
    rows = [row("pydicom", "fits", "3.0", "dicom"), row("pylibjpeg", "missing", None, "dicom"),
            row("trl", "missing", None, "grpo"), row("pytest", "missing", None, "test"),
            row("flash-attn", "missing", None, "flash"), row("wandb", "fits", "0.20", "tracking")]
    found = {finding.name: finding for finding in examine_extras({"requirements": Outcome({"rows": rows})})}
    assert list(found) == ["[dicom]", "[grpo]", "[tracking]", "vllm"]
    dicom = found["[dicom]"]
    assert (dicom.state, dicom.detail) == ("note", "not installed: pylibjpeg to read DICOM files (there: pydicom 3.0)")
    assert dicom.next_step == "If you need it: pip install 'medvqa-cli[dicom]'"
    assert (found["[grpo]"].state, found["[tracking]"].detail) == ("ok", "wandb 0.20")


def test_broken_torch_is_the_one_finding():
    found = examine_accelerators({"torch": Outcome(failure="OSError: libcudart.so.13")})
    assert [(item.name, item.state, item.exit_code) for item in found] == [("torch", "problem", 6)]
    assert "is installed and does not work: OSError: libcudart.so.13" in found[0].detail
    assert "pytorch.org" in found[0].next_step


def test_torch_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(accelerators, "find_version", lambda _name: None)
    found = examine_accelerators({"torch": Outcome(failure="ModuleNotFoundError: No module named 'torch'")})
    assert found[0].detail == "not installed (ModuleNotFoundError: No module named 'torch')"


@pytest.mark.parametrize(("builds", "detail"), [
    ({}, "2.13.0, built for CUDA 13.0"), ({"cuda_build": None, "hip_build": "7.1"}, "2.13.0, built for ROCm 7.1"),
    ({"cuda_build": None}, "2.13.0, built without CUDA")])
def test_builds_of_torch(builds, detail):
    assert look("torch", builds).detail == detail


@pytest.mark.parametrize(("facts", "detail", "step"), [
    ({}, "NVIDIA A100, 39 GiB free of 40 GiB, compute capability 8.0, bfloat16", ""),
    ({"free": 10 * GIB}, "NVIDIA A100, 10 GiB free of 40 GiB, compute capability 8.0, bfloat16; other programs use it",
     "`nvidia-smi` shows which; take another one with --gpu."),
    ({"free": 0, "error": "CUDA error: full"},
     "NVIDIA A100, 0.0 GiB free of 40 GiB, compute capability 8.0, bfloat16; cannot be used now: CUDA error: full",
     "`nvidia-smi` shows who uses it; take another one with --gpu."),
    ({"bf16": False, "capability": "7.5"},
     "NVIDIA A100, 39 GiB free of 40 GiB, compute capability 7.5, no bfloat16 of its own",
     "Models answer in float16 there and are trained in float32: bfloat16 would be emulated, slowly."),
])
def test_a_gpu(facts, detail, step):
    found = look("GPU 0", {"gpus": [GPU | facts]})
    assert (found.detail, found.next_step, found.state) == (detail, step, "note" if step else "ok")


def test_every_gpu_has_a_line():
    found = examine_accelerators({"torch": Outcome(TORCH | {"gpus": [GPU, GPU | {"index": 1}]})})
    assert [item.name for item in found if item.section == "hardware"] == ["GPU 0", "GPU 1"]


def test_an_apple_gpu():
    assert look("GPU", {"mps": True, "mps_memory": 20 * GIB}).detail == "Apple GPU (MPS), 20 GiB for models"


@pytest.mark.parametrize(("torch", "driver", "visible", "detail"), [
    ({"cuda_build": None}, False, None, "none: models run on the CPU"),
    ({}, False, None, "none: models run on the CPU"),
    ({}, True, "", "CUDA_VISIBLE_DEVICES is '', which hides every GPU"),
    ({}, True, "-1", "CUDA_VISIBLE_DEVICES is '-1', which hides every GPU"),
    ({"cuda_build": None}, True, None, "there is an NVIDIA driver, but torch is built without CUDA"),
    ({"warning": "driver too old"}, True, None, "torch cannot use the GPU: driver too old"),
    ({}, True, "7", "torch cannot use the GPU: the driver shows it no device"),
])
def test_why_there_is_no_gpu(monkeypatch, torch, driver, visible, detail):
    if driver:
        accelerators.DRIVER_FILE.write_text("NVRM version")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = look("GPU", torch)
    assert (found.state, found.detail) == ("note", detail)
    assert found.next_step


def test_bitsandbytes():
    assert look("bitsandbytes", bitsandbytes=Outcome(WORKING_4BIT)).detail == "0.50, 8-bit and 4-bit work on the GPU"
    cpu = look("bitsandbytes", bitsandbytes=Outcome(WORKING_4BIT | {"device": "cpu"}))
    assert (cpu.state, cpu.detail) == ("ok", "0.50, 8-bit and 4-bit work on the CPU")
    assert look("bitsandbytes").detail == "not installed: no 8-bit or 4-bit models"


@pytest.mark.parametrize(("outcome", "words"), [
    (Outcome(failure="RuntimeError: CUDA setup failed"), "RuntimeError: CUDA setup failed"),
    (Outcome(WORKING_4BIT | {"error_4bit": 1.5}), "a weight of at most 1 came back from 4 bit off by 1.5"),
    (Outcome(WORKING_4BIT | {"error_4bit": float("nan")}), "a weight of at most 1 came back from 4 bit off by nan"),
    (Outcome(WORKING_4BIT | {"finite_8bit": False}), "an 8-bit product is not finite"),
])
def test_bitsandbytes_that_does_not_work(outcome, words):
    found = look("bitsandbytes", bitsandbytes=outcome)
    assert (found.state, found.exit_code) == ("note", 0)
    assert found.detail.endswith(f"is installed and does not work: {words}")


@pytest.mark.parametrize(("torch", "outcome", "state", "words"), [
    ({}, None, "ok", "not installed; it needs a CUDA GPU of capability 8.0 or more"),
    ({"gpus": [GPU | {"capability": "7.5"}]}, None, "ok", "it needs a CUDA GPU of capability 8.0 or more"),
    ({"gpus": [GPU | {"capability": "12.0"}]}, None, "note", "not installed: attention runs as SDPA"),
    ({}, Outcome({"device": "", "version": "2.8.3"}), "ok", "2.8.3, not used without a CUDA GPU"),
    ({"gpus": [GPU]}, Outcome({"device": "cuda", "version": "2.8.3", "finite": True}), "ok", "2.8.3, works on the GPU"),
    ({"gpus": [GPU]}, Outcome({"device": "cuda", "version": "2.8.3", "finite": False}), "note", "not finite"),
    ({"gpus": [GPU]}, Outcome(failure="ImportError: undefined symbol: _ZN3c10"), "note", "undefined symbol"),
])
def test_flash_attention(torch, outcome, state, words):
    found = look("flash-attn", torch, **({"flash_attn": outcome} if outcome else {}))
    assert found.state == state
    assert words in found.detail


def test_torchvision_for_another_torch_stops_transformers():
    found = look("torchvision", torchvision=Outcome(failure="RuntimeError: operator torchvision::nms does not exist"))
    assert (found.state, found.exit_code) == ("problem", 6)
    assert "pip uninstall torchvision" in found.next_step
    assert look("torchvision").state == "ok"

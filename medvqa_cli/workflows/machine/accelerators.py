"""Findings about torch, GPUs, and the packages that make models smaller or faster."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.workflows.machine.capacity import WANTED
from medvqa_cli.workflows.machine.findings import MISSING_PACKAGE, Finding, as_gib
from medvqa_cli.workflows.machine.software import find_version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from medvqa_cli.workflows.machine.probe_runner import Outcome

    Facts = Mapping[str, Any]

INSTALL_TORCH = "Install the build for this machine that https://pytorch.org/get-started/locally names."
DRIVER_FILE = Path("/proc/driver/nvidia/version")
CROWDED = 0.5
LARGEST_4BIT_ERROR = 0.2  # half of NF4's widest step is 0.15 of the largest weight of a block
FLASH_CAPABILITY = 8.0


def examine_accelerators(outcomes: Mapping[str, Outcome]) -> list[Finding]:
    """Return findings about torch, every GPU, bitsandbytes, flash-attn and torchvision; of broken torch only that."""
    torch = outcomes["torch"]
    if torch.failure:
        return [_describe_broken_torch(torch.failure)]
    return [_describe_torch(torch.facts), _describe_bitsandbytes(outcomes.get("bitsandbytes")),
            _describe_flash(outcomes.get("flash-attn"), torch.facts),
            _describe_torchvision(outcomes.get("torchvision")), *_describe_devices(torch.facts)]


def _describe_broken_torch(failure: str) -> Finding:
    version = find_version("torch")
    detail = f"{version} is installed and does not work: {failure}" if version else f"not installed ({failure})"
    return Finding(section="software", name="torch", detail=detail, state="problem", exit_code=MISSING_PACKAGE,
                   next_step=INSTALL_TORCH, facts={"version": version})


def _describe_torch(facts: Facts) -> Finding:
    build = next((f"for {kind} {facts[key]}" for key, kind in (("cuda_build", "CUDA"), ("hip_build", "ROCm"))
                  if facts[key]), "without CUDA")
    return Finding(section="software", name="torch", detail=f"{facts['version']}, built {build}",
                   facts={key: facts[key] for key in ("version", "cuda_build", "hip_build")})


def _describe_devices(facts: Facts) -> Iterator[Finding]:
    if facts["gpus"]:
        yield from map(_describe_gpu, facts["gpus"])
    elif facts["mps"]:
        yield Finding(section="hardware", name="GPU", detail=f"Apple GPU (MPS), {as_gib(facts['mps_memory'])} for "
                      "models", facts={"mps": True, "total": facts["mps_memory"]})
    else:
        yield _explain_absence(facts)


def _describe_gpu(gpu: Facts) -> Finding:
    notes = list(_find_gpu_notes(gpu))
    detail = (f"{gpu['name']}, {as_gib(gpu['free'])} free of {as_gib(gpu['total'])}, compute capability "
              f"{gpu['capability']}, {'bfloat16' if gpu['bf16'] else 'no bfloat16 of its own'}")
    return Finding(section="hardware", name=f"GPU {gpu['index']}", state="note" if notes else "ok", facts=gpu,
                   detail="; ".join([detail, *(what for what, _ in notes if what)]),
                   next_step=" ".join(step for _, step in notes))


def _find_gpu_notes(gpu: Facts) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a GPU, and what to do."""
    if gpu["error"]:
        yield f"cannot be used now: {gpu['error']}", "`nvidia-smi` shows who uses it; take another one with --gpu."
        return
    if gpu["free"] < CROWDED * gpu["total"]:
        yield "other programs use it", "`nvidia-smi` shows which; take another one with --gpu."
    if not gpu["bf16"]:
        yield "", "Models answer in float16 there and are trained in float32: bfloat16 would be emulated, slowly."


def _explain_absence(facts: Facts) -> Finding:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    built = facts["cuda_build"] or facts["hip_build"]
    if hidden is not None and hidden.strip() in {"", "-1"}:
        detail, step = f"CUDA_VISIBLE_DEVICES is '{hidden}', which hides every GPU", "Unset it, or name a GPU in it."
    elif _has_nvidia_driver() and not built:
        detail, step = "there is an NVIDIA driver, but torch is built without CUDA", INSTALL_TORCH
    elif facts["warning"] or (_has_nvidia_driver() and built):
        detail = f"torch cannot use the GPU: {facts['warning'] or 'the driver shows it no device'}"
        step = "`nvidia-smi` shows the newest CUDA the driver takes: update the driver, or install a torch for that."
    else:
        detail, step = ("none: models run on the CPU",
                        f"Real models want a GPU of {WANTED['GPU'].smallest} GiB or more.")
    return Finding(section="hardware", name="GPU", state="note", detail=detail, next_step=step)


def _has_nvidia_driver() -> bool:
    return DRIVER_FILE.exists() or shutil.which("nvidia-smi") is not None


def _describe_bitsandbytes(outcome: Outcome | None) -> Finding:
    name = "bitsandbytes"
    if outcome is None:
        return Finding(section="software", name=name, state="note", detail="not installed: no 8-bit or 4-bit models",
                       next_step="If you need them: pip install bitsandbytes")
    facts = outcome.facts
    wrong = outcome.failure or _find_wrong_number(facts)
    if wrong:
        return Finding(section="software", name=name, state="note", facts=facts,
                       detail=f"{find_version(name)} is installed and does not work: {wrong}",
                       next_step="8-bit and 4-bit models will fail: pip install --upgrade bitsandbytes")
    return Finding(section="software", name=name, facts=facts,
                   detail=f"{facts['version']}, 8-bit and 4-bit work on {_spell(facts['device'])}")


def _find_wrong_number(facts: Facts) -> str:
    if not facts["error_4bit"] <= LARGEST_4BIT_ERROR:  # so that NaN counts as wrong
        return f"a weight of at most 1 came back from 4 bit off by {facts['error_4bit']:.2g}"
    return "" if facts["finite_8bit"] else "an 8-bit product is not finite"


def _describe_flash(outcome: Outcome | None, torch: Facts) -> Finding:
    name = "flash-attn"
    usable = bool(torch["cuda_build"]) and any(float(gpu["capability"]) >= FLASH_CAPABILITY for gpu in torch["gpus"])
    if outcome is None:
        step = "To try it: pip install 'medvqa-cli[flash]' --no-build-isolation" if usable else ""
        return Finding(section="software", name=name, state="note" if usable else "ok", next_step=step,
                       detail="not installed: attention runs as SDPA"
                       if usable else "not installed; it needs a CUDA GPU of capability 8.0 or more")
    wrong = outcome.failure or ("its result is not finite" if not outcome.facts.get("finite", True) else "")
    if wrong:
        return Finding(section="software", name=name, state="note", facts=outcome.facts,
                       detail=f"{find_version(name)} is installed and does not work: {wrong}",
                       next_step="Attention runs as SDPA. To use it, build it for this torch: pip install "
                                 "--force-reinstall --no-build-isolation --no-deps flash-attn")
    place = f"works on {_spell('cuda')}" if outcome.facts["device"] else "not used without a CUDA GPU"
    return Finding(section="software", name=name, detail=f"{outcome.facts['version']}, {place}", facts=outcome.facts)


def _describe_torchvision(outcome: Outcome | None) -> Finding:
    name = "torchvision"
    if outcome is None:
        return Finding(section="software", name=name, detail="not installed; not needed")
    if outcome.failure:
        return Finding(section="software", name=name, state="problem", exit_code=MISSING_PACKAGE,
                       detail=f"{find_version(name)} is installed and does not work, and stops transformers with it: "
                              f"{outcome.failure}",
                       next_step="It is not needed: pip uninstall torchvision; or install the one for this torch.")
    return Finding(section="software", name=name, detail=str(outcome.facts["version"]), facts=outcome.facts)


def _spell(device: str) -> str:
    return {"cuda": "the GPU", "cpu": "the CPU"}[device]

"""Which sizes of model fit into this machine, for which job: a rule of thumb, stated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.workflows.machine.findings import GIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TOLERANCE = 0.9
"""A card sold as 16 GB shows 14.6 to 16 GiB: what comes so near counts."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """GiB of something that fine-tuning a real model wants: the least, and what makes it comfortable."""

    smallest: int
    comfortable: int

    def judge(self, size: float) -> str:
        """Return how a size in bytes stands: "none", "too little", "enough" or "comfortable"."""
        reached = size / (GIB * TOLERANCE)
        return ("none" if not size else "comfortable" if reached >= self.comfortable else
                "enough" if reached >= self.smallest else "too little")


WANTED = {"GPU": Wanted(16, 40), "memory": Wanted(12, 32), "disk": Wanted(25, 50)}
MODEL_SIZES = (3, 7, 13)
"""Billions of parameters."""
OVERHEAD = 1 * GIB
"""The device's context and the libraries' own buffers."""


@dataclass(frozen=True, slots=True)
class Job:
    """Something done with a model, and what it needs.

    What is held beside the weights grows with width x depth, as parameters grow with width^2 x depth: hence the power
    of 2/3 (for models that grow alike in both). The factors are fitted to `models.memory`'s terms for LLaVA's shape at
    3, 7 and 13 billion parameters, one picture of 576 tokens a row, without gradient checkpointing; they agree with it
    within 15 %. `medvqa models info` adds up the terms of one model.

    Args:
        name: For people.
        weight_bytes: Bytes of a parameter in 16 bit, or in 4 bit with what stays unpacked beside it.
        working: GiB at one billion parameters, where numbers have 16 bit.
        working_32bit: The same where they have 32: on a CPU or an Apple GPU.
    """

    name: str
    weight_bytes: float
    working: float
    working_32bit: float

    @property
    def in_4bit(self) -> bool:
        """Whether the weights are held in 4 bit."""
        return self.weight_bytes < 1


INFER, INFER_4BIT = Job("infer", 2.0, 1.2, 2.4), Job("infer 4-bit", 0.7, 1.2, 2.4)
LORA, QLORA = Job("LoRA", 2.0, 2.4, 4.0), Job("QLoRA", 0.9, 3.0, 3.0)
JOBS = (INFER, INFER_4BIT, LORA, QLORA)
RULE = (f"Memory = parameters x {INFER.weight_bytes:g} bytes ({2 * INFER.weight_bytes:g} on a CPU or Apple GPU; "
        f"{INFER_4BIT.name} {INFER_4BIT.weight_bytes:g}, {QLORA.name} {QLORA.weight_bytes:g}) + (billions of "
        f"parameters)^(2/3) x {INFER.working:g} GiB to answer 8 questions at a time, {LORA.working:g} to train one row "
        f"by LoRA, {QLORA.working:g} by QLoRA (on a CPU or Apple GPU {INFER.working_32bit:g}, {LORA.working_32bit:g}, "
        f"{QLORA.working_32bit:g}) + {OVERHEAD // GIB} GiB. A row has 700 tokens, one picture among them.")
"""`estimate_need` in words."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where models run: memory in bytes that is free, on the roomiest device and on all of its kind together."""

    name: str
    kind: str
    free: int
    free_together: int
    count: int = 1
    runs_4bit: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a job fits: "yes", "spread" over several GPUs, "slow" on a CPU, "no", or "no 4-bit"; memory in bytes."""

    model: str
    job: str
    needs: int
    answer: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How much of something this machine has, in bytes, against what fine-tuning wants, in GiB."""

    part: str
    here: int
    smallest: int
    comfortable: int
    verdict: str


def compare_hardware(torch: Mapping[str, Any], memory: Mapping[str, Any], free_disk: int) -> list[Standing]:
    """Return how the largest GPU's memory, the machine's memory and the free disk stand against `WANTED`.

    Args:
        torch: What the probe of torch found; empty where torch does not work.
        memory: The machine's memory: total and available bytes.
        free_disk: Bytes free where checkpoints are kept.
    """
    gpu = max((gpu["total"] for gpu in torch.get("gpus", ())), default=torch.get("mps_memory", 0))
    here = {"GPU": gpu, "memory": memory.get("total", 0), "disk": free_disk}
    return [Standing(part, here[part], wanted.smallest, wanted.comfortable, wanted.judge(here[part]))
            for part, wanted in WANTED.items()]


def choose_device(torch: Mapping[str, Any], memory: Mapping[str, Any], *, runs_4bit: bool) -> Device | None:
    """Return where models run on this machine: GPUs, else the Apple GPU, else the CPU; None if its memory is unknown.

    Args:
        torch: What the probe of torch found; empty where torch does not work.
        memory: What the machine has: total and available bytes.
        runs_4bit: Whether bitsandbytes works.
    """
    gpus: Sequence[Mapping[str, Any]] = torch.get("gpus", ())
    if gpus:
        best = max(gpus, key=lambda gpu: gpu["free"])
        return Device(best["name"], "cuda", best["free"], sum(gpu["free"] for gpu in gpus), len(gpus), runs_4bit)
    if torch.get("mps"):
        return Device("Apple GPU", "mps", torch["mps_memory"], torch["mps_memory"], runs_4bit=False)
    if not torch or "available" not in memory:
        return None
    return Device("CPU", "cpu", memory["available"], memory["available"], runs_4bit=runs_4bit)


def judge_jobs(device: Device) -> list[Verdict]:
    """Return for every size of model and job whether it fits into what is free now."""
    return [Verdict(f"{size}B", job.name, (needs := estimate_need(size, job, device.kind)),
                    _judge(device, job, needs)) for size in MODEL_SIZES for job in JOBS]


def estimate_need(billions: float, job: Job, kind: str) -> int:
    """Return the bytes a job needs with a model of so many billion parameters on a kind of device, by `RULE`."""
    is_16bit = kind == "cuda"
    weight_bytes = job.weight_bytes if is_16bit or job.in_4bit else 2 * job.weight_bytes
    working = (job.working if is_16bit else job.working_32bit) * math.pow(billions, 2 / 3)
    return round(billions * 1e9 * weight_bytes + working * GIB + OVERHEAD)


def _judge(device: Device, job: Job, needs: int) -> str:
    if job.in_4bit and not device.runs_4bit:
        return "no 4-bit"
    if needs <= device.free:
        return "slow" if device.kind == "cpu" else "yes"
    spread = needs + (device.count - 1) * OVERHEAD  # every further GPU has a context of its own
    return "spread" if device.count > 1 and spread <= device.free_together else "no"

"""Where a model's weights go, decided before any is read: one device, several GPUs, or an error that says why not."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import ModelError

if TYPE_CHECKING:
    import torch

GIB, MIB = 2**30, 2**20
FILLED = 0.9
"""Share of a GPU's free memory that weights may take before they are spread; the rest is for what goes through them."""
CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Placement:
    """What `from_pretrained` is told of devices.

    Attributes:
        device: Where the model, or its first part, lies.
        device_map: A device for everything, or "auto": spread over GPUs.
        max_memory: GPU -> bytes that weights may take of it, where they are spread.
    """

    device: torch.device
    device_map: dict[str, torch.device] | str
    max_memory: dict[int, int] | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of `from_pretrained`."""
        limits = {"max_memory": self.max_memory} if self.max_memory else {}
        return {"device_map": self.device_map, **limits}


def place_weights(checkpoint: str, needed: int | None, device: torch.device, *, limit: int | None = None,
                  advice: str = "") -> Placement:
    """Return where weights go: on `device` if they fit, else over all visible GPUs.

    With several processes (WORLD_SIZE) each keeps a whole model on its own GPU.

    Args:
        checkpoint: Its name, for errors.
        needed: Bytes the weights take; None if unknown: then nothing is checked.
        device: The device chosen; a GPU by its number.
        limit: Most bytes of one GPU.
        advice: How to need less, for errors.

    Raises:
        ModelError: If the weights do not fit.
    """
    whole = Placement(device, {"": device})
    if needed is None:
        return whole
    spread = device.type == "cuda" and count_processes() == 1
    budgets = _list_budgets(device, limit, spread=spread)
    first = budgets.get(device.index or 0)
    if first is None or needed <= first * (FILLED if len(budgets) > 1 else 1.0):
        return whole
    if len(budgets) > 1 and needed <= sum(budgets.values()) * FILLED:
        return Placement(device, "auto", {number: int(budget * FILLED) for number, budget in budgets.items()})
    place = f"the {len(budgets)} visible GPUs have" if len(budgets) > 1 else f"the device '{device}' has"
    allowed = " allowed by max_memory_per_gpu or" if limit is not None and device.type == "cuda" else ""
    raise ModelError(f"'{checkpoint}' does not fit: its weights take {as_gib(needed)}, {place} "
                     f"{as_gib(sum(budgets.values()))}{allowed} free.", advice)


def find_free_memory(device: torch.device) -> int | None:
    """Return the bytes that are free on a device; None where the system does not tell.

    A CPU's are the memory Linux can give without swapping, within the limit of the container (control group v2).
    """
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    known = [free for free in (_read_available(), _read_allowance()) if free is not None]
    return min(known, default=None)


def count_processes() -> int:
    """Return how many processes train together, as torchrun and accelerate say."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def as_gib(size: float) -> str:
    """Return bytes for people: in GiB, below a tenth of one in MiB."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / MIB:.1f} MiB"


def _list_budgets(device: torch.device, limit: int | None, *, spread: bool) -> dict[int, int]:
    """Return GPU (or 0 for another device) -> bytes that may be used; empty if unknown."""
    import torch

    devices = [torch.device("cuda", number) for number in range(torch.cuda.device_count())] if spread else [device]
    budgets = {}
    for place in devices:
        free = find_free_memory(place)
        if free is not None:
            budgets[place.index or 0] = min(free, limit) if limit is not None and place.type == "cuda" else free
    return budgets


def _read_available() -> int | None:
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _read_allowance() -> int | None:
    """Return what is left of a container's limit; pages of files read are given back when they are needed."""
    try:
        most = (CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
        facts = dict(line.split() for line in (CGROUP / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return None
    return None if most == "max" else int(most) - used + int(facts.get("inactive_file", 0))

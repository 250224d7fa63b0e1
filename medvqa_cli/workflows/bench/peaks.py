"""How many floating-point operations a second a device can do at best, and how many some work takes."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

TERA = 1e12
HALVES = ("bfloat16", "float16")
PEAKS: tuple[tuple[str, tuple[str, ...], float, float | None], ...] = (
    (r"\bB200\b", HALVES, 2250, None),
    (r"\bH[12]00 NVL\b", HALVES, 835, 60),
    (r"\bH[18]00 PCIe\b", HALVES, 756, 51),
    (r"\b(H[128]00|GH200)\b", HALVES, 989, 67),
    (r"\bH20\b", HALVES, 148, 44),
    (r"\bA[18]00\b", HALVES, 312, 19.5),
    (r"\bA40\b", HALVES, 149.7, 37.4),
    (r"\bA30\b", HALVES, 165, 10.3),
    (r"\bA10\b", HALVES, 125, 31.2),
    (r"\bL40S\b", HALVES, 362, 91.6),
    (r"\bL40\b", HALVES, 181, 90.5),
    (r"\bL4\b", HALVES, 121, 30.3),
    (r"\bRTX 6000 Ada\b", HALVES, 364.2, 91.1),
    (r"\bRTX A6000\b", HALVES, 154.8, 38.7),
    (r"\bRTX 4090\b", HALVES, 165.2, 82.6),
    (r"\bRTX 3090\b", HALVES, 71, 35.6),
    (r"\bV100\b", ("float16",), 125, 15.7),
    (r"\bT4\b", ("float16",), 65, 8.1),
)
"""Pattern of the device's name, formats of 16 bits, TFLOP/s in these (dense, float32 sums) and in float32 without TF32.

Source: NVIDIA's data sheets and architecture papers of these cards; where only the rate with sparsity is printed, half
of it.
"""
SIDE = {"cpu": 1536, "cuda": 8192}
MEASURE_SECONDS = 1.0
CPU_ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"
"""What SDPA runs as on a CPU; torch's counter does not know it."""


@dataclass(frozen=True, slots=True)
class DevicePeak:
    """Operations a second of a device at best. `source` says where the number comes from."""

    flops_per_second: float
    source: str


def find_peak(device: Any, dtype: Any) -> DevicePeak:
    """Return a device's peak in a number format: of the table, else that of a matrix product measured on the spot.

    Args:
        device: A torch device.
        dtype: A torch number format.
    """
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    known = look_up_peak(name, str(dtype).removeprefix("torch."))
    if known:
        return DevicePeak(known, f"data sheet of {name}")
    side = SIDE.get(device.type, 2048)
    threads = f" with {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return DevicePeak(_measure_product(device, dtype, side),
                      f"measured: best product of {side} x {side} matrices{threads}")


def look_up_peak(name: str, dtype: str) -> float | None:
    """Return the operations a second that a GPU's data sheet gives for a number format, or None."""
    for pattern, halves, half, single in PEAKS:
        if re.search(pattern, name):
            rate = half if dtype in halves else single if dtype == "float32" else None
            return rate * TERA if rate else None
    return None


def _measure_product(device: Any, dtype: Any, side: int) -> float:
    import torch

    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + MEASURE_SECONDS
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        product = left @ right
        float(product[0, 0])  # a GPU has finished when its number is here
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def count_flops(work: Callable[[], Any]) -> int:
    """Run some work and return its floating-point operations: matrix products, convolutions, attention.

    Attention is counted over all pairs of tokens, masked or not, as the kernels at hand compute it.
    """
    import torch
    from torch.utils import flop_counter

    forward: Any = flop_counter.sdpa_flop_count
    backward: Any = flop_counter.sdpa_backward_flop_count

    def count_forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(forward(query, key, value))

    def count_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(backward(gradient, query, key, value))

    on_cpu = {getattr(torch.ops.aten, CPU_ATTENTION): count_forward,
              getattr(torch.ops.aten, f"{CPU_ATTENTION}_backward"): count_backward}
    with flop_counter.FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
        work()
    return int(counter.get_total_flops())

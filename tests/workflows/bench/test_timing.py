"""Arms are measured in turn, and what is unequal or does not fit is not passed off as a measurement."""

from __future__ import annotations

import time

import pytest
import torch

from medvqa_cli.workflows.bench.peaks import count_flops, find_peak, look_up_peak
from medvqa_cli.workflows.bench.timing import Arm, MemoryPeak, alternate, attempt, summarize

CPU = torch.device("cpu")


def test_arms_take_turns_and_each_round_begins_with_another():
    seen = []
    arms = [Arm(name, lambda name=name: seen.append(name)) for name in "abc"]
    alternate(arms, 3, CPU)
    assert "".join(seen) == "abcbcacab"
    assert [len(arm.seconds) for arm in arms] == [3, 3, 3]


def test_a_ratio_is_the_median_of_the_rounds_own_ratios():
    slow, fast = Arm("slow", lambda: None), Arm("fast", lambda: None)
    slow.seconds, fast.seconds = [4.0, 40.0, 8.0], [1.0, 20.0, 1.0]
    first, second = summarize([slow, fast])
    assert (first["ratio"], first["seconds"]) == (1.0, 8.0)
    assert (second["ratio"], second["ratio_low"], second["ratio_high"]) == (4.0, 2.0, 8.0)
    assert (second["seconds"], second["seconds_low"], second["seconds_high"]) == (1.0, 1.0, 20.0)


def test_a_part_is_scaled_up_and_says_so():
    part = Arm("part", lambda: time.sleep(0.01), scale=20.0)
    alternate([part], 1, CPU)
    assert part.median >= 0.2
    assert summarize([part])[0]["measured_share"] == 0.05


def test_an_arm_without_memory_is_given_up_and_the_others_go_on():
    def fail():
        raise torch.OutOfMemoryError("CUDA out of memory")

    arms = [Arm("large", fail), Arm("small", lambda: 1)]
    alternate(arms, 2, CPU)
    large, small = summarize(arms)
    assert large == {"name": "large", "failure": "out of memory"}
    assert len(arms[1].seconds) == 2
    assert "ratio" not in small
    assert attempt(Arm("large", fail), fail) is None


def test_the_peak_of_memory_is_that_of_the_work():
    before = MemoryPeak(CPU)
    resting = before.read()
    if resting is None:
        pytest.skip("this system does not tell the peak of a process")
    used = torch.ones(100 * 2**20, dtype=torch.uint8)
    del used
    assert 95 * 2**20 < before.read() - resting < 130 * 2**20
    assert MemoryPeak(CPU).read() - resting < 30 * 2**20, "the next arm does not inherit it"


def test_operations_are_those_of_products_and_attention():
    left, right = torch.randn(8, 16, requires_grad=True), torch.randn(16, 4, requires_grad=True)
    assert count_flops(lambda: left @ right) == 2 * 8 * 16 * 4
    assert count_flops(lambda: (left @ right).sum().backward()) == 3 * 2 * 8 * 16 * 4
    query = torch.randn(1, 2, 10, 8)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert count_flops(lambda: attend(query, query, query)) == 2 * (2 * 2 * 10 * 10 * 8)


@pytest.mark.parametrize(("name", "dtype", "tera"), [
    ("NVIDIA H200", "bfloat16", 989), ("NVIDIA H100 80GB HBM3", "float32", 67), ("NVIDIA H100 PCIe", "float16", 756),
    ("NVIDIA H200 NVL", "bfloat16", 835), ("NVIDIA GH200 480GB", "bfloat16", 989), ("NVIDIA H20", "bfloat16", 148),
    ("NVIDIA L40S", "bfloat16", 362), ("NVIDIA L40", "bfloat16", 181), ("NVIDIA L4", "bfloat16", 121),
    ("NVIDIA A100-SXM4-80GB", "bfloat16", 312), ("NVIDIA A10", "bfloat16", 125), ("NVIDIA A10G", "bfloat16", None),
    ("Tesla T4", "bfloat16", None), ("Tesla T4", "float16", 65), ("NVIDIA GeForce GTX 1080", "float32", None),
])
def test_a_cards_peak_is_that_of_its_data_sheet(name, dtype, tera):
    assert look_up_peak(name, dtype) == (tera and tera * 1e12)


def test_a_cpus_peak_is_measured():
    peak = find_peak(CPU, torch.float32)
    assert 1e8 < peak.flops_per_second < 1e14
    assert peak.source.startswith("measured: best product of")

"""What fits: by hand for the devices, against the exact terms of `models.memory` for the rule."""

from __future__ import annotations

import pytest

from medvqa_cli.workflows.machine.capacity import (
    JOBS,
    WANTED,
    Device,
    choose_device,
    compare_hardware,
    estimate_need,
    judge_jobs,
)
from medvqa_cli.workflows.machine.findings import GIB

SHAPES = {3.01: (2560, 32, 6912), 7.06: (4096, 32, 11008), 13.35: (5120, 40, 13824)}
"""Billions of parameters -> width, depth, width of the MLP, beside CLIP's ViT-L/14 at 336 pixels."""
WORK = {"infer": {"rows": 8}, "infer 4-bit": {"rows": 8, "quantization": "4bit"}, "LoRA": {"tuning": "lora"},
        "QLoRA": {"tuning": "lora", "quantization": "4bit"}}
MEMORY = {"total": 64 * GIB, "available": 48 * GIB}


def make_gpu(total: float, free: float, name: str = "A") -> dict:
    return {"index": 0, "name": name, "total": round(total * GIB), "free": round(free * GIB), "bf16": True}


def answers(device: Device) -> dict[str, str]:
    return {f"{verdict.model} {verdict.job}": verdict.answer for verdict in judge_jobs(device)}


@pytest.mark.parametrize("billions", SHAPES)
def test_the_rule_agrees_with_the_sum_of_the_terms(billions):
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    from medvqa_cli import plugins
    from medvqa_cli.models.memory import Workload, estimate_memory
    from medvqa_cli.models.shapes import PictureSize, read_shape

    width, depth, mlp = SHAPES[billions]
    vision = CLIPVisionConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
                              image_size=336, patch_size=14)
    text = LlamaConfig(hidden_size=width, num_hidden_layers=depth, num_attention_heads=width // 128,
                       intermediate_size=mlp, vocab_size=32064)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text))
    targets = [name for name, module in model.named_modules()
               if isinstance(module, torch.nn.Linear) and "language_model" in name]
    shape = read_shape(model, plugins.models.get("llava").layout, targets)
    assert sum(shape.parameters.values()) / 1e9 == pytest.approx(billions, abs=0.01)
    picture = PictureSize(tokens=576, patches=577, values=3 * 336 * 336)
    for job in JOBS:
        terms = estimate_memory(shape, Workload(picture=picture, text_tokens=124, **WORK[job.name]))
        assert estimate_need(billions, job, "cuda") == pytest.approx(sum(terms.values()) + GIB, rel=0.15), job.name


def test_needs_by_hand():
    infer, _, lora, qlora = JOBS
    assert estimate_need(8, infer, "cuda") == 16_000_000_000 + round(4 * 1.2 * GIB) + GIB  # 8 ** (2 / 3) is 4
    assert estimate_need(8, lora, "cpu") == 32_000_000_000 + 4 * 4 * GIB + GIB
    assert estimate_need(8, qlora, "cpu") == 7_200_000_000 + 4 * 3 * GIB + GIB


def test_a_card_of_16_gb_takes_3b_and_small_things_of_7b():
    found = answers(Device("T4", "cuda", round(14.5 * GIB), round(14.5 * GIB)))
    assert [job for job, answer in found.items() if answer == "yes"] == [
        "3B infer", "3B infer 4-bit", "3B LoRA", "3B QLoRA", "7B infer 4-bit"]
    assert set(found.values()) == {"yes", "no"}


def test_two_cards_hold_together_what_one_does_not():
    found = answers(Device("A", "cuda", 24 * GIB, 47 * GIB, count=2))
    assert (found["7B LoRA"], found["13B infer"], found["13B LoRA"]) == ("yes", "spread", "spread")
    # every further card has a context of its own: 38.5 GiB and 1 more
    assert answers(Device("A", "cuda", 24 * GIB, 39 * GIB, count=2))["13B LoRA"] == "no"


def test_a_cpu_is_slow_and_4bit_needs_bitsandbytes():
    found = answers(Device("CPU", "cpu", 48 * GIB, 48 * GIB))
    assert (found["3B LoRA"], found["13B infer"], found["7B QLoRA"]) == ("slow", "no", "slow")
    found = answers(Device("CPU", "cpu", 48 * GIB, 48 * GIB, runs_4bit=False))
    assert (found["3B LoRA"], found["3B QLoRA"], found["13B infer 4-bit"]) == ("slow", "no 4-bit", "no 4-bit")


def test_models_run_on_the_roomiest_gpu():
    device = choose_device({"gpus": [make_gpu(24, 3, "busy"), make_gpu(16, 15, "idle")]}, MEMORY, runs_4bit=True)
    assert device == Device("idle", "cuda", 15 * GIB, 18 * GIB, count=2)


def test_models_run_on_an_apple_gpu_else_on_the_cpu():
    apple = choose_device({"gpus": [], "mps": True, "mps_memory": 20 * GIB}, MEMORY, runs_4bit=True)
    assert apple == Device("Apple GPU", "mps", 20 * GIB, 20 * GIB, runs_4bit=False)
    cpu = choose_device({"gpus": [], "mps": False}, MEMORY, runs_4bit=True)
    assert cpu == Device("CPU", "cpu", 48 * GIB, 48 * GIB)


def test_without_torch_or_a_known_memory_nothing_is_judged():
    assert choose_device({}, MEMORY, runs_4bit=True) is None
    assert choose_device({"gpus": [], "mps": False}, {}, runs_4bit=True) is None


@pytest.mark.parametrize(("gib", "verdict"), [(0, "none"), (11, "too little"), (14.58, "enough"), (35, "enough"),
                                              (39.4, "comfortable")])
def test_cards_sold_as_16_and_40_gb_count_as_such(gib, verdict):
    assert WANTED["GPU"].judge(gib * GIB) == verdict


def test_the_largest_gpu_stands_for_the_machine():
    found = compare_hardware({"gpus": [make_gpu(24, 1), make_gpu(80, 80)]}, MEMORY, 30 * GIB)
    assert [(item.part, item.here, item.verdict) for item in found] == [
        ("GPU", 80 * GIB, "comfortable"), ("memory", 64 * GIB, "comfortable"), ("disk", 30 * GIB, "enough")]
    assert [item.verdict for item in compare_hardware({}, {}, 0)] == ["none", "none", "none"]

"""Device, number format, attention and place are decided before a weight is read."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from medvqa_cli.errors import ModelError
from medvqa_cli.models.loading_plan import choose_attention, choose_device, choose_dtype, has_bfloat16, plan_loading
from medvqa_cli.plugins import models
from medvqa_cli.settings.model import ModelSettings

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
HALF, FULL = torch.bfloat16, torch.float32
LLAVA, BLIP = "LlavaForConditionalGeneration", "Blip2ForConditionalGeneration"


@pytest.fixture
def flash(monkeypatch):
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: True)


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs that exist only for who asks."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: SimpleNamespace(major=8))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: ((10, 20)[device.index] * 2**20, 24 * 2**20))


def test_an_absent_device_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ModelError, match="'cuda' is not available"):
        choose_device("cuda")
    assert choose_device("auto").type in ("cpu", "mps")


def test_each_process_takes_its_own_gpu(gpus, monkeypatch):
    assert choose_device("auto") == choose_device("cuda") == CUDA
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("cuda") == CUDA
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert choose_device("cuda") == torch.device("cuda", 1)


def test_number_formats(gpus):
    assert choose_dtype("auto", CPU) == choose_dtype("auto", CPU, trains=True) == (FULL, "")
    assert choose_dtype("auto", CUDA) == choose_dtype("auto", CUDA, trains=True) == (HALF, "")
    assert choose_dtype("float16", CPU) == (torch.float16, "")


def test_a_gpu_without_bfloat16_answers_in_float16_and_trains_in_float32(gpus, tiny_directory, monkeypatch):
    capabilities = {CUDA: SimpleNamespace(major=7), torch.device("cuda", 1): SimpleNamespace(major=9)}
    monkeypatch.setattr("torch.cuda.get_device_properties", capabilities.__getitem__)
    assert plan(tiny_directory).describe().startswith(
        "float16 (this GPU only emulates bfloat16; --dtype float32 if numbers overflow) on cuda:0")
    for tuning in ("lora", "full"):
        found = plan_loading(models.get("llava"), "m", tiny_directory, ModelSettings(), tuning=tuning)
        assert found.dtype == FULL
        assert found.describe().startswith(
            "float32 (this GPU only emulates bfloat16, and float16 loses small gradients) on cuda:0")
    assert plan(tiny_directory, dtype="bfloat16").dtype == HALF, "what is asked for is done"
    assert choose_dtype("auto", torch.device("cuda", 1)) == (HALF, "")
    assert not has_bfloat16(CUDA)
    assert not has_bfloat16(CPU)
    monkeypatch.setattr("torch.version.hip", "6.4")
    assert has_bfloat16(CUDA)


@pytest.mark.parametrize(("options", "expected"), [
    ({"shares_images": True}, ("sdpa", "shared images need a mask, which flash-attn does not take")),
    ({"shares_images": False}, ("flash_attention_2", "no images are shared")),
    ({"shares_images": False, "dtype": FULL}, ("sdpa", "")),
    ({"shares_images": False, "device": CPU}, ("sdpa", "")),
    ({"shares_images": False, "model_class": BLIP}, ("sdpa", f"flash-attn is not usable with {BLIP}")),
    ({"shares_images": False, "model_class": ""}, ("sdpa", "flash-attn is not usable with this model")),
    ({"wanted": "eager"}, ("eager", "")),
    ({"wanted": "flash"}, ("flash_attention_2", "")),
])
def test_attention_where_flash_attn_is_installed(flash, options, expected):
    options = {"wanted": "auto", "device": CUDA, "dtype": HALF, "model_class": LLAVA} | options
    assert choose_attention(**options) == expected


def test_attention_where_it_is_not_installed():
    assert choose_attention("auto", device=CUDA, dtype=HALF, shares_images=False, model_class=LLAVA) == ("sdpa", "")


def test_flash_attention_is_never_replaced_in_silence(flash, monkeypatch):
    for device, dtype, found in ((CPU, HALF, "bfloat16 on cpu"), (CUDA, FULL, "float32 on cuda")):
        with pytest.raises(ModelError, match=rf"Flash attention is not usable here: .*\(this is {found}\)"):
            choose_attention("flash", device=device, dtype=dtype)
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: False)
    with pytest.raises(ModelError, match="needs the package 'flash-attn'"):
        choose_attention("flash", device=CUDA, dtype=HALF)


def test_a_model_without_sdpa_is_eager(monkeypatch):
    import transformers

    monkeypatch.setattr(transformers.LlavaForConditionalGeneration, "_supports_sdpa", False)
    assert choose_attention("auto", device=CPU, dtype=FULL, model_class=LLAVA) == ("eager", f"{LLAVA} has no SDPA")


def plan(directory, **settings):
    return plan_loading(models.get("llava"), "m", directory, ModelSettings(**settings))


def test_a_plan_for_a_gpu(gpus, tiny_directory):
    found = plan(tiny_directory)
    assert found.arrange(models.get("llava").layout) == {
        "dtype": HALF, "attn_implementation": "sdpa", "device_map": {"": CUDA}}
    assert found.describe() == ("bfloat16 on cuda:0, 0.4 MiB of weights; quantisation none (0.2 million parameters, "
                                "4bit above 3 billion); attention sdpa")


def test_a_large_model_is_quantised_on_a_gpu(gpus, tiny_directory, monkeypatch):
    monkeypatch.setattr("medvqa_cli.models.quantization.LARGE", 1000)
    found = plan(tiny_directory)
    config = found.arrange(models.get("llava").layout)["quantization_config"]
    assert (config.load_in_4bit, config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant,
            config.bnb_4bit_compute_dtype) == (True, "nf4", True, HALF)
    assert found.needed < plan(tiny_directory, quantization="none").needed
    assert "quantisation 4bit (0.2 million parameters" in found.describe()


def test_a_limit_spreads_a_model_over_the_gpus(gpus, tiny_directory):
    whole = plan(tiny_directory, quantization="none").needed
    found = plan(tiny_directory, quantization="none", max_memory_per_gpu=f"{whole // 1000 * 8 // 10}KB")
    limit = int((whole // 1000 * 8 // 10) * 1000 * 0.9)
    assert found.arrange(models.get("llava").layout)["device_map"] == "auto"
    assert found.placement.max_memory == {0: limit, 1: limit}
    assert found.describe().startswith("bfloat16 spread over 2 GPUs")

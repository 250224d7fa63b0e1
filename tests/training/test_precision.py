"""In which number format a step runs, on GPUs that exist only for who asks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from medvqa_cli.plugins import models
from medvqa_cli.settings.train import TrainSettings
from medvqa_cli.training.arguments import _has_engine_masters, list_arguments


@pytest.mark.parametrize(("is_quantised", "capability", "engine", "expected"), [
    (True, 8, {}, True), (True, 7, {}, False), (False, 8, {}, False), (False, 8, {"deepspeed": "z.json"}, True)])
def test_quantised_weights_are_multiplied_in_bfloat16_where_the_gpu_has_it(monkeypatch, is_quantised, capability,
                                                                          engine, expected):
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: SimpleNamespace(major=capability))
    weight = SimpleNamespace(is_cuda=True, device=torch.device("cuda", 0), dtype=torch.bfloat16)
    model = SimpleNamespace(is_loaded_in_4bit=is_quantised, parameters=lambda: iter([weight]),
                            named_parameters=lambda: iter([]))
    plan = SimpleNamespace(model=model, settings=TrainSettings(), validation_samples=[], directory="a", batch_size=1,
                           encoder=SimpleNamespace(family=models.get("llava")), seed=0, engine=engine)
    assert list_arguments(plan, 5)["bf16"] is expected


@pytest.mark.parametrize(("dtype", "trains", "expected"), [
    (torch.bfloat16, True, True), (torch.bfloat16, False, False), (torch.float32, True, False)])
def test_fsdp_is_told_to_keep_masters_of_trained_weights(dtype, trains, expected):
    weights = [torch.nn.Parameter(torch.ones(1, dtype=dtype), requires_grad=trains)]
    plan = SimpleNamespace(engine={"fsdp": True}, model=SimpleNamespace(parameters=lambda: iter(weights)))
    assert _has_engine_masters(plan) is expected

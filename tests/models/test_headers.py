"""Headers tell what a model weighs before it is built: the estimate against the model itself."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from medvqa_cli.models.headers import estimate_bytes, read_header, read_weights
from medvqa_cli.models.loading import load_checkpoint
from medvqa_cli.plugins import models
from medvqa_cli.settings.model import ModelSettings


def count_bytes(model) -> int:
    """Bytes of a loaded model's parameters, with what bitsandbytes keeps beside them."""
    total = 0
    for parameter in {id(p): p for p in model.parameters()}.values():
        total += parameter.numel() * parameter.element_size()
        if state := getattr(parameter, "quant_state", None):
            total += state.absmax.numel() * state.absmax.element_size()
    return total


def count_weights(model) -> int:
    """Parameters of a loaded model, packed ones as what they stand for."""
    sizes = [state.shape.numel() if (state := getattr(p, "quant_state", None)) else p.numel()
             for p in model.parameters()]
    return sum(sizes)


@pytest.mark.parametrize(("name", "dtype", "mode"), [
    *((name, "bfloat16", "none") for name in models.names()), *((name, "float32", "4bit") for name in models.names()),
    ("llava", "float32", "none"), ("llava", "float32", "8bit"), ("blip2", "float32", "8bit")])
def test_the_estimate_is_what_the_loaded_model_takes(name, dtype, mode, tmp_path):
    """Plain weights within 0.1 %: buffers are stored, too. Quantised within 3 %: blocks of scales are rounded up.

    LLaVA-Med's embeddings get rows as they are loaded, for tokens that its tokenizer lacks.
    """
    family = models.get(name)
    family.build_tiny(tmp_path / "tiny", seed=1)
    stored = read_weights(tmp_path / "tiny", allow_pickle=False)
    settings = ModelSettings(device="cpu", dtype=dtype, quantization=mode)
    model = load_checkpoint(family, name, str(tmp_path / "tiny"), settings).model
    estimated = estimate_bytes(stored, getattr(torch, dtype).itemsize, mode, family.layout)
    tolerance = 0.05 if name == "llava_med" else 1e-3 if mode == "none" else 0.03
    assert stored.parameters == pytest.approx(count_weights(model), rel=tolerance)
    assert estimated == pytest.approx(count_bytes(model), rel=tolerance)


def test_a_header_is_read_without_the_tensors(tmp_path):
    save_file({"a": torch.zeros(3, 4, dtype=torch.bfloat16), "b": torch.zeros((), dtype=torch.int64)},
              tmp_path / "x.safetensors", metadata={"format": "pt"})
    assert read_header(tmp_path / "x.safetensors") == {"a": ("BF16", (3, 4)), "b": ("I64", ())}


def test_pickled_weights_are_counted_by_their_bytes(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x" * 1000)
    stored = read_weights(tmp_path, allow_pickle=True)
    assert stored.parameters == 500
    assert estimate_bytes(stored, 4, "none", models.get("llava").layout) == 2000


def test_other_formats_are_left_to_the_family(tmp_path):
    (tmp_path / "weights.npz").touch()
    assert read_weights(tmp_path, allow_pickle=False) is None

"""Models in the sizes of real checkpoints: as many parameters as these have, drawn in their number format."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image

from medvqa_cli.models.architectures import ARCHITECTURES
from medvqa_cli.models.random_models import build_weights, sketch_architecture, sketch_checkpoint
from medvqa_cli.plugins import models
from medvqa_cli.registry import normalize_name

TOKENS = {"llava_1.5_7b": 576, "llava_1.5_13b": 576, "llava_next_mistral_7b": 2928, "llava_next_vicuna_7b": 2928,
          "llava_onevision_0.5b": 3699, "llava_onevision_7b": 3699, "internvl3_1b": 256, "internvl3_2b": 256,
          "internvl3_8b": 256, "qwen2_vl_2b": 256, "qwen2_vl_7b": 256, "qwen2_5_vl_3b": 256, "qwen2_5_vl_7b": 256,
          "qwen3_vl_2b": 196, "qwen3_vl_4b": 196, "qwen3_vl_8b": 196, "smolvlm2_256m": 17 * 64,
          "smolvlm2_500m": 17 * 64, "gemma3_4b": 256, "medgemma_4b": 256, "paligemma_3b": 256, "blip2_opt_2.7b": 32}
"""Of a picture of 448 x 448 pixels: LLaVA-NeXT and OneVision see it as two by two tiles with a line end each row."""
FEW = ("llava_1.5_7b", "qwen3_vl_2b", "blip2_opt_2.7b")


def sketch(name: str, **changes):
    architecture = dataclasses.replace(ARCHITECTURES[name], **changes)
    return sketch_architecture(name, models.get(architecture.family), architecture, ["Is there a lesion?", "yes"])


def shrink(name: str, width: int, heads: int):
    """Return what makes an architecture small and leaves it its kind."""
    small = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 1, "num_attention_heads": heads}
    own = ARCHITECTURES[name]
    return {"vision": {**own.vision, **small}, "text": {**own.text, **small, "num_key_value_heads": heads // 2}}


def check_size(name):
    found = sketch(name)
    assert {parameter.device.type for parameter in found.model.parameters()} == {"meta"}
    assert sum(parameter.numel() for parameter in found.model.parameters()) == ARCHITECTURES[name].parameters
    inputs = found.family.encode_images(found.processor, [Image.new("RGB", (448, 448))])
    assert sum(inputs.num_tokens) == TOKENS[name]


@pytest.mark.parametrize("name", FEW)
def test_a_sketch_has_the_parameters_and_image_tokens_of_the_checkpoint(name):
    check_size(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in FEW])
def test_every_other_sketch_has_them_too(name):
    check_size(name)


def test_the_sizes_of_llava():
    """Liu et al. 2023, arXiv:2310.03744: CLIP ViT-L/14 at 336 pixels, Vicuna 7B."""
    config = sketch("llava_1.5_7b").model.config
    text, vision = config.text_config, config.vision_config
    assert (text.hidden_size, text.num_hidden_layers, text.num_attention_heads, text.head_dim,
            text.intermediate_size) == (4096, 32, 32, 128, 11_008)
    assert (vision.hidden_size, vision.num_hidden_layers, vision.image_size, vision.patch_size) == (1024, 24, 336, 14)
    assert config.vision_feature_layer == -2
    assert config.image_token_index < 10, "the small tokenizer's, in a vocabulary of 32,064"


def test_names_are_those_of_the_cards():
    for name, architecture in ARCHITECTURES.items():
        assert name in models.get(architecture.family).card.checkpoints, normalize_name(name)
    assert TOKENS.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_weights_are_drawn_in_the_wanted_format_by_the_seed(attention):
    small = sketch("llava_1.5_7b", **shrink("llava_1.5_7b", 32, 4))
    one, same, other = (build_weights(small, device=torch.device("cpu"), dtype=torch.bfloat16, attention=attention,
                                      seed=seed) for seed in (1, 1, 2))
    assert {parameter.dtype for parameter in one.model.parameters()} == {torch.bfloat16}
    assert one.model.config._attn_implementation == attention
    assert not one.model.training
    weights = [loaded.model.model.language_model.layers[0].mlp.up_proj.weight for loaded in (one, same, other)]
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])
    assert 0.018 < weights[0].float().std() < 0.022
    ids = torch.arange(5)[None]
    assert one.model(input_ids=ids).logits.isfinite().all()


def test_a_folder_without_weights_is_enough(tiny_directory, tmp_path):
    for file in tiny_directory.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    found = sketch_checkpoint(models.get("llava"), "llava", str(tmp_path))
    assert found.model.config.text_config.hidden_size == 64
    built = build_weights(found, device=torch.device("cpu"), dtype=torch.float32, attention="sdpa")
    assert next(built.model.parameters()).device.type == "cpu"
    assert built.tokenizer.vocab_size == found.model.config.text_config.vocab_size

"""Phi-4's model is completed: adapter for images, attention both ways, padding, and what LongRoPE cannot go on from."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model

from medvqa_cli.errors import ModelError
from medvqa_cli.inference.shared_prefix import PrefixTree
from medvqa_cli.models.batches import find_token_losses, join_images
from medvqa_cli.models.encoding import EncodedSample
from medvqa_cli.models.families.phi4_multimodal import PLUGIN
from medvqa_cli.models.packing import build_row, stack_rows
from tests.models.conftest import draw_picture

LIMIT = 30


def load_model(folder):
    model = PLUGIN.load_model(str(folder)).eval()
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)
    return model


def embed_pictures(model, processor, pictures):
    """Return what the projector makes of each of these encoded pictures, in one call."""
    features = []
    hook = model.get_submodule(PLUGIN.layout.projector).register_forward_hook(
        lambda module, args, output: features.append(output[0]))
    ids = torch.zeros(len(pictures), max(sum(picture.num_tokens) for picture in pictures), dtype=torch.long)
    for row, picture in enumerate(pictures):
        ids[row, : sum(picture.num_tokens)] = processor.image_token_id
    with torch.no_grad():
        model(input_ids=ids, **join_images(pictures))
    hook.remove()
    return features


@pytest.mark.parametrize("size", [(48, 48), (40, 190), (60, 44)])
def test_patches_see_each_other_whatever_the_attention(phi4_directory, size):
    """Of the first two no patch is padding: transformers alone would let them see earlier patches only, under SDPA."""
    processor = PLUGIN.load_processor(str(phi4_directory))
    picture = PLUGIN.encode_images(processor, [draw_picture(0, size)])
    features = [embed_pictures(PLUGIN.load_model(str(phi4_directory), dtype=torch.float64, attn_implementation=name),
                               processor, [picture])[0] for name in ("sdpa", "eager")]
    assert torch.allclose(*features, atol=1e-3)
    assert features[0].abs().max() > 10


def test_a_picture_is_the_same_beside_one_of_more_tiles(phi4_directory):
    model = PLUGIN.load_model(str(phi4_directory), dtype=torch.float64)
    processor = PLUGIN.load_processor(str(phi4_directory))
    pictures = [PLUGIN.encode_images(processor, [draw_picture(0, size)]) for size in ((60, 44), (40, 190))]
    assert [len(picture.tensors["image_pixel_values"][0]) for picture in pictures] == [3, 5]
    alone = [embed_pictures(model, processor, [picture])[0] for picture in pictures]
    open_tiles = []
    model.get_submodule(PLUGIN.layout.vision_tower).register_forward_pre_hook(
        lambda module, args, kwargs: open_tiles.extend(kwargs["patch_attention_mask"].any(dim=(1, 2))),
        with_kwargs=True)
    together = embed_pictures(model, processor, pictures)
    assert len(open_tiles) == 10
    assert all(open_tiles), "a tile without any open patch reached the vision tower"
    for one, other in zip(alone, together, strict=True):
        assert torch.allclose(one, other, atol=1e-3)


def test_the_adapter_for_images_is_merged(phi4_directory, tmp_path):
    shutil.copytree(phi4_directory, tmp_path, dirs_exist_ok=True)
    base = PLUGIN.load_model(str(phi4_directory)).eval()
    ids = torch.arange(20, 60)[None]
    with torch.no_grad():
        plain = base(input_ids=ids).logits
        adapted = get_peft_model(base, LoraConfig(r=2, lora_alpha=64, target_modules=r"model\.layers\..*_proj"))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
        expected = adapted(input_ids=ids).logits
        adapted.save_pretrained(tmp_path / "vision-lora")
        model, info = PLUGIN.load_model(str(tmp_path), output_loading_info=True)
        found = model.eval()(input_ids=ids).logits
    assert not info["missing_keys"]
    assert torch.allclose(found, expected, atol=1e-4)
    assert (found - plain).abs().max() > 0.1
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert not hasattr(model, "peft_config")
    model.save_pretrained(tmp_path / "merged")
    with torch.no_grad():
        again = PLUGIN.load_model(str(tmp_path / "merged")).eval()(input_ids=ids).logits
    assert torch.allclose(again, found, atol=1e-5)


def test_a_damaged_adapter_for_images_is_an_error(phi4_directory, tmp_path):
    shutil.copytree(phi4_directory, tmp_path, dirs_exist_ok=True)
    (tmp_path / "vision-lora").mkdir()
    (tmp_path / "vision-lora" / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"vision-lora.*adapter_config.json is damaged"):
        PLUGIN.load_model(str(tmp_path))


LIMIT = 30


@pytest.fixture
def short(phi4_directory, tmp_path):
    """A checkpoint whose frequencies change after 30 positions."""
    shutil.copytree(phi4_directory, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config["original_max_position_embeddings"] = LIMIT
    config["rope_parameters"]["original_max_position_embeddings"] = LIMIT
    config["rope_parameters"]["long_factor"] = [30.0] * len(config["rope_parameters"]["long_factor"])
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return load_model(tmp_path)


def test_cached_keys_do_not_fit_once_the_frequencies_change(short):
    """Why there is a guard: without it, going on from the cache gives other logits than the whole does."""
    ids = torch.arange(20, 20 + LIMIT + 4)[None]
    with torch.no_grad():
        whole = short(input_ids=ids).logits[0, -1]
        start = short(input_ids=ids[:, : LIMIT - 2], use_cache=True)
        with pytest.raises(ModelError, match=f"passes {LIMIT} tokens behind its image.*"):
            short(input_ids=ids[:, LIMIT - 2:], past_key_values=start.past_key_values)
        short.model.rotary_emb._forward_pre_hooks.clear()
        start = short(input_ids=ids[:, : LIMIT - 2], use_cache=True)
        unguarded = short(input_ids=ids[:, LIMIT - 2:], past_key_values=start.past_key_values).logits[0, -1]
        longer = short(input_ids=ids[:, : LIMIT + 1], use_cache=True)
        fitting = short(input_ids=ids[:, LIMIT + 1:], past_key_values=longer.past_key_values).logits[0, -1]
    assert (unguarded - whole).abs().max() > 0.1
    assert torch.allclose(fitting, whole, atol=1e-4)


@pytest.mark.parametrize(("prompt", "questions", "passes"), [(10, 5, False), (28, 5, True), (32, 5, False)])
def test_trees_say_so_where_they_cannot_go_on(short, prompt, questions, passes):
    tree = PrefixTree(short, list(range(20, 20 + prompt)), {})
    asked = [list(range(100, 100 + questions)), list(range(200, 202))]
    if passes:
        with pytest.raises(ModelError) as failure:
            tree.ask(asked)
        assert failure.value.hint == ("If the question passes them, use --shared-prefix off; if the answer does, make "
                                      "the picture smaller, so that it is fewer tokens.")
        return
    with torch.no_grad():
        logits = tree.ask(asked).logits
        for row, question in zip(logits, asked, strict=True):
            alone = short(input_ids=torch.tensor([[*range(20, 20 + prompt), *question]])).logits[0, -1]
            assert torch.allclose(row, alone, atol=1e-4)


def test_packed_rows_equal_a_plain_batch_where_one_passes_the_limit(short):
    samples = [EncodedSample((*range(20, 46), 90 + n), tuple(range(100, 100 + length)))
               for n, length in enumerate((2, 9))]
    packed = stack_rows([build_row(samples)], 0)
    plain = stack_rows([build_row([sample]) for sample in samples], 0)
    with torch.no_grad():
        losses = [find_token_losses(short, batch)[0].sum().item() for batch in (packed, plain)]
        apart = sum(find_token_losses(short, stack_rows([build_row([sample])], 0))[0].sum().item()
                    for sample in samples)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert apart != pytest.approx(losses[1], rel=1e-3), "the longest row of a call chooses for all its rows"


def test_an_image_token_that_the_model_writes_is_a_word_like_any_other(phi4_directory):
    model, processor = load_model(phi4_directory), PLUGIN.load_processor(str(phi4_directory))
    images = PLUGIN.encode_images(processor, [draw_picture(0)])
    ids = torch.tensor([[processor.image_token_id] * sum(images.num_tokens) + [40, 41]])
    with torch.no_grad():
        written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False,
                                 prefix_allowed_tokens_fn=lambda *_: [processor.image_token_id], **images.tensors)
    assert written[0, -3:].tolist() == [processor.image_token_id] * 3

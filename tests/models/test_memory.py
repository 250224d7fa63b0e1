"""The memory formula: against hand computation, and against what autograd really keeps."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from medvqa_cli.errors import ModelError
from medvqa_cli.models.adapters import attach_lora
from medvqa_cli.models.batches import build_batch, sum_answer_loss
from medvqa_cli.models.encoding import SampleEncoder
from medvqa_cli.models.loading import load_checkpoint
from medvqa_cli.models.memory import (
    Workload,
    count_adapter_parameters,
    count_kept,
    estimate_memory,
    estimate_weights,
)
from medvqa_cli.models.shapes import ModelShape, PictureSize, Stack, Target, build_empty, measure_picture, read_shape
from medvqa_cli.models.targets import find_targets
from medvqa_cli.plugins import models
from medvqa_cli.records import VQASample
from medvqa_cli.settings.model import ModelSettings
from medvqa_cli.settings.train import LoRASettings, TrainSettings
from tests.models.conftest import QUESTIONS, draw_picture, load_tiny

BAND = 0.75, 1.15
"""Estimated over kept, any family: tiny models show most what happens once and not in every layer."""
LLAMA = Stack(depth=32, width=4096, norms=8192, norms_in_float32=True, inputs=8192, attention=4096, key_value=8192,
              cross=0, mlp_in=22016, mlp_copies=11008, mlp_out=11008, block_parameters=202_383_360,
              targets=(Target(4096, 4096, reads_anew=True),) * 32)
SHAPE = ModelShape(parameters={"vision tower": 300, "projector": 20, "language model": 6000, "other": 130},
                   quantizable=5000, largest_linear=700, vision=(), language=(LLAMA,), projector_width=100,
                   vocabulary=32_000, patch_values=588, holds_vision_states=False)
PICTURE = PictureSize(tokens=576, patches=576, values=3 * 336 * 336)
WORK = Workload(picture=PICTURE, text_tokens=64, answer_tokens=16)


def read_tiny(name: str, folder: str) -> ModelShape:
    family = models.get(name)
    model = build_empty(family, folder)
    return read_shape(model, family.layout, find_targets(model, family.layout, LoRASettings()))


def make_encoder(loaded):
    return SampleEncoder(loaded.family, loaded.processor, lambda _: draw_picture(1))


def make_sample(number: int, *, longer: int = 0) -> VQASample:
    question, answer = QUESTIONS[number]
    return VQASample(dataset="d", split="train", question_id=str(number), image_id="0", images=("x",), answer=answer,
                     question=question + " Where is it?" * longer, answer_type="open")


def count_saved(model, batch, *, checkpointing: bool = False) -> int:
    """Return the bytes that autograd keeps of a forward pass, each storage once, parameters left out."""
    owned = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address is used twice
        return tensor

    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total, _ = sum_answer_loss(model, batch)
        assert total.requires_grad
    return sum(size for size, _ in kept.values())


def prepare(loaded, tuning: str, dropout: float):
    if tuning == "lora":
        train = TrainSettings(lora=LoRASettings(r=4, dropout=dropout))
        return attach_lora(loaded.model, loaded.family.layout, train).train()
    return loaded.model.requires_grad_(True).train()


def compare(loaded, shape: ModelShape, groups, **changes) -> float:
    """Return estimated over kept bytes of one forward pass."""
    tuning, questions = changes.get("tuning", "lora"), changes.get("questions", 1)
    batch = build_batch(make_encoder(loaded), groups, packed=questions > 1)
    picture = measure_picture(loaded.family, loaded.processor, (60, 44), shape)
    apart = loaded.family.layout.task_type == "SEQ_2_SEQ_LM"
    text = batch["input_ids"].shape[1] - picture.tokens
    work = Workload(picture=picture, text_tokens=text // questions, dtype="float32", on_gpu=False, rank=4, **{
        "answer_tokens": batch["labels"].shape[1] if apart else 1, "dropout": 0.0, "tuning": "lora",
        "rows": batch["input_ids"].shape[0], **changes})
    kept = count_kept(shape, work)
    if tuning == "lora":
        kept["activations of the vision tower"] = 0  # held by Python, not by autograd
    saved = count_saved(prepare(loaded, tuning, work.dropout), batch, checkpointing=work.checkpointing)
    return sum(kept.values()) / saved


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("name", models.names())
def test_what_a_forward_pass_keeps_is_within_the_band_for_every_family(name, tuning, tmp_path):
    family = models.get(name)
    family.build_tiny(tmp_path, texts=[text for pair in QUESTIONS for text in pair], seed=1)
    shape = read_tiny(name, str(tmp_path))
    loaded = load_checkpoint(family, name, str(tmp_path), ModelSettings(device="cpu", dtype="float32"))
    assert sum(shape.parameters.values()) == sum(parameter.numel() for parameter in loaded.model.parameters())
    assert BAND[0] < compare(loaded, shape, [[make_sample(0, longer=6)]], tuning=tuning) < BAND[1]


@pytest.mark.parametrize(("changes", "band"), [
    ({}, (0.97, 1.03)), ({"dropout": 0.05}, (0.97, 1.08)), ({"tuning": "full"}, (0.9, 1.03)),
    ({"rows": 2}, (0.95, 1.05)), ({"questions": 4}, (0.93, 1.05)),
])
def test_what_llava_keeps(tiny_directory, changes, band):
    shape = read_tiny("llava", str(tiny_directory))
    rows, questions = changes.get("rows", 1), changes.get("questions", 1)
    groups = [[make_sample(number, longer=5 + row) for number in range(questions)] for row in range(rows)]
    assert band[0] < compare(load_tiny(tiny_directory), shape, groups, **changes) < band[1]


def test_checkpointing_keeps_the_inputs_of_blocks(tiny_directory):
    """Autograd keeps them at the forward pass; the block that is computed again comes later, in the backward pass."""
    shape = read_tiny("llava", str(tiny_directory))
    loaded = load_tiny(tiny_directory)
    batch = build_batch(make_encoder(loaded), [[make_sample(0, longer=6)]], packed=False)
    saved = count_saved(prepare(loaded, "full", 0.0), batch, checkpointing=True)
    tokens = batch["input_ids"].shape[1]
    inputs = 4 * 64 * (2 * tokens + 2 * 17)
    assert saved > inputs
    work = Workload(picture=PictureSize(16, 16, 6912), text_tokens=tokens - 16, dtype="float32", tuning="full",
                    checkpointing=True, on_gpu=False)
    plain = count_kept(shape, dataclasses.replace(work, checkpointing=False))
    kept = count_kept(shape, work)
    one_block = sum(plain.values()) // 2
    assert inputs + 0.7 * one_block < sum(kept.values()) < sum(plain.values())


def test_sizes_are_read_without_weights(tiny_directory):
    model = build_empty(models.get("llava"), str(tiny_directory))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    shape = read_tiny("llava", str(tiny_directory))
    text, vision = shape.language[0], shape.vision[0]
    assert (text.depth, text.width, text.attention, text.key_value, text.mlp_in, text.mlp_out) == (
        2, 64, 64, 128, 256, 128)
    assert (text.mlp_copies, text.norms, text.norms_in_float32, len(text.targets)) == (128, 128, True, 14)
    assert (vision.mlp_in, vision.mlp_copies, vision.norms_in_float32, vision.is_vision) == (128, 0, False, True)
    assert (shape.patch_values, shape.quantizable, shape.largest_linear) == (3 * 12 * 12, 2 * 10 * 64 * 64, 8192)


def test_grouped_keys_and_an_encoder_decoder_are_seen(tmp_path):
    models.get("blip2").build_tiny(tmp_path, seed=1)
    encoder, decoder = read_tiny("blip2", str(tmp_path)).language
    assert (encoder.decodes, encoder.cross, decoder.decodes, decoder.cross) == (False, 0, True, 2 * decoder.attention)
    assert encoder.mask_heads > 1


def test_a_q_former_keeps_something_in_full_training_only(tmp_path):
    """Of two blocks the first looks at the patches: a second attention, a third norm, keys and values of 16 patches."""
    models.get("blip2_opt").build_tiny(tmp_path, seed=1)
    shape = read_tiny("blip2_opt", str(tmp_path))
    assert [(stack.width, stack.cross) for stack in shape.former] == [(64, 128), (64, 0)]
    picture = PictureSize(tokens=8, patches=16, values=3 * 48 * 48)
    full = Workload(picture=picture, rows=2, dtype="float32", tuning="full")
    bare = dataclasses.replace(shape, former=())
    key = "activations of the projector"
    found = count_kept(shape, full)[key] - count_kept(bare, full)[key]
    crossing, plain = (2 * 64 * looks + 128 + 128 + (1 + looks) * (64 + 64) + 128 + 64 for looks in (2, 1))
    assert found == 4 * 2 * (8 * (crossing + plain) + 16 * 128)
    for tuning in ("none", "lora"):
        work = dataclasses.replace(full, tuning=tuning, tune_projector=tuning == "lora")
        assert estimate_memory(shape, work) == estimate_memory(bare, work)


def test_a_picture_is_measured_by_the_family(tiny_directory, tiny):
    shape = read_tiny("llava", str(tiny_directory))
    assert measure_picture(tiny.family, tiny.processor, (640, 480), shape) == PictureSize(16, 16, 3 * 48 * 48)


@pytest.mark.parametrize(("changes", "expected"), [
    ({}, 6450 * 2), ({"dtype": "float32"}, 6450 * 4), ({"quantization": "8bit"}, 5000 + 1450 * 2),
    ({"quantization": "4bit"}, 5000 * 0.515875 + 1450 * 2),
    ({"quantization": "4bit", "tuning": "lora"}, 5000 * 0.515875 + 1450 * 4),
    ({"tuning": "full"}, 6450 * 4), ({"tuning": "full", "freeze_vision_tower": True}, 6150 * 4 + 300 * 2),
    ({"tuning": "full", "dtype": "float32"}, 6450 * 4), ({"tuning": "lora", "tune_projector": True}, 6450 * 2),
])
def test_weights_by_hand(changes, expected):
    assert estimate_weights(SHAPE, dataclasses.replace(WORK, **changes)) == round(expected)


def test_training_states_by_hand():
    adapters = 32 * 16 * (4096 + 4096)
    assert count_adapter_parameters(SHAPE, 16) == adapters
    lora = estimate_memory(SHAPE, dataclasses.replace(WORK, tuning="lora"))
    assert [lora[term] for term in ("adapters", "gradients", "optimiser states")] == [
        4 * adapters, 4 * adapters, 8 * adapters]
    tuned = estimate_memory(SHAPE, dataclasses.replace(WORK, tuning="lora", tune_projector=True, last_layers=1))
    assert tuned["gradients"] == tuned["adapters"] == 4 * (adapters + 20 + LLAMA.block_parameters)
    assert (lora["rounded weights"], tuned["rounded weights"]) == (0, 2 * (20 + LLAMA.block_parameters))
    full = estimate_memory(SHAPE, dataclasses.replace(WORK, tuning="full"))
    assert (full["adapters"], full["gradients"], full["optimiser states"]) == (0, 25_800, 51_600)
    assert full["rounded weights"] == 12_900
    assert estimate_memory(SHAPE, dataclasses.replace(WORK, tuning="full", dtype="float32"))["rounded weights"] == 0
    frozen = estimate_memory(SHAPE, dataclasses.replace(WORK, tuning="full", freeze_vision_tower=True))
    assert frozen["gradients"] == 25_800 - 1200


def test_inference_by_hand():
    """Llama 2 7B: 2 x 32 layers x 32 heads x 128 values x 2 bytes = 512 KiB a token."""
    terms = estimate_memory(SHAPE, WORK)
    assert terms["key-value cache"] == (576 + 64) * 512 * 1024
    assert terms["logits"] == 32_000 * 6
    assert terms["activations of the language model"] == terms["gradients"] == 0
    assert terms["allocator"] == round(0.05 * (sum(terms.values()) - terms["allocator"]))
    grouped = dataclasses.replace(SHAPE, language=(dataclasses.replace(LLAMA, key_value=2048),))
    assert estimate_memory(grouped, WORK)["key-value cache"] == terms["key-value cache"] // 4


def test_full_training_of_a_layer_by_hand():
    """Eight numbers of h, two of a, keys and values, four of f a token; the two norms' float32 copies count double."""
    work = dataclasses.replace(WORK, tuning="full")
    token = 2 * (2 * 4096 + 8192 + 22_016 + 11_008) + 8192 * (4 + 2) + 2 * (8192 + 11_008)
    last_norm = 4096 * (4 + 2)
    assert count_kept(SHAPE, work)["activations of the language model"] == 640 * (32 * token + last_norm)


def test_logits_are_bounded_by_the_text():
    def logits(**changes):
        return estimate_memory(SHAPE, dataclasses.replace(WORK, tuning="lora", **changes))["logits"] / (12 * 32_000)

    assert logits() == 16
    assert logits(rows=2) == 2 * 32
    assert logits(rows=8) == 8 * 64


def test_masks_and_dropout():
    lora = dataclasses.replace(WORK, tuning="lora")
    assert count_kept(SHAPE, lora)["attention masks"] == 0
    packed = dataclasses.replace(lora, questions=4)
    assert count_kept(SHAPE, packed)["attention masks"] == (576 + 4 * 64) ** 2 * (2 * 32 + 1)
    dry, wet, on_cpu = (count_kept(SHAPE, dataclasses.replace(lora, dropout=p, on_gpu=gpu))[
        "activations of the language model"] for p, gpu in ((0.0, True), (0.1, True), (0.1, False)))
    assert (wet - dry, on_cpu - dry) == (640 * 32 * 4096, 640 * 32 * 4096 * 4)


@pytest.mark.parametrize("changes", [{"rows": 2}, {"questions": 2}, {"text_tokens": 65}, {"dtype": "float32"},
                                     {"rank": 17}, {"answer_tokens": 17}])
def test_more_of_anything_takes_more(changes):
    work = dataclasses.replace(WORK, tuning="lora")
    less, more = (sum(estimate_memory(SHAPE, each).values()) for each in (work, dataclasses.replace(work, **changes)))
    assert more > less


@pytest.mark.parametrize(("content", "text"), [
    ('{"model_type": "llava", "vision_config": 5}', "describes no model"),
    ('{"model_type": "llava", "text_config": {"model_type": "llama", "hidden_size": "wide"}}', "hidden_size"),
    ('{"model_type": "nothing_like_this"}', "nothing_like_this"),
])
def test_a_damaged_config_is_one_clear_error(tmp_path, content, text):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError) as failure:
        build_empty(models.get("llava"), str(tmp_path))
    assert str(tmp_path) in failure.value.message
    assert text in failure.value.message
    assert failure.value.hint

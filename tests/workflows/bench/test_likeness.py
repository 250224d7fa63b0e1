"""`medvqa bench --like`: a checkpoint's sizes at random, measured from end to end; what does not fit is not built."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from medvqa_cli.errors import ModelError, SettingsError
from medvqa_cli.models import placement
from medvqa_cli.models.architectures import ARCHITECTURES
from medvqa_cli.plugins import models
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.bench import likeness
from medvqa_cli.workflows.bench.answers import Wanted, bench_infer
from medvqa_cli.workflows.bench.likeness import sketch_like
from medvqa_cli.workflows.bench.peaks import count_flops
from medvqa_cli.workflows.bench.shapes import BenchShape
from medvqa_cli.workflows.bench.train import Way, bench_train
from tests.workflows.bench.notes import Notes

GIB = 2**30
NAME = "llava_1.5_7b"
SHAPE = BenchShape(questions=2, like=NAME)


def choose(**model: object):
    return make_settings({"model": {"device": "cpu", **model}})


@pytest.fixture
def small(monkeypatch):
    """Make the known checkpoint and its picture small, its keys grouped, and leave it its kind."""
    monkeypatch.setattr("medvqa_cli.workflows.bench.peaks.MEASURE_SECONDS", 0.01)
    own = ARCHITECTURES[NAME]
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 84}
    text = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 2000}
    monkeypatch.setitem(ARCHITECTURES, NAME, dataclasses.replace(
        own, vision={**own.vision, **vision}, text={**own.text, **text}, image_size=84))


def test_a_likeness_is_trained_in_bfloat16_from_end_to_end(small):
    notes = Notes()
    report = bench_train(choose(dtype="bfloat16"), SHAPE, rounds=1, progress=notes)
    single, batched, packed = report["ways"]
    facts = report["subject"]
    assert (facts["like"], facts["weights"], facts["dtype"], facts["image_tokens"]) == (NAME, "random", "bfloat16", 36)
    assert "checkpoint" not in facts
    assert single["loss"] == pytest.approx(packed["loss"], rel=3e-2) == batched["loss"]
    assert packed["flops"] < single["flops"]
    assert single["estimated_bytes"] < packed["estimated_bytes"] < batched["estimated_bytes"]
    assert any(said.startswith(f"Drawing random weights in the sizes of {NAME}: ") for said in notes.said)
    json.dumps(report)


def test_a_likeness_answers_too(small):
    report = bench_infer(choose(), SHAPE, Wanted(max_new_tokens=2, rounds=1))
    assert report["equal_answers"] == 2
    assert report["subject"]["like"] == NAME


def test_operations_are_those_of_the_sizes(small):
    """Chowdhery et al. 2022, arXiv:2204.02311, appendix B: 2 a weight and token, 4 L h T^2 for attention; forward."""
    from medvqa_cli.models.random_models import build_weights

    sketch = sketch_like(NAME, choose())
    model = build_weights(sketch, device=torch.device("cpu"), dtype=torch.float32, attention="sdpa").model
    tokens, patches = 36 + 24, 36
    ids = torch.full((1, tokens), sketch.processor.image_token_id)
    ids[0, :24] = 5
    pixels = torch.zeros(1, 3, 84, 84)
    text = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128) * 2 * tokens + 4 * 2 * 64 * tokens**2 + 2 * 64 * 2000
    vision = (2 * (4 * 32 * 32 + 2 * 32 * 64) * 2 + 4 * 2 * 32 * (patches + 1)) * (patches + 1)
    embedding, projector = 2 * 3 * 14 * 14 * 32 * patches, 2 * (32 * 64 + 64 * 64) * patches
    counted = count_flops(lambda: model(input_ids=ids, pixel_values=pixels, logits_to_keep=1))
    assert counted == pytest.approx(text + vision + embedding + projector, rel=0.01)


def test_what_does_not_fit_is_said_before_anything_is_built(monkeypatch):
    monkeypatch.setattr(placement, "find_free_memory", lambda device: 10 * GIB)
    monkeypatch.setattr("medvqa_cli.models.random_models.build_weights", None)
    with pytest.raises(ModelError) as failure:
        bench_train(choose(dtype="bfloat16"), SHAPE)
    assert failure.value.message.startswith("'llava_1.5_7b' does not fit: its weights take 13.2 GiB, with one question "
                                            "at a time about ")
    assert failure.value.message.endswith("and the device 'cpu' has 10.0 GiB free.")
    assert "--like" in failure.value.hint


def test_a_way_that_does_not_fit_is_left_out_and_the_others_go_on(small, monkeypatch):
    report = bench_train(choose(), SHAPE, rounds=1)
    _, batched, packed = (way["estimated_bytes"] for way in report["ways"])
    free = iter([GIB, (batched + packed) // 2 - 4 * report["subject"]["parameters"]])
    monkeypatch.setattr(placement, "find_free_memory", lambda device: next(free))
    single, batched, packed = bench_train(choose(), SHAPE, rounds=1)["ways"]
    assert batched["failure"].startswith("does not fit: about ")
    assert "seconds" in single
    assert packed["ratio"] > 0


def test_rows_and_questions_of_a_way():
    assert [(way.rows, way.questions) for way in (
        Way("one", [[["a"]], [["b"]]]), Way("rows", [[["a", "b"]], [["c"]]]),
        Way("packed", [[["a", "b", "c"], ["d"]]], packed=True))] == [(1, 1), (2, 1), (2, 3)]


@pytest.mark.parametrize("name", ["llava-1.5-7b", "llava-hf/llava-1.5-7b-hf", "llava", "LLaVA_1.5_7b"])
def test_every_name_of_a_checkpoint_is_understood(small, name):
    assert sketch_like(name, choose(family="qwen2_vl")).checkpoint == NAME


def test_a_folder_is_like_itself(tmp_path):
    models.get("qwen2_vl").build_tiny(tmp_path, seed=1)
    (tmp_path / "model.safetensors").unlink()
    found = sketch_like(str(tmp_path), choose())
    assert (found.family_name, found.model.config.text_config.hidden_size) == ("qwen2_vl", 64)


def test_errors_name_what_to_do():
    with pytest.raises(ModelError, match=r"Unknown model 'llava_1\.5_8b'\. Did you mean 'llava_1\.5_7b'"):
        sketch_like("llava_1.5_8b", choose())
    with pytest.raises(ModelError, match=r"The sizes of 'llava_next_vicuna_13b' are not known here\.") as failure:
        sketch_like("llava_next_vicuna_13b", choose())
    assert failure.value.hint.startswith("Known: llava_1.5_7b, ")
    assert "`medvqa models info llava_next_vicuna_13b --download-config`" in failure.value.hint
    with pytest.raises(SettingsError, match="random weights, which are not quantised; --quantization is '4bit'"):
        likeness.build_like(NAME, choose(quantization="4bit"), [])

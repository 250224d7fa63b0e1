"""Faults of a family are found, each by the step that looks for it, on tiny checkpoints."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from medvqa_cli import plugins
from medvqa_cli.errors import ModelError
from medvqa_cli.models.families import blip2, llava
from medvqa_cli.progress import SILENT
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.checks import bench as benches
from medvqa_cli.workflows.checks.advice import COUNTED_DIFFERENTLY, NOT_FINITE, TASK_TYPE, advise
from medvqa_cli.workflows.checks.bench import Bench, count_vectors
from medvqa_cli.workflows.checks.outcome import FaultError, Listener, NotApplicableError
from medvqa_cli.workflows.checks.portions import portion_data
from medvqa_cli.workflows.checks.scope import SanityScope, choose_subjects

Llava, Blip2 = type(llava.PLUGIN), type(blip2.PLUGIN)
SCOPE = SanityScope(tiny=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder whose demo is prepared once."""
    return tmp_path_factory.mktemp("bench")


@pytest.fixture
def load(home, tmp_path, monkeypatch):
    """Load a family's tiny checkpoint: `load(Family(), train={...})`."""
    def build(family, **sections) -> Bench:
        monkeypatch.setattr(plugins.models, "_loose", {"odd": family})
        own = make_settings({"model": {"family": "odd", "device": "cpu", "dtype": "float32"}, **sections})
        settings = portion_data(own, SCOPE, home)
        bench = Bench(choose_subjects(settings, SCOPE)[0], SCOPE, settings, tmp_path, Listener(SILENT))
        assert bench.load().startswith("odd from a tiny random checkpoint, ")
        return bench

    return build


class Hasty(Llava):
    """Leaves one image token out of the prompt."""

    def encode_prompt(self, processor, turns, images):
        prompt = super().encode_prompt(processor, turns, images)
        prompt.remove(self.find_image_token(processor))
        return prompt


class Miscounting(Llava):
    """States, and puts into the prompt, one image token more or fewer than the model makes."""

    def __init__(self, by: int) -> None:
        self.by = by

    def encode_images(self, processor, images):
        inputs = super().encode_images(processor, images)
        return replace(inputs, num_tokens=tuple(number + self.by for number in inputs.num_tokens))


def test_image_tokens_that_are_cut_off_are_found(load):
    with pytest.raises(FaultError) as caught:
        load(Hasty()).check_image_tokens()
    assert caught.value.message == "The prompt holds 15 image tokens, the processor states 16."
    assert caught.value.hint == COUNTED_DIFFERENTLY


@pytest.mark.parametrize("by", [-1, 1])
def test_a_model_that_counts_refuses_another_number(load, by):
    with pytest.raises(ValueError, match="Image features and image tokens do not match") as caught:
        load(Miscounting(by)).check_image_tokens()
    assert advise(caught.value) == COUNTED_DIFFERENTLY


def test_of_a_model_that_does_not_count_the_projectors_features_are_counted(load, monkeypatch):
    monkeypatch.setenv("TRANSFORMERS_DISABLE_TORCH_CHECK", "1")
    with pytest.raises(FaultError) as caught:
        load(Miscounting(-1)).check_image_tokens()
    assert caught.value.message == (
        "The prompt holds 15 image tokens, but 16 features come out of 'model.multi_modal_projector'.")


def test_image_tokens_of_two_shapes_are_right(load):
    assert load(plugins.models.get("llava_next").__class__()).check_image_tokens() == (
        "in the prompt as many as features: 70 for 320x240, 40 for 160x480")


def test_vectors_are_counted_in_whatever_a_module_gives():
    assert count_vectors(torch.zeros(2, 3, 8)) == 6
    assert count_vectors((torch.zeros(3, 8), [torch.zeros(4, 8)], None)) == 7


def test_numbers_that_are_none_are_found(load):
    bench = load(Llava())
    with torch.no_grad():
        bench.model.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(FaultError) as caught:
        bench.check_image_tokens()
    assert (caught.value.message, caught.value.hint) == ("The loss of one question is nan.", NOT_FINITE)


def test_a_wrong_task_type_is_found_when_the_model_is_loaded(load):
    family = Blip2()
    family.layout = replace(Blip2.layout, task_type="CAUSAL_LM")
    with pytest.raises(FaultError) as caught:
        load(family)
    assert caught.value.message == "The family's layout says CAUSAL_LM, but the language model is SEQ_2_SEQ_LM."
    assert caught.value.hint == TASK_TYPE


def test_lora_targets_that_are_not_there_are_named_with_those_that_are(load):
    family = Llava()
    family.layout = replace(Llava.layout, lora_targets=("query", "value"))
    with pytest.raises(ModelError, match=r"LoRA targets \(query, value\) are not in this model") as caught:
        load(family).count_parameters()
    assert "q_proj" in caught.value.hint


def test_parameters_are_counted_by_part(load):
    bench = load(Llava(), train={"lora": {"r": 2}, "tune_projector": True})
    projector = sum(parameter.numel() for parameter in bench.model.model.model.multi_modal_projector.parameters())
    found = bench.count_parameters()
    assert f"projector {projector:,}" in found
    assert f"projector {projector / 1000:.1f} K (all of it)" in found.partition("Trained: ")[2]


def test_full_training_is_counted_too_but_never_on_weights_in_few_bits(load, monkeypatch):
    bench = load(Llava(), train={"tuning": "full"})
    assert "vision tower 96.0 K (all of it)" in bench.count_parameters()
    monkeypatch.setattr(benches, "describe_model", lambda loaded: {"dtype": "bfloat16", "quantization": "4bit"})
    with pytest.raises(NotApplicableError, match="few bits"):
        bench.count_parameters()


def test_packing_is_compared_or_not_shared(load, monkeypatch):
    bench = load(Llava())
    assert bench.compare_packing().startswith("loss ")
    monkeypatch.setattr("medvqa_cli.models.batches.compare_packed_loss", lambda *_: (5.0, 5.1))
    with pytest.raises(FaultError, match="The packed loss is 5.100000, the plain loss 5.000000."):
        bench.compare_packing()
    bench.settings = bench.settings.model_copy(
        update={"model": bench.settings.model.model_copy(update={"attention": "flash"})})
    with pytest.raises(NotApplicableError, match="not shared: flash attention"):
        bench.compare_packing()
    with pytest.raises(NotApplicableError, match="not shared: this family"):
        load(Blip2()).compare_packing()


def test_a_model_that_was_let_go_is_not_used(load):
    bench = load(Llava())
    bench.release()
    with pytest.raises(RuntimeError, match="has not been loaded"):
        bench.check_image_tokens()

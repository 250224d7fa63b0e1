"""Weights in 4 and 8 bits really load, learn and answer on a CPU; what cannot be done is one error with its reason."""

from __future__ import annotations

import pytest
import torch

from medvqa_cli.errors import MissingDependencyError, ModelError, SettingsError
from medvqa_cli.inference.protocol import Decoding
from medvqa_cli.inference.transformers_engine import TransformersEngine
from medvqa_cli.models.adapters import attach_lora, load_adapter
from medvqa_cli.models.batches import build_batch, sum_answer_loss
from medvqa_cli.models.encoding import SampleEncoder
from medvqa_cli.models.loading import load_checkpoint
from medvqa_cli.models.quantization import choose_quantization, find_quantization, prepare_kbit_training
from medvqa_cli.plugins import models
from medvqa_cli.records import VQASample
from medvqa_cli.settings.model import ModelSettings
from medvqa_cli.settings.train import LoRASettings, TrainSettings
from tests.models.conftest import QUESTIONS, draw_picture, load_tiny

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
LINEARS = {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}


def load(directory, mode: str, dtype: str = "float32"):
    settings = ModelSettings(device="cpu", dtype=dtype, quantization=mode)
    return load_checkpoint(models.get("llava"), "llava", str(directory), settings)


@pytest.fixture
def samples(tmp_path) -> list[VQASample]:
    path = str(tmp_path / "picture.png")
    draw_picture(1).save(path)
    return [VQASample(dataset="d", split="test", question_id=str(number), image_id="0", question=question,
                      answer=answer, answer_type="open", images=(path,))
            for number, (question, answer) in enumerate(QUESTIONS)]


def make_encoder(loaded) -> SampleEncoder:
    from PIL import Image

    return SampleEncoder(loaded.family, loaded.processor, lambda path: Image.open(path).convert("RGB"))


@pytest.mark.parametrize("mode", ["4bit", "8bit"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_only_the_language_models_linear_layers_shrink(tiny_directory, mode, dtype):
    model = load(tiny_directory, mode, dtype).model
    assert find_quantization(model) == mode
    kinds = {name: type(module).__name__ for name, module in model.named_modules()
             if isinstance(module, torch.nn.Linear)}
    shrunk = {name for name, kind in kinds.items() if kind == LINEARS[mode]}
    assert shrunk == {name for name in kinds if name.startswith("model.language_model.")}
    assert len(shrunk) == 2 * 7
    kept = {parameter.dtype for name, parameter in model.named_parameters() if "language_model.layers" not in name}
    assert kept == {getattr(torch, dtype)}


@pytest.mark.parametrize("mode", ["4bit", "8bit"])
def test_quantised_weights_are_near_the_plain_ones(tiny_directory, samples, mode):
    """Loss within 2 % (NF4) or 0.5 % (LLM.int8) of that of full weights, and not equal to it."""
    plain, small = load_tiny(tiny_directory), load(tiny_directory, mode)
    with torch.no_grad():
        losses = [sum_answer_loss(loaded.model, build_batch(make_encoder(loaded), [samples], packed=True))[0].item()
                  for loaded in (plain, small)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel={"4bit": 2e-2, "8bit": 5e-3}[mode])


@pytest.mark.parametrize(("mode", "checkpointing"), [("4bit", True), ("4bit", False), ("8bit", True)])
def test_adapters_learn_on_quantised_weights_and_are_used_again(tiny_directory, tmp_path, samples, mode, checkpointing):
    loaded = load(tiny_directory, mode, "bfloat16" if checkpointing else "float32")
    prepare_kbit_training(loaded.model, gradient_checkpointing=checkpointing)
    assert {p.dtype for p in loaded.model.parameters() if p.is_floating_point()} == {torch.float32}
    torch.manual_seed(0)
    model = attach_lora(loaded.model, loaded.family.layout, TrainSettings(lora=LoRASettings(r=4, dropout=0.0)))
    model.train()
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules()) == checkpointing
    before = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    batch = build_batch(make_encoder(loaded), [samples], packed=True)
    losses = []
    for _ in range(6):
        loss = sum_answer_loss(model, batch)[0]
        loss.backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters() if name in before)

    model.eval().save_pretrained(tmp_path / "adapter")
    again = load(tiny_directory, mode)
    again.model = load_adapter(again.model, tmp_path / "adapter", trainable=False).eval()
    assert find_quantization(again.model) == mode
    with torch.no_grad():
        reloaded, trained = (sum_answer_loss(m, batch)[0].item() for m in (again.model, model))
    assert reloaded == pytest.approx(trained, rel=1e-2)
    engine = TransformersEngine(again, make_encoder(again), shared_prefix=True)
    answers = engine.generate(samples, Decoding(max_new_tokens=4))
    assert len(answers) == len(samples)
    assert all(answer.num_tokens > 0 and answer.logprob < 0 for answer in answers)


@pytest.mark.parametrize("name", models.names())
def test_no_family_has_its_tower_or_projector_quantised(name, tmp_path):
    family = models.get(name)
    family.build_tiny(tmp_path / "tiny", seed=1)
    settings = ModelSettings(device="cpu", dtype="float32", quantization="4bit")
    loaded = load_checkpoint(family, name, str(tmp_path / "tiny"), settings)
    shrunk = [path for path, module in loaded.model.named_modules() if type(module).__name__ == "Linear4bit"]
    layout = family.layout
    assert shrunk
    assert all(path.startswith(layout.language_model + ".") and not path.endswith("lm_head") for path in shrunk)
    assert not any(path.startswith((layout.vision_tower, *layout.projectors)) for path in shrunk)


def choose(wanted="auto", config=None, device=CUDA, parameters=7_000_000_000, tuning="lora"):
    return choose_quantization(wanted, "org/model", config or {}, device=device, parameters=parameters, tuning=tuning)


@pytest.mark.parametrize(("options", "mode", "reason"), [
    ({}, "4bit", "7.0 billion parameters, 4bit above 3 billion"),
    ({"parameters": 3_000_000_000}, "none", "3.0 billion parameters, 4bit above 3 billion"),
    ({"parameters": None}, "none", "an unknown number of parameters, 4bit above 3 billion"),
    ({"device": CPU}, "none", "4bit on CUDA only; 7.0 billion parameters"),
    ({"tuning": "full"}, "none", "the weights themselves are trained"),
    ({"tuning": "none"}, "4bit", "7.0 billion parameters, 4bit above 3 billion"),
    ({"wanted": "none"}, "none", ""),
    ({"wanted": "8bit", "device": CPU}, "8bit", ""),
    ({"config": {"quantization_config": {"quant_method": "awq"}}}, "none", "stored quantised by awq"),
])
def test_what_is_chosen_and_why(options, mode, reason):
    choice = choose(**options)
    assert (choice.mode, choice.reason) == (mode, reason)


def test_quantised_weights_are_not_trained_themselves():
    with pytest.raises(SettingsError, match="model.quantization is '4bit', and on quantised weights only adapters"):
        choose("4bit", tuning="full")
    with pytest.raises(SettingsError, match=r"'org/model' is stored quantised \(by bitsandbytes\)") as failure:
        choose(config={"quantization_config": {"quant_method": "bitsandbytes"}}, tuning="full")
    assert "--tuning lora" in failure.value.hint


def test_a_checkpoint_stored_quantised_stays_as_it_is():
    with pytest.raises(ModelError, match="stored quantised already .by gptq.: model.quantization cannot be '4bit'"):
        choose("4bit", config={"quantization_config": {"quant_method": "gptq"}})


def test_without_bitsandbytes(monkeypatch):
    monkeypatch.setattr("medvqa_cli.models.quantization.has_bitsandbytes", lambda: False)
    with pytest.raises(MissingDependencyError, match="'8bit'. needs the package 'bitsandbytes'") as failure:
        choose("8bit")
    assert "medvqa-cli[quantization]" in failure.value.hint
    assert choose().mode == "none"
    assert "bitsandbytes, which is not installed" in choose().reason


def test_a_device_that_bitsandbytes_does_not_know():
    with pytest.raises(ModelError, match="cannot quantise to 4bit on the device 'meta'"):
        choose("4bit", device=torch.device("meta"))


def test_a_stored_4bit_checkpoint_is_loaded_as_it_is(tiny_directory, tmp_path):
    small = load(tiny_directory, "4bit")
    small.model.save_pretrained(tmp_path / "stored")
    small.processor.save_pretrained(tmp_path / "stored")
    again = load(tmp_path / "stored", "auto")
    assert find_quantization(again.model) == "4bit"
    ids = torch.arange(5, 12)[None]
    assert torch.equal(again.model(input_ids=ids).logits, small.model(input_ids=ids).logits)

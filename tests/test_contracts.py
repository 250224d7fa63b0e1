"""Every registered plugin keeps its contract: a new one is tested without a new test."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image

from medvqa_cli.data.protocol import Dataset, GeneratedDataset
from medvqa_cli.errors import DataError
from medvqa_cli.inference.protocol import Decoding
from medvqa_cli.inference.transformers_engine import TransformersEngine
from medvqa_cli.models.adapters import attach_lora, count_parameters, find_part, load_adapter
from medvqa_cli.models.batches import build_batch, compare_packed_loss, sum_answer_loss
from medvqa_cli.models.encoding import SampleEncoder
from medvqa_cli.models.loading import load_checkpoint
from medvqa_cli.models.protocol import ModelFamily
from medvqa_cli.plugins import datasets, models
from medvqa_cli.records import VQASample
from medvqa_cli.registry import normalize_name
from medvqa_cli.settings.model import ModelSettings
from medvqa_cli.settings.train import LoRASettings, TrainSettings
from tests.models.conftest import QUESTIONS, draw_picture


@pytest.mark.parametrize("name", datasets.names())
def test_data_set(name, tmp_path):
    plugin = datasets.get(name)
    assert isinstance(plugin, Dataset)
    for field in ("title", "summary", "licence", "citation", "homepage", "obtain", "closed_definition"):
        assert getattr(plugin.card, field), f"the card of {name} lacks {field}"
    assert not plugin.card.default_language or plugin.card.default_language in plugin.card.languages
    if plugin.Options is not None:
        assert plugin.Options.model_config["extra"] == "forbid"
        assert all(info.description for info in plugin.Options.model_fields.values())
    assert isinstance(plugin, GeneratedDataset) == plugin.card.generated
    with pytest.raises(DataError) as failure:
        plugin.find_root(tmp_path / "nowhere")
    assert "nowhere" in failure.value.message
    assert failure.value.hint


def test_aliases_are_unambiguous():
    for registry in (datasets, models):
        for alias, name in registry.aliases().items():
            assert alias == normalize_name(alias)
            assert alias not in registry.names()
            assert registry.resolve(alias) == name


def make_sample(path: str | None, number: int) -> VQASample:
    question, answer = QUESTIONS[number]
    return VQASample(dataset="d", split="test", question_id=str(number), image_id="0", question=question, answer=answer,
                     answer_type="open", images=(path,) if path else ())


def make_encoder(loaded):
    return SampleEncoder(loaded.family, loaded.processor, lambda path: Image.open(path).convert("RGB"))


@pytest.mark.parametrize("name", models.names())
def test_model_family(name, tmp_path):
    """Tiny checkpoint -> load -> loss with and without image -> LoRA step -> save -> reload -> merge -> generate."""
    family = models.get(name)
    assert isinstance(family, ModelFamily)
    assert family.card.checkpoints
    family.build_tiny(tmp_path / "tiny", texts=[text for pair in QUESTIONS for text in pair], seed=3)
    settings = ModelSettings(device="cpu", dtype="float32")
    loaded = load_checkpoint(family, name, str(tmp_path / "tiny"), settings)
    for part in (family.layout.vision_tower, family.layout.projector, family.layout.language_model):
        assert sum(p.numel() for p in find_part(loaded.model, part).parameters()) > 0
    path = str(tmp_path / "picture.png")
    draw_picture(1).save(path)
    encoder = make_encoder(loaded)
    group = [make_sample(path, number) for number in range(3)]
    batch = build_batch(encoder, [group], packed=False)
    text_only = build_batch(encoder, [[make_sample(None, 0)]], packed=False)
    if family.capabilities.packs:
        plain, packed = compare_packed_loss(loaded.model, encoder, group)
        assert packed == pytest.approx(plain, rel=1e-4)

    torch.manual_seed(0)
    model = attach_lora(loaded.model, family.layout, TrainSettings(lora=LoRASettings(r=4, dropout=0.0)))
    counts = count_parameters(model, family.layout)
    assert counts["language model"][0] > 0
    assert counts["vision tower"][0] == counts["projector"][0] == 0
    before = [sum_answer_loss(model, item)[0].item() for item in (batch, text_only)]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(10):
        sum_answer_loss(model, batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    after = [sum_answer_loss(model, item)[0].item() for item in (batch, text_only)]
    assert after[0] < before[0]
    assert after[1] != before[1]

    model.save_pretrained(tmp_path / "adapter")
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    with torch.no_grad():
        expected = model(**inputs).logits
        again = load_checkpoint(family, name, str(tmp_path / "tiny"), settings)
        reloaded = load_adapter(again.model, tmp_path / "adapter", trainable=False).eval()
        assert torch.allclose(reloaded(**inputs).logits, expected, atol=1e-6)
        merged = reloaded.merge_and_unload()
        assert torch.allclose(merged(**inputs).logits, expected, atol=1e-4)
    again = dataclasses.replace(again, model=merged)
    decoding = Decoding(max_new_tokens=6)
    answers = [[answer.text for answer in engine.generate(group, decoding)] for engine in (
        TransformersEngine(again, make_encoder(again), shared_prefix=False, batch_size=1),
        TransformersEngine(again, make_encoder(again), shared_prefix=False, batch_size=3),
        TransformersEngine(again, make_encoder(again), shared_prefix=family.capabilities.packs))]
    assert answers[0] == answers[1] == answers[2]

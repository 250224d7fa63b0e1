"""Masks in the form a model takes: windows are not forgotten."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from medvqa_cli.inference.protocol import Decoding
from medvqa_cli.inference.transformers_engine import TransformersEngine
from medvqa_cli.models.attention import fit_mask, number_runs, pair_runs
from medvqa_cli.models.batches import build_batch, compare_packed_loss, sum_answer_loss
from medvqa_cli.models.encoding import SampleEncoder
from medvqa_cli.models.loading import load_checkpoint
from medvqa_cli.models.protocol import LoadedModel
from medvqa_cli.models.tiny import make_scratch_options, seeded, shape_text, shape_vision
from medvqa_cli.plugins import models
from medvqa_cli.records import VQASample
from medvqa_cli.settings.model import ModelSettings
from tests.models.conftest import QUESTIONS, draw_picture

WINDOW = 12


@pytest.fixture(params=["sdpa", "eager"])
def windowed(request):
    """A LLaVA around a Mistral whose layers see only the last tokens, fewer than a picture takes."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    family, options = models.get("llava"), make_scratch_options()()
    processor = family.build_processor([text for pair in QUESTIONS for text in pair], options)
    text = shape_text(processor.tokenizer, options, model_type="mistral", sliding_window=WINDOW)
    config = LlavaConfig(vision_config=shape_vision(options, model_type="clip_vision_model"), text_config=text,
                         image_token_index=processor.image_token_id, vision_feature_layer=-1)
    with seeded(3):
        model = LlavaForConditionalGeneration(config).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.mul_(2)
    model.set_attn_implementation(request.param)
    return LoadedModel(model=model, processor=processor, family=family, family_name="llava", checkpoint="")


@pytest.fixture
def group(tmp_path):
    draw_picture(1).save(tmp_path / "0.png")
    return [VQASample(dataset="d", split="train", question_id=str(n), image_id="0", question=question, answer=answer,
                      answer_type="open", images=(str(tmp_path / "0.png"),))
            for n, (question, answer) in enumerate(QUESTIONS)]


def make_encoder(loaded):
    return SampleEncoder(loaded.family, loaded.processor, lambda path: Image.open(path).convert("RGB"))


def test_a_window_holds_in_packed_rows_and_trees(windowed, group):
    encoder = make_encoder(windowed)
    plain, packed = compare_packed_loss(windowed.model, encoder, group)
    assert packed == pytest.approx(plain, rel=1e-5)
    decoding = Decoding(max_new_tokens=8)
    one, tree = (TransformersEngine(windowed, make_encoder(windowed), shared_prefix=shared, batch_size=1)
                 .generate(group, decoding) for shared in (False, True))
    assert [answer.text for answer in tree] == [answer.text for answer in one]
    assert [answer.logprob for answer in tree] == pytest.approx([answer.logprob for answer in one], abs=1e-3)


def test_the_window_matters_here(windowed, group):
    """Else the test above would show nothing."""
    batch = build_batch(make_encoder(windowed), [group], packed=True)
    with torch.no_grad():
        near = sum_answer_loss(windowed.model, batch)[0].item()
        windowed.model.config.text_config.sliding_window = None
        assert abs(near - sum_answer_loss(windowed.model, batch)[0].item()) > 1e-2


def test_each_kind_of_layer_gets_its_mask():
    class Text:
        sliding_window = 2
        layer_types = ("sliding_attention", "full_attention")

    class Config:
        _attn_implementation = "sdpa"

        @staticmethod
        def get_text_config():
            return Text

    class Model:
        config = Config

    positions = torch.arange(4)[None]
    causal = torch.ones(4, 4, dtype=torch.bool).tril()[None, None]
    seen = causal | pair_runs(torch.tensor([[1, 1, 1, 0]]))
    found = fit_mask(Model, seen, positions, positions)
    assert found["full_attention"].equal(seen)
    assert found["sliding_attention"][0, 0].int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    Text.layer_types = ("full_attention",)
    assert fit_mask(Model, causal, positions, positions).equal(causal)


def test_a_picture_longer_than_the_window_is_seen_as_by_the_model_itself(group, tmp_path):
    """Gemma 3's own masks let the window cut into a picture; of 36 tokens 24 are seen."""
    family = models.get("gemma3")
    family.build_tiny(tmp_path / "gemma3", texts=[text for pair in QUESTIONS for text in pair], seed=3,
                      options=family.Options(image_size=144))
    loaded = load_checkpoint(family, "gemma3", str(tmp_path / "gemma3"), ModelSettings(device="cpu", dtype="float32"))
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)
    encoder = make_encoder(loaded)
    assert sum(encoder.encode_images(group[0]).num_tokens) == 36 > loaded.model.config.text_config.sliding_window
    plain, packed = compare_packed_loss(loaded.model, encoder, group)
    assert packed == pytest.approx(plain, rel=1e-5)


def test_runs_are_numbered():
    marks = torch.tensor([[1, 1, 0, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0]]).bool()
    assert number_runs(marks).tolist() == [[1, 1, 0, 2, 0, 0, 3], [0] * 7]
    pairs = pair_runs(number_runs(marks))[0, 0]
    assert pairs[0].int().tolist() == [1, 1, 0, 0, 0, 0, 0]
    assert not pairs[2].any()

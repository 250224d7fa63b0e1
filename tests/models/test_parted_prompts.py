"""Exemplars in different styles part prompts before their image: what is shared is shared among the like."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image

from medvqa_cli.data.balance import LossWeights
from medvqa_cli.inference import transformers_engine
from medvqa_cli.inference.choosing import choose_greedily
from medvqa_cli.inference.protocol import Decoding
from medvqa_cli.inference.shared_prefix import PrefixTree
from medvqa_cli.inference.transformers_engine import TransformersEngine
from medvqa_cli.models.batches import build_batch, sum_answer_loss
from medvqa_cli.models.encoding import SampleEncoder
from medvqa_cli.models.loading import load_checkpoint
from medvqa_cli.models.packing import IGNORE
from medvqa_cli.plugins import models
from medvqa_cli.settings.data import Exemplar, PromptSettings
from medvqa_cli.settings.model import ModelSettings
from medvqa_cli.training.collation import WEIGHTS, Collator
from medvqa_cli.training.completions import draw_completions, score_completions
from tests.models.conftest import QUESTIONS
from tests.models.test_packing import make_samples

SHOWN = (Exemplar(question="Is it normal?", answer="yes"),)
STYLES = PromptSettings(closed_style="short", open_style="plain", exemplars=SHOWN)
HISTORIES = PromptSettings(style="minimal", exemplars=SHOWN)


@pytest.fixture(scope="module", params=["llava", "qwen2_vl"])
def loaded(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    family = models.get(request.param)
    family.build_tiny(folder, texts=[text for pair in QUESTIONS for text in pair], seed=5)
    found = load_checkpoint(family, request.param, str(folder), ModelSettings(device="cpu", dtype="float32"))
    with torch.no_grad():
        for parameter in found.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)
    return found


@pytest.fixture(params=[STYLES, HISTORIES], ids=["styles", "histories"])
def encoder(request, loaded):
    return SampleEncoder(loaded.family, loaded.processor, lambda path: Image.open(path).convert("RGB"),
                         prompt=request.param)


@pytest.fixture
def mixed(picture_paths):
    """Five questions of one image: 0, 2 and 4 are put in one way, 1 and 3 in another, whichever way that is."""
    return [sample if number % 2 else dataclasses.replace(sample, answer_type="closed", history=(("Is it MRI?", "no"),))
            for number, sample in enumerate(make_samples(picture_paths))]


def test_packed_rows_are_one_for_each_way_and_equal_separate_rows(loaded, encoder, mixed):
    arranged = encoder.arrange(mixed)
    assert [sample.question_id for sample in arranged] == ["0-0", "0-2", "0-4", "0-1", "0-3"]
    assert encoder.arrange(arranged) == arranged
    rows = {True: 2, False: 5}
    for packed, group in ((True, arranged), (False, mixed)):
        batch = build_batch(encoder, [group], packed=packed)
        assert len(batch["input_ids"]) == rows[packed]
        loaded.model.zero_grad(set_to_none=True)
        loss, tokens = sum_answer_loss(loaded.model, batch)
        (loss / tokens).backward()
        found = (loss / tokens).item(), torch.cat([p.grad.flatten() for p in loaded.model.parameters()
                                                   if p.grad is not None])
        rows[packed] = found
    assert rows[True][0] == pytest.approx(rows[False][0], rel=1e-5)
    assert (rows[True][1] - rows[False][1]).norm() < 1e-5 * rows[False][1].norm()


def test_whatever_the_order_packs_keep_it(loaded, encoder, mixed):
    batch = build_batch(encoder, [mixed], packed=True)
    assert len(batch["input_ids"]) == 5
    plain = build_batch(encoder, [mixed], packed=False)
    with torch.no_grad():
        assert sum_answer_loss(loaded.model, batch)[0].item() == pytest.approx(
            sum_answer_loss(loaded.model, plain)[0].item(), rel=1e-5)


def test_weights_go_to_their_own_questions(encoder, mixed):
    weights = LossWeights("answer_type", {"closed": 2.0, "open": 0.5}, {})
    batches = [Collator(encoder, packed, 2048, weights).collate([tuple(mixed)]) for packed in (True, False)]
    found = []
    for batch in batches:
        learned = batch["labels"] != IGNORE
        found.append(sorted(zip(batch["labels"][learned].tolist(), batch[WEIGHTS][learned].tolist(), strict=True)))
    assert found[0] == found[1]
    assert len({weight for _, weight in found[0]}) == 2


def test_trees_equal_generate(loaded, encoder, mixed):
    tree, plain = (TransformersEngine(loaded, encoder, shared_prefix=shared, batch_size=2) for shared in (True, False))
    answers = [engine.generate(mixed, Decoding(max_new_tokens=8)) for engine in (tree, plain)]
    assert [answer.text for answer in answers[0]] == [answer.text for answer in answers[1]]
    assert [a.logprob for a in answers[0]] == pytest.approx([a.logprob for a in answers[1]], abs=1e-4)
    assert len({answer.text for answer in answers[0]}) > 1
    offered = [["yes", "no"], [], ["liver"], ["MRI", "yes"], ["left lung", "no", "liver"]]
    scores = [engine.score_candidates(mixed, offered) for engine in (tree, plain)]
    for found, expected, texts in zip(*scores, offered, strict=True):
        assert list(found) == texts
        assert found == pytest.approx(expected, abs=1e-4)
    drawn = tree.sample(mixed, 30, Decoding(max_new_tokens=2, temperature=1.0, seed=3))
    assert [sum(answer.count for answer in found) for found in drawn] == [30] * 5


def test_a_held_prefix_is_prefilled_once_for_each_way_and_gives_the_same(loaded, encoder, mixed, picture_paths,
                                                                          monkeypatch):
    planted = []
    monkeypatch.setattr(transformers_engine, "PrefixTree", lambda *args: planted.append(args) or PrefixTree(*args))
    engine = TransformersEngine(loaded, encoder, shared_prefix=True)
    other = [dataclasses.replace(sample, images=(picture_paths[1],)) for sample in mixed[:2]]
    closed, free, offered = [mixed[0], mixed[3]], [mixed[1], mixed[2], mixed[4]], [["yes", "no"], ["MRI"]]

    def answer():
        scores = engine.score_candidates(closed, offered)
        answers = engine.generate(free, Decoding(max_new_tokens=6))
        elsewhere = engine.generate(other, Decoding(max_new_tokens=6))
        return ([score for found in scores for score in found.values()], [one.text for one in (*answers, *elsewhere)],
                [one.logprob for one in (*answers, *elsewhere)])

    apart = answer()
    assert len(planted) == 2 + 2 + 2
    with engine.hold_prefix(mixed):
        together = answer()
    assert len(planted) == 6 + 2 + 2  # other pictures are not taken for these
    assert together[1] == apart[1]
    assert together[0] == pytest.approx(apart[0], abs=1e-4)
    assert together[2] == pytest.approx(apart[2], abs=1e-4)
    engine.generate(free, Decoding(max_new_tokens=2))
    assert len(planted) == 12, "nothing is held behind the block"


def test_completions_are_drawn_and_scored_as_alone(loaded, encoder, mixed):
    ends = TransformersEngine(loaded, encoder, shared_prefix=True).end_ids
    asked = [3, 0, 1, 1, 4, 2]
    drawn = draw_completions(loaded.model, encoder, mixed, asked, choose_greedily, max_new_tokens=5, end_ids=ends)
    alone = [draw_completions(loaded.model, encoder, mixed, [index], choose_greedily, max_new_tokens=5, end_ids=ends)[0]
             for index in asked]
    assert [tokens for tokens, _ in drawn] == [tokens for tokens, _ in alone]
    completions = [(index, tokens) for index, (tokens, _) in zip(asked, drawn, strict=True)]
    with torch.no_grad():
        logprobs, _ = score_completions(loaded.model, encoder, mixed, completions)
    assert logprobs.sum(dim=1).tolist() == pytest.approx([logprob for _, logprob in drawn], abs=1e-4)

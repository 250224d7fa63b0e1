"""Packed rows equal separate rows: loss, gradients, isolation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medvqa_cli.models.adapters import attach_lora
from medvqa_cli.models.batches import build_batch, sum_answer_loss
from medvqa_cli.models.encoding import EncodedSample, SampleEncoder
from medvqa_cli.models.packing import (
    IGNORE,
    build_row,
    cut_behind_images,
    divide_prompts,
    find_common_prefix,
    plan_packs,
    stack_rows,
)
from medvqa_cli.records import VQASample
from medvqa_cli.settings.train import LoRASettings, TrainSettings
from tests.models.conftest import QUESTIONS, fill_adapters, load_tiny

IDS = st.lists(st.integers(0, 5), min_size=1, max_size=8).map(tuple)


def make_samples(paths: list[str], image: int = 0) -> list[VQASample]:
    return [VQASample(dataset="d", split="train", question_id=f"{image}-{n}", image_id=str(image), question=question,
                      answer=answer, answer_type="open", images=(paths[image],))
            for n, (question, answer) in enumerate(QUESTIONS)]


def make_encoder(loaded) -> SampleEncoder:
    return SampleEncoder(loaded.family, loaded.processor, lambda path: Image.open(path).convert("RGB"))


@given(st.lists(IDS, min_size=1, max_size=6))
def test_common_prefix_is_the_longest_that_leaves_every_prompt_a_token(prompts):
    shared = find_common_prefix(prompts)
    assert all(prompt[:shared] == prompts[0][:shared] for prompt in prompts)
    assert all(len(prompt) > shared for prompt in prompts)
    longer = shared + 1
    assert any(len(prompt) <= longer for prompt in prompts) or any(p[:longer] != prompts[0][:longer] for p in prompts)


@given(st.lists(st.tuples(IDS, IDS), min_size=1, max_size=6))
def test_a_row_holds_every_sample_exactly(pairs):
    samples = [EncodedSample(prompt, answer) for prompt, answer in pairs]
    row = build_row(samples)
    prefix = [token for token, segment in zip(row.ids, row.segments, strict=True) if segment == 0]
    for number, sample in enumerate(samples, start=1):
        chosen = [i for i, segment in enumerate(row.segments) if segment == number]
        assert (*prefix, *(row.ids[i] for i in chosen)) == (*sample.prompt, *sample.answer)
        assert [row.positions[0][i] for i in chosen] == list(range(len(prefix), len(prefix) + len(chosen)))
        assert tuple(row.labels[i] for i in chosen if row.labels[i] != IGNORE) == sample.answer
        assert row.labels[chosen[0]] == IGNORE


@given(st.lists(st.tuples(IDS, IDS), min_size=1, max_size=10), st.integers(1, 40), st.integers(1, 5))
def test_packs_keep_order_and_limits_and_drop_nothing(pairs, max_tokens, max_questions):
    samples = [EncodedSample(prompt, answer) for prompt, answer in pairs]
    packs = plan_packs(samples, 5, max_tokens=max_tokens, max_questions=max_questions)
    assert [index for pack in packs for index in pack] == list(range(len(samples)))
    for pack in packs:
        assert len(pack) <= max_questions
        assert len(pack) == 1 or len(build_row([samples[i] for i in pack]).ids) <= max_tokens
        assert len({cut_behind_images(samples[i].prompt, 5) for i in pack}) == 1


def test_prompts_part_where_they_differ_before_their_last_image_token():
    prompts = [(1, 9, 9, 3), (2, 9, 9, 3), (1, 9, 9, 4, 4), (1, 9, 3), (5, 6)]
    assert [cut_behind_images(prompt, 9) for prompt in prompts] == [(1, 9, 9), (2, 9, 9), (1, 9, 9), (1, 9), ()]
    assert divide_prompts(prompts, 9) == [[0, 2], [1], [3], [4]]
    samples = [EncodedSample(prompt, (7,)) for prompt in prompts]
    assert plan_packs(samples, 9, max_tokens=99, max_questions=9) == [[0], [1], [2], [3], [4]]
    assert plan_packs([samples[0], samples[2], samples[1]], 9, max_tokens=99, max_questions=9) == [[0, 1], [2]]


def test_a_picture_of_any_length_is_shared_if_no_bound_is_set():
    """Else each question would get its own copy of a picture of more than PACK_LENGTH tokens, all in one pass."""
    samples = [EncodedSample((9,) * 2900 + (number,) * 20, (1, 2, 3)) for number in range(10, 21)]
    assert plan_packs(samples, 9, max_tokens=None, max_questions=32) == [list(range(11))]
    assert plan_packs(samples, 9, max_tokens=None, max_questions=6) == [list(range(6)), list(range(6, 11))]
    assert plan_packs(samples, 9, max_tokens=2048, max_questions=32) == [[number] for number in range(11)]
    long = [EncodedSample((9,) * 100 + (number,) * 500, (1,)) for number in range(10, 15)]
    assert plan_packs(long, 9, max_tokens=None, max_questions=32) == [[0, 1, 2, 3], [4]]


def test_block_mask_by_hand():
    rows = [build_row([EncodedSample((1, 2, 3), (4,)), EncodedSample((1, 2, 5), (6,))]),
            build_row([EncodedSample((1, 2), (7,))])]
    mask = stack_rows(rows, padding_id=0)["attention_mask"][:, 0].int().tolist()
    assert mask[0] == [[1, 0, 0, 0, 0, 0],
                       [1, 1, 0, 0, 0, 0],
                       [1, 1, 1, 0, 0, 0],
                       [1, 1, 1, 1, 0, 0],
                       [1, 1, 0, 0, 1, 0],
                       [1, 1, 0, 0, 1, 1]]
    assert all(mask[1][i][i] for i in range(6)), "padding must keep an open key"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_loss_and_every_gradient_equal_separate_rows(tiny_directory, picture_paths, attention, tuning):
    loaded = load_tiny(tiny_directory, attention)
    model = loaded.model
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)
    if tuning == "lora":
        settings = TrainSettings(lora=LoRASettings(r=4, alpha=8, dropout=0.0), tune_projector=True)
        model = attach_lora(model, loaded.family.layout, settings)
        fill_adapters(model)
    groups = [make_samples(picture_paths, 0), make_samples(picture_paths, 1)[:3]]
    encoder = make_encoder(loaded)
    results = {}
    for packed in (False, True):
        model.zero_grad(set_to_none=True)
        loss, tokens = sum_answer_loss(model, build_batch(encoder, groups, packed=packed))
        (loss / tokens).backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results[packed] = (loss.item(), int(tokens), gradients)
    (plain_loss, plain_tokens, plain), (packed_loss, packed_tokens, packed) = results[False], results[True]
    assert plain_tokens == packed_tokens
    assert packed_loss == pytest.approx(plain_loss, rel=1e-5)
    assert plain.keys() == packed.keys()
    if tuning == "full":
        assert any("vision_tower" in name for name in plain)
    # A key projection's bias shifts all scores of a query alike: its true gradient is zero, what is seen is rounding.
    moved = {name: gradient for name, gradient in plain.items() if not name.endswith("k_proj.bias")}
    assert all(gradient.norm() > 0 for name, gradient in moved.items() if "vision_tower" not in name)
    worst = max(((packed[name] - moved[name]).norm() / moved[name].norm()).item()
                for name in moved if moved[name].norm() > 1e-6)
    assert worst < 1e-5


def test_a_segment_does_not_see_another(tiny, picture_paths):
    encoder = make_encoder(tiny)
    samples = make_samples(picture_paths)
    images = encoder.encode_images(samples[0])
    row = build_row([encoder.encode_text(sample, images) for sample in samples[:3]])
    end = row.segments.index(3)
    with torch.no_grad():
        batches = [build_batch(encoder, [[*samples[:2], third]], packed=True) for third in (samples[2], samples[4])]
        logits = [tiny.model(**{k: v for k, v in batch.items() if k != "labels"}).logits for batch in batches]
    assert batches[0]["input_ids"][0, :end].tolist() == batches[1]["input_ids"][0, :end].tolist()
    assert not torch.equal(batches[0]["input_ids"], batches[1]["input_ids"])
    assert torch.allclose(logits[0][0, :end], logits[1][0, :end], atol=1e-5)


def test_identical_questions_still_have_a_segment_each(tiny, picture_paths):
    encoder = make_encoder(tiny)
    sample = make_samples(picture_paths)[0]
    with torch.no_grad():
        packed = sum_answer_loss(tiny.model, build_batch(encoder, [[sample, sample]], packed=True))
        single = sum_answer_loss(tiny.model, build_batch(encoder, [[sample]], packed=False))
    assert packed[0].item() == pytest.approx(2 * single[0].item(), rel=1e-5)
    assert int(packed[1]) == 2 * int(single[1])


def test_long_groups_are_split_not_cut(tiny, picture_paths):
    encoder = make_encoder(tiny)
    samples = make_samples(picture_paths)
    whole = build_batch(encoder, [samples], packed=True)
    split = build_batch(encoder, [samples], packed=True, max_tokens=40)
    assert split["input_ids"].shape[0] > 1
    assert (split["labels"] != IGNORE).sum() == (whole["labels"] != IGNORE).sum()
    with torch.no_grad():
        assert sum_answer_loss(tiny.model, split)[0].item() == pytest.approx(
            sum_answer_loss(tiny.model, whole)[0].item(), rel=1e-5)

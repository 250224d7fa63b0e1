"""Closed questions taught as a choice: the loss is a cross-entropy over candidates, packed rows equal separate ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from medvqa_cli.inference.routing import CandidateRouter
from medvqa_cli.inference.vocabulary import Vocabulary
from medvqa_cli.models.adapters import attach_lora
from medvqa_cli.models.batches import build_batch, find_token_losses, sum_answer_loss
from medvqa_cli.settings.train import LoRASettings, TrainSettings
from medvqa_cli.training.objectives import (
    OWNERS,
    PLAN,
    ClosedObjective,
    count_choices,
    count_tokens,
    mark_choices,
    number_answers,
    sum_choice_losses,
    sum_gold_losses,
)
from tests.models.test_packing import make_encoder, make_samples

VOCABULARY = Vocabulary("d", "train", "f", {"en": {"yes": 3, "no": 2, "liver": 2, "Left lung": 1}})
ROUTER = CandidateRouter(VOCABULARY)
HYBRID = ClosedObjective(ROUTER, 1.0, keeps_answers=True)
MC = ClosedObjective(ROUTER, 1.0, keeps_answers=False)


def make_group(picture_paths, image=0):
    """Two yes/no questions, a choice of organs, a closed question without its gold answer, an open one."""
    first, second, third, *rest = make_samples(picture_paths, image)
    return [replace(first, answer_type="closed"), replace(second, answer_type="closed"),
            replace(third, answer_type="closed", question="Which is larger, liver or spleen or lung?", answer="spleen"),
            replace(rest[0], answer_type="closed", question="Is it large?", answer="both"), rest[1]]


def ask(sample_of, question, answer, **fields):
    return replace(sample_of[0], question=question, answer=answer, answer_type="closed", **fields)


def test_each_question_is_followed_by_its_wrong_candidates(picture_paths):
    group = make_group(picture_paths)
    found = HYBRID.expand([group])
    assert [[sample.answer for sample in members] for members in found.groups] == [
        ["yes", "no", "no", "yes", "spleen", "liver", "lung", "both", "liver"]]
    assert found.answer_weights == [1, 0, 1, 0, 1, 0, 0, 1, 1]
    assert [question for question, _, _ in found.plan] == [0, 0, 1, 1, 2, 2, 2, -1, -1]
    assert [is_gold for _, is_gold, _ in found.plan] == [1, 0, 1, 0, 1, 0, 0, 1, 1]
    assert MC.expand([group]).answer_weights == [0, 0, 0, 0, 0, 0, 0, 1, 1]
    assert MC.expand([group]).plan == found.plan


def test_questions_are_counted_over_groups_and_weighed(picture_paths):
    groups = [make_group(picture_paths, image)[:2] for image in range(2)]
    found = HYBRID.expand(groups, lambda sample: 2.0 if sample.answer == "no" else 0.5)
    assert [question for question, _, _ in found.plan] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [weight for _, _, weight in found.plan] == [0.5, 0.5, 2, 2] * 2
    assert found.answer_weights == [0.5, 0, 2, 0] * 2
    assert count_choices(torch.tensor(found.plan)).item() == 5


@pytest.mark.parametrize(("question", "answer", "expected"), [
    ("Is it large?", "Yes", ["No"]), ("Is it large?", "NO", ["Yes"]), ("Is it large?", "yes.", ["no"]),
    ("Is the cyst in the left or right kidney?", "Left kidney", ["Right kidney"]),
    ("Is the cyst in the left or right kidney?", "right", ["left"]),
    ("Is the nodule in the left lung or heart?", "left lung", ["heart"]),
    ("Which is it?", "liver", []), ("Which is larger, liver or heart?", "both", []),
])
def test_neither_length_nor_case_tells_the_right_one(picture_paths, question, answer, expected):
    assert HYBRID.list_wrong(ask(make_samples(picture_paths), question, answer)) == expected


def test_an_open_question_has_no_candidates(picture_paths):
    sample = replace(make_samples(picture_paths)[0], answer_type="open")
    assert HYBRID.list_wrong(sample) == []


def measure(model, encoder, groups, *, packed):
    """Return the loss of the choices in one batch, and how many there are."""
    expansion = HYBRID.expand(groups)
    batch = build_batch(encoder, expansion.groups, packed=packed)
    marks = mark_choices(batch["labels"], expansion)
    losses, targets = find_token_losses(model, batch)
    return sum_choice_losses(losses, targets, batch["labels"], marks[OWNERS], marks[PLAN]), expansion


def test_the_loss_is_that_of_candidates_scored_as_separate_rows(tiny, picture_paths):
    encoder, group = make_encoder(tiny), make_group(picture_paths)
    found, _ = measure(tiny.model, encoder, [group], packed=True)
    expected = 0.0
    for sample in group:
        candidates = [sample.answer, *HYBRID.list_wrong(sample)]
        if len(candidates) == 1:
            continue
        means = []
        for answer in candidates:
            losses, targets = find_token_losses(tiny.model, build_batch(encoder, [[replace(sample, answer=answer)]],
                                                                        packed=False))
            means.append(-losses.sum() / (targets != -100).sum())
        expected += functional.cross_entropy(torch.stack(means)[None], torch.tensor([0])).item()
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert expected > 0.1


def test_packed_rows_give_the_loss_and_the_gradients_of_separate_rows(tiny, picture_paths):
    encoder = make_encoder(tiny)
    torch.manual_seed(0)
    settings = TrainSettings(lora=LoRASettings(r=4, dropout=0.0, parts=("language_model", "vision_tower")))
    model = attach_lora(tiny.model, tiny.family.layout, settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.eval()
    groups = [make_group(picture_paths, image) for image in range(2)]
    results = []
    for packed in (False, True):
        model.zero_grad()
        loss, _ = measure(model, encoder, groups, packed=packed)
        loss.backward()
        results.append((loss.item(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()
                                      if parameter.requires_grad}))
    (plain, plain_gradients), (packed, packed_gradients) = results
    assert packed == pytest.approx(plain, rel=1e-5)
    assert len(plain_gradients) > 4
    for name, gradient in plain_gradients.items():
        scale = gradient.abs().max().item()
        assert scale > 0, name
        assert (packed_gradients[name] - gradient).abs().max().item() < 1e-4 * scale + 1e-7, name


def test_without_choices_the_loss_is_nothing(tiny, picture_paths):
    group = [replace(sample, answer_type="open") for sample in make_samples(picture_paths)[:2]]
    loss, expansion = measure(tiny.model, make_encoder(tiny), [group], packed=True)
    assert loss.item() == 0
    assert count_choices(torch.tensor(expansion.plan)).item() == 0


def test_answers_are_numbered_in_the_order_of_the_samples():
    labels = torch.tensor([[-100, 5, 6, -100, 7], [8, -100, 9, 9, -100]])
    assert number_answers(labels).tolist() == [[-1, 0, 0, -1, 1], [2, -1, 3, 3, -1]]
    with pytest.raises(ValueError, match="0 candidates have 4 answers"):
        mark_choices(labels, MC.expand([]))


def test_what_is_logged_is_the_loss_of_the_gold_answers(tiny, picture_paths):
    encoder, group = make_encoder(tiny), make_group(picture_paths)
    expansion = MC.expand([group])
    batch = build_batch(encoder, expansion.groups, packed=True)
    marks = mark_choices(batch["labels"], expansion)
    with torch.no_grad():
        found, tokens, taught = sum_gold_losses(*find_token_losses(tiny.model, batch), batch["labels"],
                                                marks[OWNERS], marks[PLAN])
        expected, counted = sum_answer_loss(tiny.model, build_batch(encoder, [group], packed=True))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert tokens == counted
    alone = build_batch(encoder, [group[3:]], packed=True)  # of mc, only these two are taught as text
    assert taught.item() == pytest.approx(sum_answer_loss(tiny.model, alone)[0].item(), rel=1e-5)
    assert count_tokens(batch["labels"], marks[OWNERS], marks[PLAN]) == (alone["labels"] != -100).sum()

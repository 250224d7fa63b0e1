"""The order of a training: complete, new in each epoch, the same wherever it is entered."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvqa_cli.records import VQASample
from medvqa_cli.training.order import TrainingOrder, group_by_image


def make_samples(counts):
    return [VQASample(dataset="d", split="train", question_id=f"{image}-{n}", image_id=str(image), question="?",
                      answer="yes", answer_type="closed", images=(f"/{image}.png",))
            for n in range(max(counts)) for image, count in enumerate(counts) if n < count]


def name(block):
    return [[sample.question_id for sample in group] for group in block]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 5), st.integers(0, 99))
def test_every_epoch_holds_every_question_once_and_groups_share_an_image(counts, most, seed):
    samples = make_samples(counts)
    order = TrainingOrder(samples, most, length=10_000, seed=seed)
    for epoch in range(3):
        blocks = [order[epoch * order.per_epoch + place] for place in range(order.per_epoch)]
        seen = Counter(sample.question_id for (group,) in blocks for sample in group)
        assert seen == Counter(sample.question_id for sample in samples)
        for (group,) in blocks:
            assert len({sample.images for sample in group}) == 1
            assert len(group) <= most
    assert order.per_epoch == len(group_by_image(samples, most))


def test_groups_of_an_image_are_equally_large():
    (big, small), = {tuple(len(group) for group in group_by_image(make_samples([5]), 4))}
    assert {big, small} == {2, 3}


def test_it_can_be_entered_anywhere_and_differs_by_epoch_and_seed():
    samples = make_samples([7, 3, 8])
    order = TrainingOrder(samples, 3, length=100, seed=1)
    whole = [name(order[index]) for index in range(30)]
    for index in (29, 3, 17, 0):
        assert name(TrainingOrder(samples, 3, length=100, seed=1)[index]) == whole[index]
    assert [name(TrainingOrder(samples, 3, length=100, seed=2)[index]) for index in range(30)] != whole
    epochs = [whole[start: start + order.per_epoch] for start in range(0, 18, order.per_epoch)]
    assert sorted(map(str, epochs[0])) != sorted(map(str, epochs[1])), "questions are dealt anew, not only reordered"


def test_blocks_of_a_mixture_stay_together():
    samples = make_samples([6, 6])
    order = TrainingOrder(samples, 4, length=6, seed=0, block=4)
    assert order.per_epoch == 3
    wanted = {frozenset(s.question_id for s in samples[start: start + 4]) for start in (0, 4, 8)}
    for epoch in range(2):
        blocks = [order[epoch * 3 + place] for place in range(3)]
        assert {frozenset(s.question_id for group in block for s in group) for block in blocks} == wanted


def test_it_ends():
    order = TrainingOrder(make_samples([2]), 1, length=3, seed=0)
    assert len(list(order)) == 3
    with pytest.raises(IndexError):
        order[3]

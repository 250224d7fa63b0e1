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


def mix_kinds(closed, others, images=3):
    return [VQASample(dataset="d", split="train", question_id=f"{kind}-{n}", image_id=str(n % images), question="?",
                      answer="yes", answer_type=kind, images=(f"/{n % images}.png",))
            for kind, count in (("closed", closed), ("open", others)) for n in range(count)]


@given(st.integers(1, 20), st.integers(1, 20), st.floats(0.01, 0.99), st.integers(1, 5), st.integers(0, 9))
def test_every_epoch_has_the_share_of_closed_questions(closed, others, share, most, seed):
    samples = mix_kinds(closed, others)
    order = TrainingOrder(samples, most, seed=seed, length=10_000, closed_share=share)
    wanted = min(max(round(share * len(samples)), 1), len(samples) - 1)
    start = 0
    for epoch in range(3):
        end = int(order.count_blocks(epoch + 1))
        seen = Counter(sample for index in range(start, end) for (group,) in [order[index]] for sample in
                       (s.question_id for s in group))
        assert seen.total() == len(samples)
        assert sum(count for name, count in seen.items() if name.startswith("closed")) == wanted
        for kind, number, drawn in (("closed", closed, wanted), ("open", others, len(samples) - wanted)):
            times = [seen[f"{kind}-{n}"] for n in range(number)]
            assert max(times) - min(times) <= 1, "none comes again before all have come as often"
            assert sum(times) == drawn
        start = end


def test_a_drawn_order_can_be_entered_anywhere_and_draws_anew():
    samples = mix_kinds(4, 20)
    order = TrainingOrder(samples, 2, length=200, seed=1, closed_share=0.5)
    whole = [name(order[index]) for index in range(60)]
    for index in (59, 3, 17, 0, 31):
        assert name(TrainingOrder(samples, 2, length=200, seed=1, closed_share=0.5)[index]) == whole[index]
    first, second = (Counter(q for index in range(int(order.count_blocks(e)), int(order.count_blocks(e + 1)))
                             for group in whole[index] for q in group) for e in (0, 1))
    assert first != second
    assert first.total() == second.total() == 24
    half = order.count_blocks(1.5) - order.count_blocks(1.0)
    assert half == (order.count_blocks(2.0) - order.count_blocks(1.0)) / 2


def test_blocks_of_epochs_are_counted():
    assert TrainingOrder(make_samples([5, 3]), 4, seed=0).count_blocks(2.5) == 2.5 * 3


def test_the_blocks_of_an_epoch_are_counted_once():
    """Counted again for each block, an epoch of 150,000 images takes hours."""
    order = TrainingOrder(make_samples([2] * 50), 1, seed=0, length=400)
    calls = []

    class Counted(list):
        def __iter__(self):
            calls.append(1)
            return super().__iter__()

    order._units = Counted(order._units)
    blocks = list(order)
    assert len(blocks) == 400
    assert len(calls) == 1 + 4, "once to count it, and once an epoch to arrange it"

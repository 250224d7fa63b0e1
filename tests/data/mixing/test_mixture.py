"""Draws follow the weights, repeat nothing early, and come out the same again; ranges mean what they say."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from medvqa_cli.data.mixing.mixture import GroupSamples, Member, MixtureGroup, collect_group, draw_mixture
from medvqa_cli.errors import DataError, SettingsError
from medvqa_cli.records import VQASample


def make_samples(dataset: str, count: int, per_image: int = 1) -> list[VQASample]:
    return [VQASample(dataset=dataset, split="train", question_id=str(n), image_id=str(n // per_image), question="?",
                      answer="yes", answer_type="closed", images=(f"/{dataset}/{n // per_image}.png",))
            for n in range(count)]


def make_group(name: str, count: int, weight: float = 1.0, *, mandatory: bool = False, per_image=1) -> GroupSamples:
    return GroupSamples(name, make_samples(name, count, per_image), weight, mandatory)


def keys(samples) -> list[tuple[str, str]]:
    return [(sample.dataset, sample.question_id) for sample in samples]


@pytest.mark.parametrize("seed", range(5))
def test_drawn_shares_follow_the_weights(seed):
    groups = [make_group("a", 40, 1), make_group("b", 400, 5), make_group("c", 7, 2.5), make_group("never", 5, 0)]
    drawn = draw_mixture(groups, 8500, seed)
    counts = Counter(sample.dataset for sample in drawn.samples)
    expected = {"a": 1000, "b": 5000, "c": 2500}
    chi_square = sum((counts[name] - number) ** 2 / number for name, number in expected.items())
    assert chi_square < 13.82, "a fair draw exceeds this once in 1000 (2 degrees of freedom)"
    assert counts["never"] == 0
    for row in drawn.report["groups"]:
        assert row["drawn"] == counts[row["name"]]
        assert row["share"] == counts[row["name"]] / 8500
        assert row["wanted"] == pytest.approx(expected.get(row["name"], 0) / 8500)
        assert row["repeats"] == max(0, counts[row["name"]] - row["available"])


def test_mandatory_groups_start_every_block():
    groups = [make_group("a", 50, 3), make_group("must", 5, 1, mandatory=True), make_group("too", 3, 0, mandatory=True)]
    drawn = draw_mixture(groups, 4002, 1, block=8)
    names = [sample.dataset for sample in drawn.samples]
    blocks = [names[start: start + 8] for start in range(0, len(names), 8)]
    assert [block[:2] for block in blocks] == [["must", "too"]] * 501
    assert all("too" not in block[2:] for block in blocks)
    rows = {row["name"]: row for row in drawn.report["groups"]}
    assert rows["too"]["drawn"] == 501
    assert rows["must"]["wanted"] == pytest.approx((501 + 0.25 * 3000) / 4002)
    assert sum(row["wanted"] for row in rows.values()) == pytest.approx(1)
    assert rows["must"]["share"] == pytest.approx(rows["must"]["wanted"], abs=0.02)


def test_a_last_block_without_room_for_all_mandatory_groups_is_counted_right():
    groups = [make_group("a", 9), make_group("b", 9, mandatory=True), make_group("c", 9, 0, mandatory=True)]
    rows = {row["name"]: row for row in draw_mixture(groups, 7, 0, block=3).report["groups"]}
    assert rows["c"]["wanted"] == pytest.approx(2 / 7)
    assert rows["b"]["wanted"] == pytest.approx((3 + 0.5 * 2) / 7)


@given(st.lists(st.tuples(st.integers(1, 12), st.floats(0, 10), st.booleans()), min_size=1, max_size=4),
       st.integers(1, 80), st.integers(0, 2**32 - 1), st.integers(4, 9), st.booleans())
@example([(1, 5e-324, False)], 1, 0, 4, False)
def test_nothing_repeats_before_all_have_come_and_draws_come_out_again(shapes, size, seed, block, by_image):
    groups = [make_group(str(n), count, weight, mandatory=mandatory, per_image=3)
              for n, (count, weight, mandatory) in enumerate(shapes)]
    if not any(group.weight for group in groups):
        groups[0] = dataclasses.replace(groups[0], weight=1.0)
    drawn = draw_mixture(groups, size, seed, block=block, by_image=by_image)
    assert len(drawn.samples) == size
    for group, row in zip(groups, drawn.report["groups"], strict=True):
        own = [sample.question_id for sample in drawn.samples if sample.dataset == group.name]
        whole = len(group.samples)
        rounds = [own[start: start + whole] for start in range(0, len(own), whole)]
        assert all(len(set(turn)) == len(turn) for turn in rounds)
        assert row["repeats"] == len(own) - len(set(own))
        assert (row["drawn"], row["available"]) == (len(own), whole)
    assert drawn.report["distinct"] == len(set(keys(drawn.samples)))
    backwards = [dataclasses.replace(group, samples=group.samples[::-1]) for group in groups]
    assert draw_mixture(backwards, size, seed, block=block, by_image=by_image).samples == drawn.samples


def test_the_seed_decides_order_and_groups():
    groups = [make_group("a", 30), make_group("b", 30)]
    first, again, other = (keys(draw_mixture(groups, 60, seed).samples) for seed in (1, 1, 2))
    assert first == again != other
    assert [name for name, _ in first] != [name for name, _ in other]
    twice = keys(draw_mixture([make_group("a", 30)], 60, 1).samples)
    assert sorted(twice[:30]) == sorted(twice[30:])
    assert twice[:30] != twice[30:]


def test_without_a_size_as_many_are_drawn_as_there_are():
    assert draw_mixture([make_group("a", 3), make_group("b", 4)], None, 0).report["size"] == 7


def test_by_image_keeps_the_questions_of_an_image_together():
    group = make_group("a", 60, per_image=6)
    together = [sample.image_id for sample in draw_mixture([group], 60, 3, by_image=True).samples]
    apart = [sample.image_id for sample in draw_mixture([group], 60, 3).samples]
    assert sum(one != following for one, following in itertools.pairwise(together)) == 9
    assert sum(one != following for one, following in itertools.pairwise(apart)) > 30
    text = GroupSamples("t", [dataclasses.replace(sample, images=()) for sample in make_samples("t", 20)])
    assert keys(draw_mixture([text], 20, 1, by_image=True).samples) != keys(text.samples)


@pytest.mark.parametrize(("start", "end", "expected"), [
    (0, 0, range(10)), (0, 3, range(3)), (3, 5, range(3, 5)), (7, 0, range(7, 10)), (8, 99, range(8, 10))])
def test_a_range_takes_from_start_up_to_before_end(start, end, expected):
    group = MixtureGroup(name="g", members=(Member("alias", start, end),), shuffle=False)
    used = collect_group(group, [("own", make_samples("own", 10))], seed=0)
    assert keys(used.samples) == [("own", str(n)) for n in expected]
    assert used.members == ({"dataset": "own", "found": 10, "used": len(expected), "range": [start, end]},)


def test_a_range_is_taken_after_the_shuffle():
    samples = make_samples("a", 200)

    def take(start, end, seed, own_seed=None):
        group = MixtureGroup(name="g", members=(Member("a", start, end),), seed=own_seed)
        return keys(collect_group(group, [("a", samples)], seed=seed).samples)

    first = take(0, 50, 1)
    assert first != take(0, 50, 2)
    assert first == take(0, 50, 9, own_seed=1), "a group's own seed wins"
    assert len({int(number) for _, number in first} & set(range(50))) < 30
    assert take(0, 80, 1)[:50] == first
    assert sorted(first + take(50, 0, 1)) == sorted(keys(samples))
    assert sorted(take(0, 0, 1)) == sorted(keys(samples))


def test_members_add_up_and_keep_their_names():
    group = MixtureGroup(name="g", members=(Member("a", 0, 2), Member("b", 0, 2)), weight=3, mandatory=True)
    used = collect_group(group, [(name, make_samples(name, 5)) for name in ("a", "b")], seed=0)
    assert [sample.dataset for sample in used.samples] == ["a", "a", "b", "b"]
    assert (used.name, used.weight, used.mandatory) == ("g", 3, True)
    row = draw_mixture([used], 4, 0, block=2).report["groups"][0]
    assert (row["datasets"], row["available"], row["repeats"]) == (["a", "b"], 4, 0)


def test_what_cannot_be_drawn_is_one_error():
    with pytest.raises(DataError, match=r"Group 'g' .* questions 10 to the end of 'a', which has 10"):
        collect_group(MixtureGroup(name="g", members=(Member("a", 10, 0),)), [("a", make_samples("a", 10))], seed=0)
    with pytest.raises(DataError, match=r"uses questions 0 to 5 of 'a', which has 0"):
        collect_group(MixtureGroup(name="g", members=(Member("a", 0, 5),)), [("a", [])], seed=0)
    with pytest.raises(DataError, match="Group 'a' of the mixture has no questions"):
        draw_mixture([GroupSamples("a", [])], 5, 0)
    with pytest.raises(SettingsError, match="No group of the mixture has a weight above 0"):
        draw_mixture([make_group("a", 3, 0, mandatory=True)], 5, 0)
    with pytest.raises(SettingsError, match="No group"):
        draw_mixture([], 5, 0)
    with pytest.raises(SettingsError, match=r"2 mandatory groups \(a, b\), but a block has room for 1"):
        draw_mixture([make_group("a", 3, mandatory=True), make_group("b", 3, mandatory=True)], 5, 0)
    with pytest.raises(ValueError, match="at least 1, not 0 and 1"):
        draw_mixture([make_group("a", 3)], 0, 0)

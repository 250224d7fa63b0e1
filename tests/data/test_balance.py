"""How much questions count: rare classes more, up to a bound, and groups as they are named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvqa_cli.data.balance import balance_classes, check_share, describe_weights, weigh_questions
from medvqa_cli.errors import DataError
from medvqa_cli.records import VQASample
from medvqa_cli.settings.train import TrainSettings


def make_sample(number, **facts):
    return VQASample(**{"dataset": "d", "split": "train", "question_id": str(number), "image_id": "i", "question": "?",
                        "answer": "yes", "answer_type": "closed", **facts})


def make_samples(closed, others, **facts):
    kinds = ["closed"] * closed + ["open"] * others
    return [make_sample(number, answer_type=kind, **facts) for number, kind in enumerate(kinds)]


@given(st.integers(1, 40), st.integers(1, 40))
def test_two_balanced_classes_count_the_same_in_all(closed, others):
    """As scikit-learn's compute_class_weight("balanced"), whose weights are n / (classes * n_c) with the mean 1."""
    samples = make_samples(closed, others)
    weights = weigh_questions(TrainSettings(balance="answer_type", balance_cap=100.0), samples)
    total = closed + others
    assert weights.weigh(samples[0]) == pytest.approx(total / (2 * closed))
    assert weights.weigh(samples[-1]) == pytest.approx(total / (2 * others))
    assert sum(map(weights.weigh, samples)) == pytest.approx(total)


def test_a_class_of_one_question_counts_no_more_than_the_cap():
    samples = make_samples(50, 1)
    weights = weigh_questions(TrainSettings(balance="answer_type"), samples)
    assert weights.weigh(samples[-1]) == pytest.approx(10 * weights.weigh(samples[0]))


def test_answers_are_classes_once_normalized():
    samples = [make_sample(n, answer=answer) for n, answer in enumerate(["Yes", "yes.", "no", "YES"])]
    assert balance_classes(samples, "answer", 10.0) == {"yes": 1.0, "no": 3.0}


def test_groups_are_multiplied_with_each_other_and_with_the_balance():
    samples = [*make_samples(3, 1, modality="CT"), *make_samples(1, 1, modality="MR")]
    plain = weigh_questions(TrainSettings(loss_weights={"modality=CT": 3.0, "answer_type=open": 0.5}), samples)
    ratio = plain.weigh(samples[3]) / plain.weigh(samples[4])  # CT and open, MR and closed
    assert ratio == pytest.approx(1.5)
    both = weigh_questions(TrainSettings(balance="answer_type", loss_weights={"modality=CT": 3.0}), samples)
    assert both.weigh(samples[3]) / both.weigh(samples[4]) == pytest.approx(3.0 * 4 / 2)
    assert sum(map(both.weigh, samples)) == pytest.approx(len(samples))


def test_all_count_the_same_if_nothing_is_said():
    assert weigh_questions(TrainSettings(), make_samples(2, 2)) is None


def test_what_the_manifest_says():
    samples = make_samples(3, 1, organ="Lung")
    weights = weigh_questions(TrainSettings(balance="answer_type", loss_weights={"organ=Lung": 2.0}), samples)
    assert describe_weights(weights, samples) == {
        "balance": "answer_type", "classes": 2,
        "groups": {"organ=Lung": {"questions": 4, "weight": 1.0, "factor": 2.0}},
        "most_frequent": {"closed": {"questions": 3, "weight": 0.6667}, "open": {"questions": 1, "weight": 2.0}}}


def test_one_class_cannot_be_balanced():
    with pytest.raises(DataError, match="is 'answer_type', but all 3 training questions are of one class: 'closed'"):
        weigh_questions(TrainSettings(balance="answer_type"), make_samples(3, 0))


def test_a_group_without_questions_is_an_error_that_names_the_others():
    samples = [*make_samples(2, 0, modality="CT"), *make_samples(1, 0, modality="MR")]
    with pytest.raises(DataError, match="names 'modality=ct', but no training question") as seen:
        weigh_questions(TrainSettings(loss_weights={"modality=ct": 2.0}), samples)
    assert seen.value.hint == "The most frequent ones of modality here: 'CT', 'MR'."


@pytest.mark.parametrize(("closed", "others", "missing"), [(4, 0, "open"), (0, 4, "closed")])
def test_a_share_needs_both_kinds(closed, others, missing):
    check_share(TrainSettings(), make_samples(closed, others))
    with pytest.raises(DataError, match=f"closed_share is 0.5, but none of the 4 training questions is {missing}"):
        check_share(TrainSettings(closed_share=0.5), make_samples(closed, others))

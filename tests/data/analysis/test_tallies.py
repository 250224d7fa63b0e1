"""Counts by hand; laws of the summaries for any numbers."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvqa_cli.data.analysis.leakage import normalize
from medvqa_cli.data.analysis.tallies import SplitTally, count_words, describe_answers, describe_lengths
from tests.data.builders import make_sample


def count(samples):
    tally = SplitTally()
    for sample in samples:
        tally.add(sample, normalize(sample.answer))
    counts = tally.describe()
    assert json.loads(json.dumps(counts)) == counts
    return counts


def test_a_split_is_counted():
    counts = count([
        make_sample(1, "/a.png", question="Is it a b c?", modality="CT", organ="Lung"),
        make_sample(2, "/a.png", answer="Yes.", modality="CT"),
        make_sample(3, "/b.png", answer="left upper lung", answer_type="open", question_type="Position", language="zh"),
        make_sample(4, answer=" ", images=("/b.png", "/c.png")),
        make_sample(5, answer="NO", question="这是什么 MRI?"),
    ])
    assert (counts["questions"], counts["images"], counts["without_image"], counts["empty_answers"]) == (5, 3, 1, 1)
    assert counts["answer_types"] == {"closed": 4, "open": 1}
    assert counts["question_types"] == {"": 4, "Position": 1}
    assert counts["modalities"] == {"": 3, "CT": 2}
    assert counts["organs"] == {"": 4, "Lung": 1}
    assert counts["languages"] == {"en": 4, "zh": 1}
    assert counts["question_words"] == {"mean": 3.2, "median": 2, "max": 5, "histogram": {"2": 3, "5": 2}}
    assert counts["answer_words"] == {"mean": 1.2, "median": 1, "max": 3, "histogram": {"0": 1, "1": 3, "3": 1}}
    assert counts["questions_per_image"] == {"mean": 1.33, "median": 1, "max": 2, "histogram": {"1": 2, "2": 1}}
    assert counts["yes_no"] == {"yes": 2, "no": 1, "positive_share": 2 / 3}
    assert counts["closed"] == {"distinct_answers": 3, "frequent_answers": {"yes": 2, "": 1, "no": 1},
                                "majority_share": 0.5, "effective_answers": 2.83}
    assert counts["open"]["frequent_answers"] == {"left upper lung": 1}


def test_an_empty_split_is_counted():
    counts = count([])
    nothing = {"mean": 0.0, "median": 0, "max": 0, "histogram": {}}
    assert (counts["questions"], counts["question_words"], counts["questions_per_image"]) == (0, nothing, nothing)
    assert counts["yes_no"] == {"yes": 0, "no": 0, "positive_share": None}
    assert counts["closed"] == {"distinct_answers": 0, "frequent_answers": {}, "majority_share": None,
                                "effective_answers": None}


def test_the_place_of_the_right_option_is_counted():
    samples = [make_sample(1, options=("yes", "no")), make_sample(2, options=("no", "yes")),
               make_sample(3, options=("a", "yes")), make_sample(4, options=("a", "b")), make_sample(5)]
    assert count(samples)["option_places"] == {"1": 1, "2": 2}


def test_long_answers_stay_apart_and_are_kept_short():
    start = "a report that goes on and on " * 10
    frequent = count([make_sample(n, answer=start + end, answer_type="open") for n, end in enumerate("xxy")])["open"]
    assert frequent["distinct_answers"] == 2
    assert list(frequent["frequent_answers"].values()) == [2, 1]
    assert max(map(len, frequent["frequent_answers"])) < 120


@pytest.mark.parametrize(("text", "words"), [
    ("", 0), ("  ", 0), ("Is it normal?", 3), ("a - b", 3), ("T2-weighted image", 2), ("é - b", 3),
    ("肝", 1), ("这是什么?", 4), ("这是 MRI 图像吗\uff1f", 6), ("肺、心", 2), ("3 个", 2)])
def test_words_are_counted_in_both_scripts(text, words):
    assert count_words(text) == words


@given(st.lists(st.integers(0, 300), min_size=1))
def test_lengths_are_those_of_the_list(numbers):
    found = describe_lengths(Counter(numbers))
    assert found["mean"] == pytest.approx(np.mean(numbers), abs=0.006)
    assert found["median"] == np.quantile(numbers, 0.5, method="inverted_cdf")
    assert found["max"] == max(numbers)
    assert sum(found["histogram"].values()) == len(numbers)
    assert list(map(int, found["histogram"])) == sorted(set(numbers))


@given(st.integers(1, 40), st.integers(1, 9))
def test_equally_frequent_answers_count_fully(answers, times):
    found = describe_answers(Counter({str(n): times for n in range(answers)}))
    assert found["effective_answers"] == answers
    assert found["majority_share"] == pytest.approx(1 / answers)

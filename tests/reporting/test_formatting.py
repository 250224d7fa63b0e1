from __future__ import annotations

import pytest

from medvqa_cli.reporting.formatting import (
    format_count,
    format_entry,
    format_interval,
    format_probability,
    format_seconds,
    format_share,
    format_value,
    name_key,
)


@pytest.mark.parametrize(("arguments", "text"), [
    ((0.9123,), "0.912"),
    ((0.9123, 0.88, 0.94), "0.912 [0.880, 0.940]"),
    ((1.0, 1.0, 1.0), "1.000 [1.000, 1.000]"),
    ((0.5, None, 0.9), "0.500"),
    ((None, 0.1, 0.2), "-"),
    ((float("nan"),), "-"),
    ((float("inf"),), "-"),
])
def test_value_with_interval(arguments, text):
    assert format_value(*arguments) == text


def test_digits_are_chosen():
    assert format_value(0.126, 0.1, 0.2, digits=2) == "0.13 [0.10, 0.20]"


def test_a_difference_has_its_sign():
    assert format_value(0.0125, -0.003, 0.0279, signed=True) == "+0.013 [-0.003, +0.028]"
    assert format_value(-0.5, digits=2, signed=True) == "-0.50"


@pytest.mark.parametrize(("arguments", "text"), [
    ((0.936,), "94 %"), ((0.936, 0.91, 0.98), "94 % [91, 98]"), ((1.25,), "125 %"), ((None,), "-")])
def test_share(arguments, text):
    assert format_share(*arguments) == text


def test_an_entry_of_the_metrics_may_have_no_interval():
    assert format_entry({"value": 0.5, "low": 0.25, "high": 0.75}) == "0.500 [0.250, 0.750]"
    assert format_entry({"value": 0.5}) == "0.500"
    assert format_entry({"value": 0.5, "low": 0.25, "high": 0.75}, as_share=True) == "50 % [25, 75]"


@pytest.mark.parametrize(("value", "text"), [(1.0, "1.0000"), (0.00012, "0.0001"), (0.00009, "<0.0001"),
                                             (0.0, "<0.0001")])
def test_probability(value, text):
    assert format_probability(value) == text


def test_interval_alone():
    assert format_interval(0.88, 0.94) == "0.880 to 0.940"
    assert format_interval(None, None) == "no interval"


@pytest.mark.parametrize(("count", "text"), [(0, "0"), (1234567, "1,234,567"), (None, "-")])
def test_count(count, text):
    assert format_count(count) == text


@pytest.mark.parametrize(("seconds", "text"), [
    (0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (3599.7, "1 h 00 min"),
    (7800, "2 h 10 min")])
def test_seconds(seconds, text):
    assert format_seconds(seconds) == text


def test_key_as_words():
    assert name_key("train_questions") == "Train questions"
    assert name_key("model.image_processor") == "Model: image processor"


def test_a_share_that_is_not_quite_nothing_or_all_does_not_read_as_such():
    assert [format_share(value) for value in (0.0, 0.004, 0.006, 0.994, 0.996, 1.0)] == [
        "0 %", "<1 %", "1 %", "99 %", ">99 %", "100 %"]
    assert format_share(0.004, 0.0, 0.02) == "0 % [0, 2]"

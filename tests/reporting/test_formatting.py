from __future__ import annotations

import pytest

from medvqa_cli.reporting.formatting import format_count, format_interval, format_seconds, format_value, name_key


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

"""How far long work is."""

from __future__ import annotations

import pytest

from medvqa_cli.cli.progress import LineProgress, format_rate, format_seconds, measure_speed
from medvqa_cli.progress import track


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines():
    return []


@pytest.fixture
def progress(clock, lines):
    return LineProgress(lines.append, lines.append, clock)


def test_a_line_every_five_seconds_with_rate_and_time_left(progress, clock, lines):
    progress.start("Training", 1000, "step")
    for _ in range(30):
        clock.now += 1
        progress.advance(10, note="loss 0.50")
    assert len(lines) == 6
    assert lines[0] == "Training: 50/1,000 (5%) steps, loss 0.50, 10 step/s, 1 min 35 s left"
    progress.finish()
    assert lines[-1] == "Training: 300/1,000 (30%) steps, loss 0.50 in 30 s"
    progress.finish()
    assert len(lines) == 7, "a stage ends once"


def test_without_a_total_there_is_no_share_and_no_time_left(progress, clock, lines):
    progress.start("Reading", None, "row")
    clock.now += 6
    progress.advance(12)
    assert lines == ["Reading: 12 rows, 2 row/s"]


def test_starting_a_stage_ends_the_one_before(progress, clock, lines):
    progress.start("A", 1)
    progress.advance()
    progress.start("B", 2)
    progress.finish()
    assert lines == ["A: 1/1 (100%) step in 0.0 s", "B: 0/2 (0%) steps in 0.0 s"]


def test_an_empty_stage_divides_by_nothing(progress, clock, lines):
    progress.start("A", 0)
    clock.now += 9
    progress.advance(0)
    assert lines == ["A: 0 steps, 0 step/s"]
    progress.finish()
    assert len(lines) == 1, "there was nothing to do: nothing is said"


def test_track_counts_items(progress, lines):
    assert list(track("abc", progress, "Letters", 3, "letter")) == ["a", "b", "c"]
    assert lines == ["Letters: 3/3 (100%) letters in 0.0 s"]


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (4.25, "4.2 s"), (59.4, "59 s"), (60, "1 min 0 s"),
                                               (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_durations(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(("rate", "text"), [(12.34, "12.3 job/s"), (0.1, "0.1 job/s"), (1 / 80, "1 min 20 s a job"),
                                            (0.0, "0 job/s")])
def test_slow_work_is_told_by_its_duration(rate, text):
    assert format_rate(rate, "job") == text


@pytest.mark.parametrize(("total", "rate"), [(12, 2 / 80), (100, 1 / 0.5)])
def test_few_long_steps_that_end_together_are_timed_as_a_whole(total, rate):
    from rich.progress import Progress

    now = [0.0]
    bar = Progress(get_time=lambda: now[0])
    bar.add_task("Jobs", total=total)
    (task,) = bar.tasks
    assert measure_speed(task) is None
    for seconds in (79.5, 80.0):
        now[0] = seconds
        bar.advance(task.id)
    assert measure_speed(task) == pytest.approx(rate)

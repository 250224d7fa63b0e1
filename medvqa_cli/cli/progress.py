"""How far long work is: a Rich bar with rate and time left on a terminal, a plain line now and then in a pipe."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from medvqa_cli.cli.wording import name_things

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress as RichProgress
    from rich.progress import ProgressColumn, Task, TaskID

    from medvqa_cli.cli.terminal import Terminal
    from medvqa_cli.progress import Progress

SECONDS_BETWEEN_LINES = 5.0
FEW = 50
"""Stages of fewer steps are timed as a whole."""


def make_progress(terminal: Terminal) -> Progress:
    """Return the display that suits a terminal."""
    if terminal.is_interactive and not terminal.quiet:
        return BarProgress(terminal)
    return LineProgress(terminal.say, terminal.warn)


class LineProgress:
    """Says every few seconds how far a stage is, and when it ends.

    Args:
        say: Shows one line.
        warn: Shows one line that should not be missed.
        clock: Returns seconds.
    """

    def __init__(self, say: Callable[[str], None], warn: Callable[[str], None],
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.say = say
        self.warn = warn
        self._clock = clock
        self._stage = self._unit = self._note = ""
        self._done = 0
        self._total: int | None = None
        self._began = self._spoke = 0.0

    def start(self, stage: str, total: int | None, unit: str = "step") -> None:
        """Begin a stage; ends the one before it."""
        self.finish()
        self._stage, self._total, self._unit, self._done, self._note = stage, total, unit, 0, ""
        self._began = self._spoke = self._clock()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count finished steps."""
        self._done += steps
        self._note = note or self._note
        if self._stage and self._clock() - self._spoke >= SECONDS_BETWEEN_LINES:
            self._spoke = self._clock()
            self.say(self._describe())

    def finish(self) -> None:
        """End the current stage and say how long it took."""
        if self._stage and self._total != 0:
            self.say(f"{self._describe_done()} in {format_seconds(self._clock() - self._began)}")
        self._stage = ""

    def _describe(self) -> str:
        seconds = self._clock() - self._began
        rate = self._done / seconds
        left = f", {format_seconds((self._total - self._done) / rate)} left" if self._total and rate else ""
        return f"{self._describe_done()}, {format_rate(rate, self._unit)}{left}"

    def _describe_done(self) -> str:
        share = f"/{self._total:,} ({self._done / self._total:.0%})" if self._total else ""
        note = f", {self._note}" if self._note else ""
        things = name_things(self._total or self._done, self._unit)
        return f"{self._stage}: {self._done:,}{share} {things}{note}"


class BarProgress:
    """A bar per stage on stderr; a finished one stays on the screen. The log file gets lines."""

    def __init__(self, terminal: Terminal) -> None:
        self.say = terminal.say
        self.warn = terminal.warn
        self._terminal = terminal
        self._log = LineProgress(terminal.log, terminal.log)
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def start(self, stage: str, total: int | None, unit: str = "step") -> None:
        """Begin a stage; ends the one before it."""
        self.finish()
        self._log.start(stage, total, unit)
        self._bar = _make_bar(self._terminal, unit)
        self._task = self._bar.add_task(stage, total=total, note="")
        self._bar.start()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count finished steps."""
        self._log.advance(steps, note)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=steps)
            if note:
                self._bar.update(self._task, note=note)

    def finish(self) -> None:
        """End the current stage."""
        self._log.finish()
        if self._bar is not None:
            for task in self._bar.tasks:
                if task.total is None:
                    self._bar.update(task.id, total=task.completed)
            self._bar.stop()
        self._bar = None


def _make_bar(terminal: Terminal, unit: str) -> RichProgress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    return Progress(SpinnerColumn(finished_text="✓"), TextColumn("{task.description}", markup=False),
                    BarColumn(bar_width=24), MofNCompleteColumn(), _make_rate_column(unit), _make_time_column(),
                    TextColumn("{task.fields[note]}", markup=False), console=terminal.console(stderr=True),
                    speed_estimate_period=math.inf)  # Rich forgets steps after 30 s: slow ones would have no time left


def _make_rate_column(unit: str) -> ProgressColumn:
    from rich.progress import ProgressColumn
    from rich.text import Text

    class RateColumn(ProgressColumn):
        """Steps per second."""

        def render(self, task: Task) -> Text:
            """Return the speed of a task."""
            speed = measure_speed(task)
            return Text(format_rate(speed, unit) if speed else f"- {unit}/s", style="progress.data.speed")

    return RateColumn()


def _make_time_column() -> ProgressColumn:
    from rich.progress import ProgressColumn
    from rich.text import Text

    class TimeColumn(ProgressColumn):
        """Time left; of what is finished, time taken."""

        def render(self, task: Task) -> Text:
            """Return minutes and seconds, "--:--" while they are unknown."""
            speed = measure_speed(task)
            if task.finished:
                return Text(_format_clock(task.finished_time), style="progress.elapsed")
            left = task.remaining / speed if task.remaining and speed else None
            return Text(_format_clock(left), style="progress.remaining")

    return TimeColumn()


def measure_speed(task: Task) -> float | None:
    """Return a stage's steps a second, None while unknown: those of late, but of few and long ones those of all.

    The steps that Rich measures by begin with the end of the first: where several work side by side they end together,
    and what is left would seem to take no time.
    """
    if task.total and task.total < FEW:
        return task.completed / task.elapsed if task.elapsed else None
    return task.finished_speed or task.speed


def _format_clock(seconds: float | None) -> str:
    if seconds is None:
        return "--:--"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes:02d}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def format_rate(rate: float, unit: str) -> str:
    """Return a speed in steps a second as "12 step/s", a slow one as "1 min 20 s a job"."""
    return f"{format_seconds(1 / rate)} a {unit}" if 0 < rate < 0.1 else f"{rate:.3g} {unit}/s"


def format_seconds(seconds: float) -> str:
    """Return a duration as "4.2 s", "3 min 20 s" or "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"

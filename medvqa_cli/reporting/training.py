"""The report's section on how the model was trained, from the run's events."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.blocks import Facts, Note, Plots, Section
from medvqa_cli.reporting.figures import draw_loss
from medvqa_cli.reporting.formatting import format_count, format_seconds, format_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from medvqa_cli.reporting.blocks import Block

Curve = list[tuple[float, float]]


def read_curve(events: Iterable[Mapping[str, Any]], event: str, key: str) -> Curve:
    """Return (step, value) of one kind of event, by step; where a resumed run repeats a step the later event counts.

    Values that are not finite are left out.
    """
    values = {row["step"]: row[key] for row in events if row.get("event") == event and "step" in row and key in row}
    return [(step, value) for step, value in sorted(values.items()) if value is not None and math.isfinite(value)]


def build_training(events: Sequence[Mapping[str, Any]]) -> Section:
    """Return the section: loss curves and the facts of the training."""
    training, validation = read_curve(events, "log", "loss"), read_curve(events, "eval", "eval_loss")
    blocks: list[Block] = []
    broken = sum(1 for row in events if isinstance(row.get("loss"), float) and not math.isfinite(row["loss"]))
    if broken:
        blocks.append(Note(f"The training loss was not a number at {broken:,} logged steps; the curve leaves them out.",
                           "warning"))
    if training or validation:
        figure = draw_loss(training, validation, "Loss while training",
                           "Mean negative log-likelihood of an answer token; training loss is the mean since the "
                           "previous mark, validation loss is over held-out questions.")
        blocks += [Plots([figure]), Facts("In numbers", list(_list_facts(events, training, validation)))]
    else:
        blocks.append(Note("This run holds no training events: its model was not trained here."))
    return Section("training", "Training", "", blocks)


def _list_facts(events: Sequence[Mapping[str, Any]], training: Curve, validation: Curve) -> Iterable[tuple[str, str]]:
    last = [row for row in events if row.get("event") == "log"][-1:]
    yield "Optimiser steps", format_count(max(step for step, _ in training + validation))
    for row in last:
        if row.get("epoch") is not None:
            yield "Epochs", format_value(row["epoch"], digits=2)
    if training:
        yield "Training loss", f"{format_value(training[0][1])} at first, {format_value(training[-1][1])} at the end"
    if validation:
        step, lowest = min(validation, key=lambda point: (point[1], point[0]))
        yield "Validation loss", (f"{format_value(validation[-1][1])} at the end; lowest {format_value(lowest)} at "
                                  f"step {step:,}")
    yield from _list_time(events)


def _list_time(events: Sequence[Mapping[str, Any]]) -> Iterable[tuple[str, str]]:
    """The clock of the events starts anew when a run is resumed: add up its stretches."""
    stretch, total = 0.0, 0.0
    for row in events:
        seconds = row.get("seconds")
        if not isinstance(seconds, int | float):
            continue
        if seconds < stretch:
            total += stretch
        stretch = seconds
    if total + stretch:
        yield "Time", format_seconds(total + stretch)

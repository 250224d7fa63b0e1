"""Figures of confidence: where right and wrong answers lie, what abstaining buys, what recalibration changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.figures import COLOURS, WIDTH, begin_figure, draw_diagonal, finish_figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medvqa_cli.reporting.charts import About
    from medvqa_cli.reporting.estimates import Bin
    from medvqa_cli.reporting.figures import Figure

NUM_BARS = 20
SERIES = (("blue", "o", "-"), ("orange", "D", (0, (5, 2))))


def draw_outcomes(about: About, confidences: Sequence[tuple[float, bool]]) -> Figure:
    """Draw how many answers lie at each confidence (0-1): the right ones upwards, the wrong ones downwards.

    Args:
        about: The figure's name, title and caption.
        confidences: Confidence and whether the answer is right, one pair a question.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    counts = {is_right: [0] * NUM_BARS for is_right in (True, False)}
    for confidence, is_right in confidences:
        counts[is_right][min(int(confidence * NUM_BARS), NUM_BARS - 1)] += 1
    places = [(number + 0.5) / NUM_BARS for number in range(NUM_BARS)]
    with begin_figure() as canvas_class:
        canvas = canvas_class(figsize=(WIDTH, 3.2))
        axes = canvas.subplots()
        for is_right, label, face, edge, hatch in ((True, "right", "pale", "blue", ""),
                                                   (False, "wrong", "grid", "orange", "////")):
            heights = [count if is_right else -count for count in counts[is_right]]
            axes.bar(places, heights, 0.92 / NUM_BARS, color=COLOURS[face], edgecolor=COLOURS[edge], linewidth=0.6,
                     hatch=hatch, label=f"{label} ({sum(counts[is_right]):,})")
        axes.axhline(0, color=COLOURS["ink"], linewidth=0.8)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):,.0f}"))
        axes.set(xlim=(0, 1), xlabel="confidence", ylabel="answers")
        axes.margins(y=0.08)
        canvas.legend(loc="outside upper right", ncols=2)
        return finish_figure(canvas, *about)


def draw_risk_coverage(about: About, points: Sequence[tuple[float, float]]) -> Figure:
    """Draw the share of wrong answers among those given (0-1) against the share of questions answered (0-1).

    Args:
        about: The figure's name, title and caption.
        points: (coverage, risk) by growing coverage; the last one answers everything.
    """
    with begin_figure() as canvas_class:
        canvas = canvas_class(figsize=(WIDTH, 3.2))
        axes = canvas.subplots()
        coverages, risks = zip(*points, strict=True)
        axes.axhline(risks[-1], color=COLOURS["muted"], linestyle=(0, (4, 3)), linewidth=1, label="everything answered")
        axes.plot(coverages, risks, color=COLOURS["blue"], linewidth=1.5, marker="o" if len(points) < 30 else "",
                  markersize=3.5, label="the surest answered first")
        axes.set(xlim=(0, 1.02), ylim=(0, max(0.05, 1.15 * max(risks))), xlabel="coverage: share answered",
                 ylabel="risk: share of these wrong")
        canvas.legend(loc="outside upper right", ncols=2)
        return finish_figure(canvas, *about)


def draw_change(about: About, series: Mapping[str, Sequence[Bin]]) -> Figure:
    """Draw accuracy against confidence, one line of bins each for "before" and "after".

    Args:
        about: The figure's name, title and caption.
        series: Name -> bins; empty bins are left out.
    """
    with begin_figure() as canvas_class:
        canvas = canvas_class(figsize=(WIDTH, 3.8))
        axes = canvas.subplots()
        draw_diagonal(axes, "perfect calibration")
        for (name, bins), (colour, mark, line) in zip(series.items(), SERIES, strict=False):
            _draw_bins(axes, bins, label=name, color=COLOURS[colour], marker=mark, linestyle=line)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.03), xlabel="confidence", ylabel="share that is right")
        axes.legend(loc="upper left")
        return finish_figure(canvas, *about)


def _draw_bins(axes: Any, bins: Sequence[Bin], **look: Any) -> None:
    filled = [item for item in bins if item.count and item.confidence is not None and item.accuracy is not None]
    total = sum(item.count for item in filled) or 1
    axes.plot([item.confidence for item in filled], [item.accuracy for item in filled], linewidth=1.2, markersize=0,
              color=look["color"], linestyle=look["linestyle"])
    axes.scatter([item.confidence for item in filled], [item.accuracy for item in filled], zorder=3, clip_on=False,
                 s=[14 + 120 * item.count / total for item in filled], color=look["color"], marker=look["marker"],
                 label=look["label"])

"""Figures of a data set: shares side by side, distributions, what two splits share.

Splits are told apart by the shape of their marks or lines as well as by colour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from medvqa_cli.reporting.figures import COLOURS, WIDTH, Figure, begin_figure, finish_figure, shorten_label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SERIES = (("blue", "o", "-"), ("orange", "D", (0, (5, 2))), ("green", "s", (0, (1.5, 1.5))),
          ("muted", "^", (0, (6, 2, 1, 2))))
"""Colour, mark and line of the first, second... series; more than four start again."""
NUM_BINS = 40


class About(NamedTuple):
    """A figure's file name, what it shows, and how to read it."""

    name: str
    title: str
    caption: str


def draw_shares(about: About, rows: Sequence[str], series: Mapping[str, Sequence[float | None]], *,
                label: str = "share of the questions", limit: float | None = None, inline_only: bool = True) -> Figure:
    """Draw a line of marks for each row: the share (0-1) of each series, whose length is that of `rows`.

    Args:
        about: The figure's name, title and caption.
        rows: Names, from the top.
        series: Name -> shares; None draws no mark.
        label: What the shares are.
        limit: A share to be marked by a line.
        inline_only: For the page alone, without files.
    """
    from matplotlib.ticker import PercentFormatter

    with begin_figure() as canvas_class:
        canvas = canvas_class(figsize=(WIDTH, 1.05 + 0.27 * len(rows)))
        axes = canvas.subplots()
        places = list(range(len(rows)))[::-1]
        shown = [share for shares in series.values() for share in shares if share is not None]
        largest = max([*shown, limit or 0.0]) or 1.0
        for place, values in zip(places, zip(*series.values(), strict=True), strict=True):
            known = [value for value in values if value is not None]
            if len(known) > 1:
                axes.hlines(place, min(known), max(known), color=COLOURS["grid"], linewidth=2.2)
        for number, (split, shares) in enumerate(series.items()):
            colour, mark, _ = SERIES[number % len(SERIES)]
            points = [(share, place) for share, place in zip(shares, places, strict=True) if share is not None]
            if points:
                axes.plot(*zip(*points, strict=True), linestyle="none", marker=mark, markersize=6, clip_on=False,
                          color=COLOURS[colour], markeredgewidth=0, alpha=0.85, label=split, zorder=3)
        if limit is not None:
            axes.axvline(limit, color=COLOURS["ink"], linewidth=1, linestyle=(0, (2, 2)))
        axes.set_yticks(places, [shorten_label(row, 30) for row in rows])
        axes.set(xlim=(0, min(1.0, 1.12 * largest)), ylim=(-0.6, len(rows) - 0.4), xlabel=label)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.tick_params(axis="y", length=0)
        _add_legend(canvas, axes, series)
        return finish_figure(canvas, *about, inline_only=inline_only)


def draw_histogram(about: About, series: Mapping[str, Mapping[int, int]], label: str) -> Figure:
    """Draw how often each number occurs in each series, as shares; the longest tail, above 99.5 %, is cut off.

    Args:
        about: The figure's name, title and caption.
        series: Name -> number -> how often.
        label: What the numbers are.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    end = max((_find_quantile(counts, 0.995) for counts in series.values()), default=0) + 1
    width = max(1, -(-end // NUM_BINS))
    edges = [number - 0.5 for number in range(0, end + width, width)]
    with begin_figure() as canvas_class:
        canvas = canvas_class(figsize=(WIDTH, 2.9))
        axes = canvas.subplots()
        for number, (split, counts) in enumerate(series.items()):
            colour, _, line = SERIES[number % len(SERIES)]
            total = sum(counts.values()) or 1
            shares = [sum(counts.get(place, 0) for place in range(start, start + width)) / total
                      for start in range(0, end + width - 1, width)][:len(edges) - 1]
            axes.stairs(shares, edges, color=COLOURS[colour], linewidth=1.5, linestyle=line, label=split,
                        fill=len(series) == 1, alpha=1.0 if len(series) > 1 else 0.55)
        axes.set(xlim=(-0.5, edges[-1]), ylim=(0, None), xlabel=label, ylabel="share")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _add_legend(canvas, axes, series)
        return finish_figure(canvas, *about, inline_only=True)


def _find_quantile(counts: Mapping[int, int], share: float) -> int:
    total, seen = sum(counts.values()), 0
    for number in sorted(counts):
        seen += counts[number]
        if seen >= share * total:
            return number
    return 0


def draw_matrix(about: About, rows: Sequence[str], columns: Sequence[str],
                cells: Mapping[tuple[str, str], tuple[float, str]], *, colour: str = "orange",
                inline_only: bool = True) -> Figure:
    """Draw a table of fields, the darker the larger their share (0-1), each with its text.

    Args:
        about: The figure's name, title and caption.
        rows: Names, from the top.
        columns: Names, from the left.
        cells: Row and column -> share and text; others stay empty.
        colour: Of `COLOURS`.
        inline_only: For the page alone, without files.
    """
    with begin_figure() as canvas_class:
        canvas = canvas_class(figsize=(WIDTH, 0.8 + 0.72 * len(rows)))
        axes = canvas.subplots()
        for (row, column), (share, text) in cells.items():
            x, y = columns.index(column), rows.index(row)
            shade, strength = (colour, 0.1 + 0.5 * share) if share else ("grid", 0.35)
            axes.fill([x - 0.47, x + 0.47, x + 0.47, x - 0.47], [y - 0.45, y - 0.45, y + 0.45, y + 0.45],
                      color=COLOURS[shade], alpha=strength, linewidth=0)
            axes.text(x, y, text, ha="center", va="center", linespacing=1.35)
        axes.set_xticks(range(len(columns)), [shorten_label(column, 22) for column in columns])
        axes.set_yticks(range(len(rows)), [shorten_label(row, 22) for row in rows])
        axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
        axes.grid(visible=False)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        return finish_figure(canvas, *about, inline_only=inline_only)


def draw_bars(about: About, bars: Mapping[str, int], label: str, unit: str) -> Figure:
    """Draw one bar a name, with its number above it; `label` says what the names are, `unit` what is counted."""
    with begin_figure() as canvas_class:
        canvas = canvas_class(figsize=(WIDTH, 2.9))
        axes = canvas.subplots()
        places = list(range(len(bars)))
        drawn = axes.bar(places, list(bars.values()), 0.8, color=COLOURS["pale"], edgecolor=COLOURS["blue"],
                         linewidth=0.6)
        axes.bar_label(drawn, [f"{number:,}" if number else "" for number in bars.values()], fontsize=7.5, padding=1)
        axes.set_xticks(places, list(bars))
        axes.margins(y=0.12)
        axes.set(xlabel=label, ylabel=unit)
        axes.grid(visible=False, axis="x")
        axes.locator_params(axis="y", integer=True)
        return finish_figure(canvas, *about, inline_only=True)


class Difference(NamedTuple):
    """A difference of two systems and its interval, as shares (-1 to 1); without bounds where there are none."""

    name: str
    value: float
    low: float | None
    high: float | None


def draw_differences(about: About, rows: Sequence[Difference]) -> Figure:
    """Draw one mark a difference with its interval, from the top, beside a line at zero."""
    with begin_figure() as canvas_class:
        canvas = canvas_class(figsize=(WIDTH, 0.9 + 0.27 * len(rows)))
        axes = canvas.subplots()
        places = list(range(len(rows)))[::-1]
        axes.axvline(0, color=COLOURS["ink"], linewidth=1, linestyle=(0, (2, 2)))
        for place, row in zip(places, rows, strict=True):
            if row.low is not None and row.high is not None:
                axes.hlines(place, row.low, row.high, color=COLOURS["blue"], linewidth=1.4)
        axes.plot([row.value for row in rows], places, linestyle="none", marker="o", markersize=5,
                  color=COLOURS["blue"], markeredgewidth=0)
        axes.set_yticks(places, [shorten_label(row.name, 38) for row in rows])
        axes.set(ylim=(-0.6, len(rows) - 0.4), xlabel="difference (second minus first)")
        axes.tick_params(axis="y", length=0)
        return finish_figure(canvas, *about)


def _add_legend(canvas: Any, axes: Any, series: Mapping[str, Any]) -> None:
    if len(series) > 1 and axes.get_legend_handles_labels()[1]:
        canvas.legend(loc="outside upper right", ncols=min(4, len(series)))

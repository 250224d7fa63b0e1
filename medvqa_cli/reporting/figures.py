"""Figures as SVG and PNG: the same inputs give the same bytes.

Colours are those of Okabe and Ito (2008), told apart by readers with any colour vision; no figure relies on colour
alone. Inside the page the colours are CSS variables, so that a figure follows the light or dark scheme.
"""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.glyphs import list_fonts, mark_unshown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from medvqa_cli.reporting.estimates import Bin, Slice

COLOURS = {"ink": "#1c2126", "muted": "#5c6670", "grid": "#d9dde1", "blue": "#0072b2", "orange": "#d55e00",
           "green": "#007a5a", "pale": "#9cc4de"}
WIDTH = 5.2


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: its file name, what it shows in a sentence, and its three forms.

    `inline` goes into a page (text as text, colours as CSS variables); `svg` and `png` are files of their own, empty
    where a figure has none. `unshown` maps marks in these files to the text they stand for, where no font has it.
    """

    name: str
    title: str
    caption: str
    inline: str
    svg: str
    png: bytes
    unshown: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def begin_figure() -> Iterator[Any]:
    """Yield matplotlib.pyplot's figure factory under our look, without touching anyone's global settings."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    muted, ink = COLOURS["muted"], COLOURS["ink"]
    look = {"svg.hashsalt": "medvqa", "font.family": list(list_fonts()), "font.size": 9,
            "axes.edgecolor": muted, "axes.labelcolor": ink, "text.color": ink, "xtick.color": muted,
            "ytick.color": muted, "xtick.labelcolor": ink, "ytick.labelcolor": ink, "axes.linewidth": 0.8,
            "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": COLOURS["grid"],
            "grid.linewidth": 0.7, "axes.axisbelow": True, "legend.frameon": False, "legend.fontsize": 8.5,
            "figure.constrained_layout.use": True, "text.parse_math": False}
    with mpl.rc_context(look):
        yield Canvas


def finish_figure(canvas: Any, name: str, title: str, caption: str, *, inline_only: bool = False) -> Figure:
    """Return a drawn canvas as a figure in its three forms, or in the page's alone: that takes a third of the time."""
    import matplotlib as mpl

    def save(kind: str, text: str, **options: Any) -> bytes:
        with mpl.rc_context({"svg.fonttype": text}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # the page's font has it, and the files have a mark for it
            stream = io.BytesIO()
            canvas.savefig(stream, format=kind, **options)
            return stream.getvalue()

    def describe(marks: Mapping[str, str]) -> str:
        return caption + "".join(f" {mark} is {text}." for mark, text in marks.items())

    undated = {"Date": None, "Title": title}
    inline = embed_svg(save("svg", "none", metadata=undated, transparent=True).decode(), name, f"{title}. {caption}")
    if inline_only:
        return Figure(name, title, caption, inline, "", b"")
    canvas.set_layout_engine("none")  # it is found; finding it anew for each form would cost a third of the time
    marks = mark_unshown(canvas)
    alone = save("svg", "path", metadata={**undated, "Description": describe(marks)}, facecolor="white").decode()
    png = save("png", "path", metadata={"Software": None, "Title": title, "Description": describe(marks)}, dpi=200,
               facecolor="white")
    return Figure(name, title, caption, inline, alone, png, marks)


def embed_svg(svg: str, name: str, description: str) -> str:
    """Return matplotlib's SVG document as an element for a page: described, its ids its own, its colours variables."""
    from markupsafe import escape

    body = svg[svg.index("<svg"):]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', body).replace("url(#", f"url(#{name}-")
    for variable, colour in COLOURS.items():
        body = body.replace(colour, f"var(--{variable})")
    body = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", body, count=1)
    return body.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1).strip()


def draw_reliability(bins: Sequence[Bin], note: str, title: str, caption: str) -> Figure:
    """Draw accuracy against confidence, one mark a bin, above the answers in each bin; `note` stands inside."""
    filled = [item for item in bins if item.count and item.confidence is not None and item.accuracy is not None]
    with begin_figure() as canvas_class:
        canvas = canvas_class(figsize=(WIDTH, 4.7))
        top, bottom = canvas.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
        draw_diagonal(top, "perfect calibration")
        for item in filled:
            top.vlines(item.confidence, item.confidence, item.accuracy, color=COLOURS["orange"], linewidth=3, alpha=0.5)
            if item.low is not None and item.high is not None:
                top.vlines(item.confidence, item.low, item.high, color=COLOURS["ink"], linewidth=0.9)
        total = sum(item.count for item in filled) or 1
        top.scatter([item.confidence for item in filled], [item.accuracy for item in filled], zorder=3, clip_on=False,
                    s=[20 + 160 * item.count / total for item in filled], color=COLOURS["blue"], label="one bin")
        top.set(xlim=(0, 1), ylim=(0, 1.03), ylabel="share that is right")
        top.legend(loc="upper left")
        top.text(0.97, 0.05, note, transform=top.transAxes, ha="right", va="bottom", linespacing=1.5)
        edges = [item.lower for item in bins]
        widths = [item.upper - item.lower for item in bins]
        bars = bottom.bar(edges, [item.count for item in bins], widths, align="edge", color=COLOURS["pale"],
                          edgecolor=COLOURS["blue"], linewidth=0.6)
        bottom.bar_label(bars, [f"{item.count:,}" if item.count else "" for item in bins], fontsize=7.5, padding=1)
        bottom.margins(y=0.28)
        bottom.set(xlabel="confidence", ylabel="answers")
        bottom.locator_params(axis="y", nbins=3, integer=True)
        return finish_figure(canvas, "reliability", title, caption)


def draw_diagonal(axes: Any, label: str) -> None:
    """Draw the line on which both axes, each 0-1, are equal."""
    axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linestyle=(0, (4, 3)), linewidth=1, label=label)


def draw_accuracy(slices: Sequence[Slice], name: str, title: str, caption: str) -> Figure:
    """Draw one bar a slice with its interval, and a mark at its baseline."""
    with begin_figure() as canvas_class:
        canvas = canvas_class(figsize=(WIDTH, 1.25 + 0.36 * len(slices)))
        axes = canvas.subplots()
        places = list(range(len(slices)))[::-1]
        axes.barh(places, [item.score.value or 0.0 for item in slices], height=0.62, color=COLOURS["pale"],
                  edgecolor=COLOURS["blue"], linewidth=0.6)
        for place, item in zip(places, slices, strict=True):
            _draw_interval(axes, place, item)
        known = [(item.baseline, place) for item, place in zip(slices, places, strict=True)
                 if item.baseline is not None]
        if known:
            axes.plot(*zip(*known, strict=True), linestyle="none", marker="D", markersize=5, color=COLOURS["orange"],
                      label="majority baseline")
        axes.set_yticks(places, [f"{shorten_label(item.name)} ({item.score.n:,})" for item in slices])
        axes.set(xlim=(0, 1), ylim=(-0.7, len(slices) - 0.3), xlabel="accuracy")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        if known:
            canvas.legend(loc="outside upper right")
        return finish_figure(canvas, name, title, caption)


def _draw_interval(axes: Any, place: int, item: Slice) -> None:
    low, high = item.score.low, item.score.high
    if low is None or high is None:
        return
    axes.hlines(place, low, high, color=COLOURS["ink"], linewidth=1.1)
    axes.plot([low, high], [place, place], linestyle="none", marker="|", markersize=6, color=COLOURS["ink"])


def shorten_label(text: str, length: int = 24) -> str:
    """Return a name that fits beside an axis, its end cut off if it is longer; a wide (Chinese) character counts 2."""
    if sum(map(_measure_width, text)) <= length:
        return text
    while sum(map(_measure_width, text)) > length - 1:
        text = text[:-1]
    return text + "…"


def _measure_width(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def draw_loss(training: Sequence[tuple[float, float]], validation: Sequence[tuple[float, float]], title: str,
              caption: str) -> Figure:
    """Draw training and validation loss (nats a token) over optimiser steps."""
    with begin_figure() as canvas_class:
        canvas = canvas_class(figsize=(WIDTH, 3.2))
        axes = canvas.subplots()
        if training:
            axes.plot(*zip(*training, strict=True), color=COLOURS["blue"], linewidth=1.4, label="training")
        if validation:
            axes.plot(*zip(*validation, strict=True), color=COLOURS["orange"], linewidth=1.4, linestyle=(0, (5, 2)),
                      marker="o", markersize=4.5, label="validation")
        axes.set(xlabel="optimiser step", ylabel="loss (nats a token)", ylim=(0, None), xlim=(0, None))
        axes.legend(loc="upper right")
        return finish_figure(canvas, "loss", title, caption)


def draw_probabilities(points: Sequence[tuple[float, float]], title: str, caption: str) -> Figure:
    """Draw the model's probability of "yes" against the true one, one mark a question."""
    with begin_figure() as canvas_class:
        canvas = canvas_class(figsize=(WIDTH, 4.2))
        axes = canvas.subplots()
        draw_diagonal(axes, "model = truth")
        axes.plot(*zip(*points, strict=True), linestyle="none", marker="o", markersize=5, markeredgewidth=0,
                  alpha=0.45, color=COLOURS["blue"], label="one question")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="truth: probability of “yes”",
                 ylabel="model: probability of “yes”")
        axes.legend(loc="upper left")
        return finish_figure(canvas, "probabilities", title, caption)

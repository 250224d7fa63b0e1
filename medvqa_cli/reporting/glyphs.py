"""Which characters the fonts of figure files can show: never an empty box in place of one."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MAIN_FONT = "DejaVu Sans"
"""Comes with matplotlib, so that figures look the same everywhere; the others are taken for what it lacks."""
FALLBACKS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN",
             "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Microsoft YaHei", "PingFang SC", "Hiragino Sans GB", "SimHei",
             "Arial Unicode MS", "Droid Sans Fallback")


@cache
def list_fonts() -> tuple[str, ...]:
    """Return the fonts of figures, the first choice first: the main one, and fallbacks this machine has."""
    from matplotlib.font_manager import fontManager

    installed = {entry.name for entry in fontManager.ttflist}
    return (MAIN_FONT, *(name for name in FALLBACKS if name in installed))


@cache
def _list_characters(fonts: tuple[str, ...]) -> frozenset[str]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(chr(code) for name in fonts for code in get_font(findfont(name)).get_charmap())


def mark_unshown(canvas: Any) -> dict[str, str]:
    """Put a mark for each run of characters that no font has into a canvas's texts; return mark -> characters.

    Marks are [1], [2]..., one for each distinct run, in the order in which they are found.
    """
    marks: dict[str, str] = {}
    known = _list_characters(list_fonts())

    def replace(text: str) -> str:
        runs = {match[0] for match in re.finditer(r"\S+", text)
                if any(character not in known for character in match[0])}
        for run in sorted(runs, key=text.index):
            text = text.replace(run, marks.setdefault(run, f"[{len(marks) + 1}]"))
        return text

    for axes in canvas.axes:
        for axis in (axes.yaxis, axes.xaxis):
            _replace_ticks(axis, replace)
    _replace_texts(canvas, replace)
    return {mark: run for run, mark in marks.items()}


def _replace_ticks(axis: Any, replace: Callable[[str], str]) -> None:
    """Named ticks are written anew at each drawing: their names are replaced where they are kept."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    if isinstance(axis.get_major_locator(), FixedLocator) and isinstance(axis.get_major_formatter(), FuncFormatter):
        names = [label.get_text() for label in axis.get_ticklabels()]
        shown = [replace(name) for name in names]
        if shown != names:
            axis.set_ticklabels(shown)


def _replace_texts(canvas: Any, replace: Callable[[str], str]) -> None:
    from matplotlib.text import Text

    for text in canvas.findobj(Text):
        found = text.get_text()
        if (shown := replace(found)) != found:
            text.set_text(shown)

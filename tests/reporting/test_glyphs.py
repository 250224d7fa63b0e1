"""Figures never show an empty box in place of a character."""

from __future__ import annotations

import re

import pytest

from medvqa_cli.reporting import glyphs
from medvqa_cli.reporting.estimates import Estimate, Slice
from medvqa_cli.reporting.figures import begin_figure, draw_accuracy, finish_figure, shorten_label

SLICES = [Slice(name, Estimate(0.5, 0.4, 0.6, 20, 10), {}, {}) for name in ("肺部 CT", "lung", "肺部")]


@pytest.fixture
def without_fallbacks(monkeypatch):
    """Only the font that comes with matplotlib, as on a machine without Chinese fonts."""
    monkeypatch.setattr(glyphs, "FALLBACKS", ())
    glyphs.list_fonts.cache_clear()
    yield
    glyphs.list_fonts.cache_clear()


def test_files_mark_what_no_font_shows_and_the_page_keeps_it(without_fallbacks, recwarn):
    figure = draw_accuracy(SLICES, "accuracy-organ", "Title", "Caption.")
    assert figure.unshown == {"[1]": "肺部"}
    names = [text.strip() for text in re.findall(r"<text[^>]*>([^<]*)</text>", figure.inline)]
    assert {"肺部 CT (20)", "lung (20)", "肺部 (20)"} <= set(names)
    assert "[1] is 肺部." in figure.svg
    assert "[1] is 肺部." in figure.png.decode("utf-8", "ignore") or b"iTXt" in figure.png
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_names_of_latin_letters_have_no_marks(without_fallbacks):
    assert draw_accuracy(SLICES[1:2], "a", "T", "C").unshown == {}


def test_texts_inside_a_figure_are_marked_too(without_fallbacks):
    with begin_figure() as canvas_class:
        canvas = canvas_class(figsize=(2, 2))
        canvas.subplots().text(0, 0, "左 and 右 and 左")
        figure = finish_figure(canvas, "own", "T", "C.")
    assert figure.unshown == {"[1]": "左", "[2]": "右"}


def test_a_font_that_has_the_characters_is_used(monkeypatch):
    from matplotlib.font_manager import FontEntry, findfont, fontManager

    name = "WenQuanYi Zen Hei"
    if name not in {entry.name for entry in fontManager.ttflist}:  # any font file will do to be chosen by its name
        monkeypatch.setattr(fontManager, "ttflist", [*fontManager.ttflist, FontEntry(fname=findfont("DejaVu Serif"),
                                                                               name=name)])
    glyphs.list_fonts.cache_clear()
    assert glyphs.list_fonts()[0] == "DejaVu Sans"
    assert name in glyphs.list_fonts()
    glyphs.list_fonts.cache_clear()


def test_wide_characters_count_twice():
    assert shorten_label("肺" * 12) == "肺" * 12
    assert shorten_label("肺" * 13) == "肺" * 11 + "…"
    assert shorten_label("a" * 25) == "a" * 23 + "…"

"""Figures: what stands in them, twice the same, and harmless in a page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from medvqa_cli.reporting.estimates import Bin, Estimate, Slice
from medvqa_cli.reporting.figures import COLOURS, draw_accuracy, draw_loss, draw_probabilities, draw_reliability

BINS = [Bin(0.0, 0.5, 0, None, None), Bin(0.5, 0.75, 10, 0.5, 0.7), Bin(0.75, 1.0, 1234, 0.9, 0.95)]
SLICES = [Slice("organ", Estimate(0.5, 0.4, 0.6, 20, 10), {"majority_per_question_type": 0.3, "majority": 0.9}, {}),
          Slice("a very long name of a question type, indeed", Estimate(0.8, None, None, 1500, 1), {}, {})]


def words(figure) -> list[str]:
    return [text.strip() for text in re.findall(r"<text[^>]*>([^<]*)</text>", figure.inline)]


def test_reliability_shows_counts_and_note():
    figure = draw_reliability(BINS, "ECE 0.050\n0.010 if perfectly calibrated", "Title", "Caption.")
    assert {"10", "1,234", "ECE 0.050", "0.010 if perfectly calibrated", "confidence", "share that is right"} <= set(
        words(figure))


def test_accuracy_shows_names_numbers_and_baseline():
    figure = draw_accuracy(SLICES, "accuracy-x", "Title", "Caption.")
    assert {"organ (20)", "a very long name of a q… (1,500)", "majority baseline"} <= set(words(figure))
    assert "majority baseline" not in words(draw_accuracy(SLICES[1:], "accuracy-x", "Title", "Caption."))


def test_empty_and_undefined_values_are_drawn():
    assert "answers" in words(draw_reliability([Bin(0, 1, 0, None, None)], "", "T", "C"))
    assert "one (0)" in words(draw_accuracy([Slice("one", Estimate(None), {}, {})], "a", "T", "C"))
    assert "training" not in words(draw_loss([], [(5, 1.0)], "T", "C"))
    assert "validation" not in words(draw_loss([(5, 1.0)], [], "T", "C"))


def test_same_figure_twice_is_the_same_bytes():
    first, second = (draw_probabilities([(0.1, 0.2), (0.7, 0.6)], "Title", "Caption.") for _ in range(2))
    assert (first.inline, first.svg, first.png) == (second.inline, second.svg, second.png)
    assert first.png.startswith(b"\x89PNG")


def test_inline_form_follows_the_page_and_is_described():
    figure = draw_loss([(1, 3.0), (2, 1.0)], [(2, 1.5)], 'Loss "x"', "A & B.")
    root = ET.fromstring(figure.inline.replace("<svg", '<svg xmlns:xlink="http://www.w3.org/1999/xlink"', 1)
                         if "xmlns:xlink" not in figure.inline else figure.inline)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == 'Loss "x". A & B.'
    assert "viewBox" in root.attrib
    assert "width" not in root.attrib
    assert not [colour for colour in COLOURS.values() if colour in figure.inline]
    assert "var(--blue)" in figure.inline
    identifiers = re.findall(r'\bid="([^"]+)"', figure.inline)
    assert identifiers
    assert all(name.startswith("loss-") for name in identifiers)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', figure.inline))
    assert used
    assert used <= set(identifiers)


def test_files_stand_alone_without_date_or_fonts():
    figure = draw_loss([(1, 3.0), (2, 1.0)], [], "Title", "Caption.")
    ET.fromstring(figure.svg)
    assert "<text" not in figure.svg
    assert "var(" not in figure.svg
    assert not re.search(r"\b20\d\d-\d\d-\d\d", figure.svg + figure.inline)


def test_labels_are_escaped_and_never_read_as_formulas():
    odd = Slice("<b>$x$ & ü 肺", Estimate(0.5, 0.4, 0.6, 2, 2), {}, {})
    figure = draw_accuracy([odd], "a", "T", "C")
    assert "&lt;b&gt;$x$ &amp; ü 肺 (2)" in words(figure)


def test_drawing_leaves_global_settings_alone():
    import matplotlib as mpl

    def read_settings() -> dict:
        return {key: mpl.rcParams[key] for key in mpl.rcParams if key != "backend"}

    before = read_settings()
    draw_loss([(1, 3.0)], [], "T", "C")
    assert read_settings() == before

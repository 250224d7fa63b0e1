"""A drawn sample shows its picture, its boxes where they are, and all of its text."""

from __future__ import annotations

import dataclasses

import numpy as np

from medvqa_cli.data.drawing import COLOURS, LINE_HEIGHT, MARGIN, PANEL_SIZE, draw_sample
from medvqa_cli.records import Box
from tests.data.builders import draw_image, make_sample

ORANGE = tuple(bytes.fromhex(COLOURS[0][1:]))


def find_colour(picture, colour):
    """Left, upper, right and lower edge of the pixels of a colour, in the source picture's pixels."""
    rows, columns = np.nonzero((np.asarray(picture) == colour).all(axis=2))
    scale = PANEL_SIZE / 100
    return [round((edge - MARGIN) / scale) for edge in (columns.min(), rows.min(), columns.max(), rows.max())]


def test_a_box_is_drawn_where_it_is(tmp_path):
    path = draw_image(tmp_path / "a.png", 50, size=(100, 60))
    sample = make_sample(1, path, boxes=(Box("", 20, 10, 70, 40),))
    picture = draw_sample(sample)
    assert find_colour(picture, ORANGE) == [20, 10, 70, 40]
    assert picture.getpixel((MARGIN + PANEL_SIZE // 2, MARGIN + 10)) == (50, 50, 50)


def test_long_text_makes_room_for_itself(tmp_path):
    path = draw_image(tmp_path / "a.png")
    short = make_sample(1, path)
    long = dataclasses.replace(short, question="Is there any sign of this or that? " * 12)
    heights = [draw_sample(sample).height for sample in (short, long)]
    assert heights[1] >= heights[0] + 5 * 20
    below = np.asarray(draw_sample(long))[-40:-15].min(axis=2)
    assert below.min() < 60  # its last line is written, not cut off


def test_several_pictures_none_and_other_scripts(tmp_path):
    path = draw_image(tmp_path / "a.png", size=(50, 100))
    two = draw_sample(make_sample(1, images=(str(path), str(path)), question="这是什么?"))
    none = draw_sample(make_sample(1, boxes=(Box("x", 0, 0, 1, 1),)))
    assert two.width == 2 * MARGIN + max(PANEL_SIZE, 2 * (PANEL_SIZE // 2) + MARGIN)
    assert none.height < 150


def test_a_box_outside_or_inside_out_does_no_harm(tmp_path):
    path = draw_image(tmp_path / "a.png", size=(100, 60))
    boxes = (Box("a", 90, 50, 10, 5), Box("b", -50, -50, 500, 500))
    assert find_colour(draw_sample(make_sample(1, path, boxes=boxes[:1])), ORANGE) == [10, 5, 90, 50]
    assert draw_sample(make_sample(1, path, boxes=boxes)).width == PANEL_SIZE + 2 * MARGIN


def test_a_conversation_shows_its_facts_its_turns_and_its_output(tmp_path):
    first, last = draw_image(tmp_path / "a.png", 50), draw_image(tmp_path / "b.png", 200)
    plain = draw_sample(make_sample(1, first))
    talk = draw_sample(make_sample(1, first, history=(("q", "a"), ("q", "a")), context=("fact",),
                                   output_images=(str(last),)))
    assert talk.height == plain.height + 5 * LINE_HEIGHT
    assert talk.width == 2 * PANEL_SIZE + 3 * MARGIN
    assert talk.getpixel((2 * MARGIN + PANEL_SIZE + 5, MARGIN + 5)) == (200, 200, 200)

"""A sample drawn as one picture: its images with their boxes, its texts below."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.images import MAX_PIXELS, read_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from medvqa_cli.records import Box, VQASample

PANEL_SIZE = 480
MARGIN = 12
FONT_SIZE = 16
LINE_HEIGHT = 22
LETTER_WIDTH = 8.5
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""Okabe and Ito's palette, which colour-blind people can tell apart."""


def draw_sample(sample: VQASample, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return a sample as one RGB picture.

    The images stand side by side, the answer's own images last, each scaled to `PANEL_SIZE` pixels on its longer side;
    boxes are drawn on the first. Facts and earlier turns stand above the question. Characters that Pillow's own font
    lacks, such as Chinese ones, appear as empty frames.

    Raises:
        DataError: If an image cannot be read.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(FONT_SIZE)
    panels = [_draw_panel(read_image(path, max_pixels), () if number else sample.boxes, font)
              for number, path in enumerate((*sample.images, *sample.output_images))]
    width = max(PANEL_SIZE, sum(panel.width + MARGIN for panel in panels) - MARGIN)
    lines = _write_lines(sample, int(width / LETTER_WIDTH))
    top = 2 * MARGIN + max((panel.height for panel in panels), default=0)
    canvas = Image.new("RGB", (width + 2 * MARGIN, top + len(lines) * LINE_HEIGHT + MARGIN), "white")
    left = MARGIN
    for panel in panels:
        canvas.paste(panel, (left, MARGIN))
        left += panel.width + MARGIN
    pen = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        pen.text((MARGIN, top + number * LINE_HEIGHT), line, fill="black", font=font)
    return canvas


def _draw_panel(image: Image.Image, boxes: Sequence[Box], font: Any) -> Image.Image:
    """Return a scaled image with its boxes and their labels."""
    from PIL import ImageDraw

    scale = PANEL_SIZE / max(image.size)
    panel = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    pen = ImageDraw.Draw(panel)
    for number, box in enumerate(boxes):
        colour = COLOURS[number % len(COLOURS)]
        left, right = sorted((box.x1 * scale, box.x2 * scale))
        upper, lower = sorted((box.y1 * scale, box.y2 * scale))
        pen.rectangle((left, upper, right, lower), outline=colour, width=2)
        pen.text((left + 4, upper + 2), box.label, fill=colour, font=font, stroke_width=2, stroke_fill="black")
    return panel


def _write_lines(sample: VQASample, columns: int) -> list[str]:
    facts = (sample.dataset, sample.split, sample.question_id, sample.answer_type, sample.question_type,
             sample.modality, sample.organ)
    pairs = (*sample.history, (sample.question, sample.answer))
    spoken = [f"{who}: {text}" for pair in pairs for who, text in zip("QA", pair, strict=True)]
    paragraphs = [*sample.context, *spoken, " | ".join(filter(None, facts))]
    return [line for paragraph in paragraphs for line in textwrap.wrap(paragraph, columns, subsequent_indent="    ")]

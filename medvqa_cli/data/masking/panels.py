"""Pictures to look at: original, region and result of a mask side by side."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from PIL import Image

    from medvqa_cli.data.masking.regions import Window
    from medvqa_cli.records import VQASample

HEIGHT = 320
MARGIN = 10
FONT_SIZE = 15
COLOUR = (230, 159, 0)
OUTLINE = (86, 180, 233)


class PanelFolder:
    """Draws the first few results of each modality into a folder, at most `limit` in all."""

    def __init__(self, folder: Path, limit: int, modalities: Collection[str]) -> None:
        self._folder = folder
        self._limit = limit
        self._share = -(-limit // max(1, len(modalities)))
        self._drawn: Counter[str] = Counter()

    def wants(self, modality: str) -> bool:
        """Tell whether one more picture of this modality is to be drawn."""
        return self._drawn[modality] < self._share and self._drawn.total() < self._limit

    def write(self, sample: VQASample, panel: Image.Image) -> None:
        """Write a panel as NUMBER_MODALITY_IMAGE_QUESTION.png."""
        number = self._drawn.total()
        self._drawn[sample.modality] += 1
        stem = "_".join(re.sub(r"[^\w-]", "", part)[:40] or "x"
                        for part in (sample.modality, sample.image_id, sample.question_id))
        self._folder.mkdir(parents=True, exist_ok=True)
        panel.save(self._folder / f"{number:03d}_{stem}.png")


def draw_panel(picture: Image.Image, region: Any, window: Window, result: Image.Image, title: str) -> Image.Image:
    """Return original, region (orange, a crop's frame in blue) and result at one height, under a title.

    Characters that Pillow's own font lacks, such as Chinese ones, appear as empty frames.
    """
    from PIL import Image, ImageDraw, ImageFont

    parts = [_scale(part) for part in (picture, _mark_region(picture, region, window), result)]
    top = 2 * MARGIN + FONT_SIZE
    canvas = Image.new("RGB", (sum(part.width + MARGIN for part in parts) + MARGIN, top + HEIGHT + MARGIN), "white")
    ImageDraw.Draw(canvas).text((MARGIN, MARGIN), title, fill="black", font=ImageFont.load_default(FONT_SIZE))
    left = MARGIN
    for part in parts:
        canvas.paste(part, (left, top))
        left += part.width + MARGIN
    return canvas


def _mark_region(picture: Image.Image, region: Any, window: Window) -> Image.Image:
    import numpy as np
    from PIL import Image, ImageDraw

    pixels = np.asarray(picture).astype(np.float64)
    pixels[region] = 0.55 * pixels[region] + 0.45 * np.array(COLOUR)
    marked = Image.fromarray(pixels.round().astype(np.uint8))
    left, upper, right, lower = window
    ImageDraw.Draw(marked).rectangle((left, upper, right - 1, lower - 1), outline=OUTLINE,
                                     width=max(1, picture.height // 200))
    return marked


def _scale(image: Image.Image) -> Image.Image:
    """Return an image `HEIGHT` pixels high, or as wide as three times that if it is very flat."""
    factor = min(HEIGHT / image.height, 3 * HEIGHT / image.width)
    return image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))

"""Pictures in a terminal: two pixels a character, drawn with half blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console
    from rich.text import Text

MAX_COLUMNS = 48
UPPER_HALF = "▀"


def print_picture(console: Console, path: Path, max_pixels: int) -> None:
    """Print a picture, at most 48 columns wide."""
    console.print(render_picture(path, max_pixels, min(MAX_COLUMNS, console.width)))


def print_beside(console: Console, path: Path, max_pixels: int, lines: Sequence[str]) -> None:
    """Print lines of text to the right of a picture that takes at most half the width; markup in them is not read."""
    from rich.table import Table
    from rich.text import Text

    columns = min(MAX_COLUMNS, console.width // 2)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=columns)
    grid.add_column()
    grid.add_row(render_picture(path, max_pixels, columns), Text("\n".join(lines)))
    console.print(grid)


def render_picture(path: Path, max_pixels: int, columns: int) -> Text:
    """Return a picture as coloured text, `columns` characters wide; each character shows one pixel above another."""
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    from medvqa_cli.data.images import read_image

    image = read_image(path, max_pixels=max_pixels).convert("RGB")
    rows = max(1, round(image.height / image.width * columns / 2)) * 2
    pixels = image.resize((columns, rows)).tobytes()

    def color_at(x: int, y: int) -> Color:
        start = 3 * (y * columns + x)
        return Color.from_rgb(*pixels[start:start + 3])

    text = Text(no_wrap=True)
    for y in range(0, rows, 2):
        for x in range(columns):
            text.append(UPPER_HALF, Style(color=color_at(x, y), bgcolor=color_at(x, y + 1)))
        text.append("\n" if y + 2 < rows else "")
    return text

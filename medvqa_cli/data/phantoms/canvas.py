"""A grey picture to draw soft shapes on, in the coordinates of a body."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from medvqa_cli.data.phantoms.cases import Body

    Array = NDArray[Any]


class Canvas:
    """A picture of `size` x `size` grey values (0 to 255), black at first.

    `x` and `y` are the body's coordinates of every pixel: 0, 0 is its centre, 1 half its width; x grows to the right,
    y downwards. They are slightly bent, so that no organ is a perfect ellipse. A mask holds how much of a pixel a
    shape covers, 0 to 1; edges are as wide as a pixel, or `soft` pixels.

    Args:
        size: Side in pixels.
        body: Where the body lies.
        seed: Seed of bends and noise.
    """

    def __init__(self, size: int, body: Body, seed: int) -> None:
        import numpy as np

        self.size = size
        self.chance = np.random.default_rng(seed)
        steps = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
        self.picture_x, self.picture_y = np.meshgrid(steps, steps)
        self.pixel = 1.0 / (size * body.unit)
        self.x = (self.picture_x - np.float32(body.x)) / np.float32(body.unit) + self.cloud(3, 0.016)
        self.y = (self.picture_y - np.float32(body.y)) / np.float32(body.unit) + self.cloud(3, 0.016)
        self.values: Array = np.zeros((size, size), np.float32)

    def vary(self, value: float, share: float = 0.05) -> float:
        """Return a value changed at random by up to `share` of itself."""
        return value * (1.0 + share * float(self.chance.uniform(-1.0, 1.0)))

    def cloud(self, cells: int, spread: float) -> Array:
        """Return smooth noise with a standard deviation of about `spread`, varying over 1 / `cells` of the picture."""
        import numpy as np
        from PIL import Image

        coarse = self.chance.normal(0.0, spread, (cells + 1, cells + 1)).astype(np.float32)
        smooth = Image.fromarray(coarse).resize((self.size, self.size), Image.Resampling.BICUBIC)
        return np.asarray(smooth, np.float32)

    def grain(self, spread: float) -> Array:
        """Return noise of single pixels."""
        import numpy as np

        return self.chance.standard_normal((self.size, self.size), np.float32) * np.float32(spread)

    def blur(self, values: Array) -> Array:
        """Return values averaged with their neighbours on the left and above."""
        import numpy as np

        rows = (values + np.roll(values, 1, 1)) / 2
        mean: Array = (rows + np.roll(rows, 1, 0)) / 2
        return mean

    def cover(self, distance: Array, soft: float = 1.0) -> Array:
        """Return the mask of a signed distance in body units (negative inside)."""
        mask: Array = (0.5 - distance / (self.pixel * soft)).clip(0.0, 1.0)
        return mask

    def ellipse(self, x: float, y: float, radius_x: float, radius_y: float, *, angle: float = 0.0,
                soft: float = 1.0) -> Array:
        """Return the mask of an ellipse turned by `angle` radians (clockwise)."""
        import numpy as np

        across, along = self.x - np.float32(x), self.y - np.float32(y)
        if angle:
            cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
            across, along = cosine * across + sine * along, cosine * along - sine * across
        level = np.sqrt((across / np.float32(radius_x)) ** 2 + (along / np.float32(radius_y)) ** 2)
        return self.cover((level - 1.0) * np.float32(min(radius_x, radius_y)), soft)

    def ring(self, x: float, y: float, radii: tuple[float, float], thickness: float, *, soft: float = 1.0) -> Array:
        """Return the mask of an elliptic ring; `radii` are the outer ones."""
        inner = self.ellipse(x, y, radii[0] - thickness, radii[1] - thickness, soft=soft)
        return self.ellipse(x, y, *radii, soft=soft) - inner

    def stripe(self, distance: Array, width: float, soft: float = 1.0) -> Array:
        """Return the mask of all pixels within width / 2 of a line, given their distance from it."""
        return self.cover(abs(distance) - width / 2, soft)

    def box(self, x: float, y: float, half_x: float, half_y: float, soft: float = 1.0) -> Array:
        """Return the mask of a rectangle."""
        return self.cover(abs(self.x - x) - half_x, soft) * self.cover(abs(self.y - y) - half_y, soft)

    def paint(self, mask: Array, value: float | Array, opacity: float = 1.0) -> None:
        """Cover a mask with a grey value."""
        self.values += opacity * mask * (value - self.values)

    def add(self, mask: Array, amount: float | Array) -> None:
        """Brighten a mask, as overlaid things do on an X-ray."""
        self.values += mask * amount

    def dots(self, mask: Array, value: float, spots: Sequence[tuple[float, float, float]]) -> None:
        """Paint small round dots (x, y, radius) where the mask is."""
        for x, y, radius in spots:
            self.paint(self.ellipse(x, y, radius, radius, soft=1.5) * mask, value)

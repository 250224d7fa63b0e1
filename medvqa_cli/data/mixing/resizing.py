"""The size a picture is brought to before it is cut into patches."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from medvqa_cli.settings.section import Section


def _read_number(value: Any) -> Any:
    """Read 2_007_040, which is a number in YAML 1.1 and a text in YAML 1.2."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"\d{1,3}(_\d{3})+", value) else value


Pixels = Annotated[PositiveInt, BeforeValidator(_read_number)]


class ImageTransform(Section):
    """How large a picture becomes, in pixels."""

    image_stride: Pixels
    """Both sides become multiples of this."""
    max_image_size: Pixels
    """Pictures are made smaller until the longer side has at most this."""
    min_image_size: Pixels
    """Then larger until the shorter side has at least this."""
    max_pixels: Pixels | None = Field(default=None)
    """At last smaller until width x height is at most this."""

    @model_validator(mode="after")
    def _check_order(self) -> ImageTransform:
        if self.min_image_size > self.max_image_size:
            raise ValueError(f"min_image_size ({self.min_image_size}) is larger than max_image_size "
                             f"({self.max_image_size})")
        if self.image_stride > self.min_image_size:
            raise ValueError(f"image_stride ({self.image_stride}) is larger than min_image_size "
                             f"({self.min_image_size})")
        if self.max_pixels is not None and self.max_pixels < self.image_stride**2:
            raise ValueError(f"max_pixels ({self.max_pixels}) leaves no room for a patch of {self.image_stride} x "
                             f"{self.image_stride}")
        return self


def resize_shape(width: int, height: int, transform: ImageTransform) -> tuple[int, int]:
    """Return the width and height that a picture is resized to.

    The scale is min(max_image_size / longer side, 1), but at least min_image_size / shorter side, so that a long narrow
    picture may stay longer than max_image_size; each side is rounded to the nearest multiple of the stride. With more
    than max_pixels both sides shrink by the root of the excess, rounded down.

    Source:
        The resizing of BAGEL (Deng et al. 2025, arXiv:2505.14683) and UniMedVL. Differs: max_pixels is kept exactly.

    Raises:
        ValueError: If a side is below 1.
    """
    if width < 1 or height < 1:
        raise ValueError(f"a picture has at least 1 x 1 pixels, not {width} x {height}")
    stride = transform.image_stride
    scale = max(min(transform.max_image_size / max(width, height), 1.0), transform.min_image_size / min(width, height))
    sides = [max(stride, math.floor(side * scale / stride + 0.5) * stride) for side in (width, height)]
    excess = math.prod(sides) / transform.max_pixels if transform.max_pixels else 1.0
    if transform.max_pixels and excess > 1:
        sides = [max(stride, math.floor(side / math.sqrt(excess) / stride) * stride) for side in sides]
        longest = transform.max_pixels // min(sides) // stride * stride  # where the shorter side could not shrink
        sides = [min(side, longest) for side in sides]
    return sides[0], sides[1]

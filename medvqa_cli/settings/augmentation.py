"""Settings of augmentation: how training pictures are varied."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from medvqa_cli.settings.section import Fraction, Section

Degrees = Annotated[float, Field(ge=0.0, le=45.0)]
Change = Annotated[float, Field(ge=0.0, lt=1.0)]


class AugmentSettings(Section):
    """Small changes of training pictures that leave every answer true; validation and answers see none."""

    mode: Literal["none", "light"] = "none"
    """light: a small rotation, shift and zoom, and small changes of brightness, contrast, gamma and noise."""
    rotation: Degrees = 5.0
    """Largest rotation, in degrees, either way."""
    zoom: Change = 0.05
    """Largest change of scale, in or out, and largest shift, as a share of a side."""
    brightness: Change = 0.1
    """Largest change of brightness, as a share of the range of grey levels."""
    contrast: Change = 0.1
    """Largest change of contrast about the mean, as a share."""
    gamma: Change = 0.1
    """Largest change of gamma, as a share."""
    noise: Fraction = 0.01
    """Largest standard deviation of noise, as a share of the range of grey levels."""
    flip: Literal["never", "horizontal"] = "never"
    """horizontal mirrors every second picture, but none with a training question, answer or box that names a side."""

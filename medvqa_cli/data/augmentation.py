"""Training pictures varied a little, so that left stays left and every answer stays true.

A picture's variation is a function of seed, epoch and the picture's own pixels: the same for all its questions, whoever
asks first, in whatever process, and after a resumed run. The picture keeps its size, and with it its tokens.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from PIL import Image

    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.augmentation import AugmentSettings

SIDES = re.compile(
    r"\b(left\w*|right\w*|sides?|sided|\w*lateral\w*|hemi\w+|clockwise|counterclockwise|markers?|text|letters?|situs|"
    r"dextro\w*|levo\w*|[lr]|[lr]t|l[ul]l|r[uml]l|[lr][ul]q|[lr][av]|where|locat\w+|positions?|quadrants?|corners?|"
    r"coordinates?|box(es)?)\b|左|右|侧|边|位置|方位|部位|哪里",
    re.IGNORECASE)
"""Words, English and Chinese, whose truth a mirror may change. Rather one too many: its picture is not flipped."""
LEVELS = 255.0


@dataclass(frozen=True, slots=True)
class Variation:
    """One drawn variation: what is done to a picture, the geometry first.

    `angle` in degrees, counter-clockwise; `scale` above 1 enlarges; `shift_x` and `shift_y` as shares of a side;
    `brightness` as a share of the range of grey levels; `contrast` and `gamma` as factors; `noise` is a standard
    deviation as a share of the range; `noise_seed` draws it.
    """

    angle: float = 0.0
    scale: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    brightness: float = 0.0
    contrast: float = 1.0
    gamma: float = 1.0
    noise: float = 0.0
    noise_seed: int = 0
    flips: bool = False


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Varies pictures as settings say.

    Args:
        settings: How much.
        seed: The run's seed.
        sided: Paths of pictures that must not be flipped, see `find_sided`.
    """

    settings: AugmentSettings
    seed: int
    sided: frozenset[str] = frozenset()

    def vary(self, picture: Image.Image, path: str, epoch: int) -> Image.Image:
        """Return an RGB picture as an epoch shows it, in its own size.

        Args:
            picture: The picture as it is.
            path: Where it came from: a flip is asked of it, nothing else.
            epoch: Epoch of training, from 0.
        """
        return apply_variation(picture, self.draw(picture, path, epoch))

    def draw(self, picture: Image.Image, path: str, epoch: int) -> Variation:
        """Return what is done to a picture in an epoch; equal pixels are varied alike, whatever their file's name."""
        content = hashlib.sha256(picture.tobytes()).hexdigest()
        draw = random.Random(f"{self.seed} {epoch} {picture.size} {content}")
        most = self.settings
        return Variation(
            angle=draw.uniform(-most.rotation, most.rotation),
            scale=1.0 + draw.uniform(-most.zoom, most.zoom),
            shift_x=draw.uniform(-most.zoom, most.zoom) / 2,
            shift_y=draw.uniform(-most.zoom, most.zoom) / 2,
            brightness=draw.uniform(-most.brightness, most.brightness),
            contrast=1.0 + draw.uniform(-most.contrast, most.contrast),
            gamma=1.0 + draw.uniform(-most.gamma, most.gamma),
            noise=draw.uniform(0.0, most.noise),
            noise_seed=draw.getrandbits(32),
            flips=draw.random() < 0.5 and most.flip == "horizontal" and path not in self.sided)


def find_sided(samples: Iterable[VQASample]) -> frozenset[str]:
    """Return the paths of pictures with a question that a mirror could make untrue.

    That is one whose question, answer, options, context or history names a side or a place, or that has boxes or masks.
    One such question keeps its picture as it is for all its questions: they share it.
    """
    return frozenset(path for sample in samples if _names_a_side(sample) for path in sample.images)


def _names_a_side(sample: VQASample) -> bool:
    texts = (sample.question, sample.answer, *sample.alternatives, *sample.options, *sample.context,
             *(text for turn in sample.history for text in turn))
    return bool(sample.boxes or sample.masks) or any(SIDES.search(text) for text in texts)


def apply_variation(picture: Image.Image, variation: Variation) -> Image.Image:
    """Return an RGB picture with a variation applied, in its own size.

    What comes into view from beyond the border repeats the border, so that no edge appears.
    """
    from PIL import Image, ImageOps

    if variation.flips:
        picture = ImageOps.mirror(picture)
    return Image.fromarray(_change_levels(_move(picture, variation), variation))


def _move(picture: Image.Image, variation: Variation) -> Image.Image:
    """Return a picture rotated about its middle, scaled and shifted."""
    import numpy as np
    from PIL import Image

    width, height = picture.size
    a, b, c, d, e, f = _invert(variation, width, height)
    seen = [(a * x + b * y + c, d * x + e * y + f) for x in (0, width) for y in (0, height)]
    margin = math.ceil(max(0.0, *(max(-x, x - width, -y, y - height) for x, y in seen)))
    wide = Image.fromarray(np.pad(np.asarray(picture), ((margin, margin), (margin, margin), (0, 0)), mode="edge"))
    return wide.transform(picture.size, Image.Transform.AFFINE, (a, b, c + margin, d, e, f + margin),
                          Image.Resampling.BICUBIC)


def _invert(variation: Variation, width: int, height: int) -> tuple[float, float, float, float, float, float]:
    """Return the affine map from a place in the new picture to its place in the old one, as Pillow wants it."""
    angle = math.radians(variation.angle)
    cosine, sine = math.cos(angle) / variation.scale, math.sin(angle) / variation.scale
    middle_x, middle_y = width / 2, height / 2
    from_x, from_y = middle_x + variation.shift_x * width, middle_y + variation.shift_y * height
    return (cosine, -sine, middle_x - cosine * from_x + sine * from_y,
            sine, cosine, middle_y - sine * from_x - cosine * from_y)


def _change_levels(picture: Image.Image, variation: Variation) -> np.ndarray:
    """Return pixels [height, width, 3] with gamma, contrast about the mean, brightness and noise, in this order.

    All channels are changed alike: grey stays grey.
    """
    import numpy as np

    levels = (np.asarray(picture, dtype=np.float32) / LEVELS) ** variation.gamma
    levels = (levels - levels.mean()) * variation.contrast + levels.mean() + variation.brightness
    noise = np.random.default_rng(variation.noise_seed).standard_normal(levels.shape[:2], dtype=np.float32)
    changed: np.ndarray = np.rint((levels + variation.noise * noise[..., None]).clip(0, 1) * LEVELS).astype(np.uint8)
    return changed

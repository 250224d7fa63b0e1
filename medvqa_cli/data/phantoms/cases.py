"""What a phantom shows: modality, region, lesions or a smudge that may be one. Only labels, no pictures."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from medvqa_cli.records import Box

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = Literal["normal", "ambiguous", "single", "double"]

MODALITIES = ("CT", "MRI", "X-Ray")
REGIONS = ("chest", "abdomen", "head")
# Kinds of every 20 images in a row, in random order: shares hold in small sets too.
KINDS: tuple[Kind, ...] = ("normal",) * 4 + ("ambiguous",) * 4 + ("single",) * 9 + ("double",) * 3
NUM_FINDINGS: dict[Kind, int] = {"normal": 0, "ambiguous": 1, "single": 1, "double": 2}
# Contrast of a smudge -> probability that it is a lesion.
SMUDGES = {0.15: 0.1, 0.28: 0.3, 0.41: 0.5, 0.54: 0.7, 0.67: 0.9}
LESION_CONTRASTS = (0.94, 1.0)
RADII = {"small": (0.056, 0.064), "large": (0.098, 0.112)}
SMUDGE_RADII = (0.08, 0.1)
# Region -> where lesions lie (across, up or down, spread), in body units from the midline, above and below it.
SPOTS = {
    "chest": {"upper": (0.44, 0.33, 0.08, 0.07), "lower": (0.46, 0.30, 0.08, 0.06)},
    "abdomen": {"upper": (0.43, 0.30, 0.09, 0.05), "lower": (0.40, 0.36, 0.04, 0.04)},
    "head": {"upper": (0.34, 0.40, 0.08, 0.08), "lower": (0.36, 0.34, 0.08, 0.07)},
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A lesion or smudge: centre and radius as fractions of the picture, contrast against its tissue (1 is full)."""

    x: float
    y: float
    radius: float
    contrast: float

    @property
    def side(self) -> str:
        """Where it lies in the picture: left or right."""
        return "left" if self.x < 0.5 else "right"

    @property
    def height(self) -> str:
        """Where it lies in the picture: upper or lower."""
        return "upper" if self.y < 0.5 else "lower"

    @property
    def size(self) -> str:
        """Small or large; there is nothing in between."""
        return "small" if self.radius < 0.08 else "large"


@dataclass(frozen=True, slots=True)
class Body:
    """Centre of the body, as fractions of the picture, and its size; 1 is average."""

    x: float
    y: float
    size: float

    @property
    def unit(self) -> float:
        """Half the width of the body, as a fraction of the picture."""
        return 0.46 * self.size


@dataclass(frozen=True, slots=True)
class Case:
    """One phantom.

    Attributes:
        kind: What is in it: nothing, one smudge, one lesion, two lesions.
        findings: What is drawn, the smudge included.
        lesion_probability: Probability of a lesion given the picture: 0 or 1 unless there is a smudge.
        has_lesion: Whether there is a lesion; drawn once with that probability.
        body: Where the body lies.
        seed: Seed of everything that is drawn but not asked about: noise, shapes of organs.
    """

    kind: Kind
    modality: str
    region: str
    findings: tuple[Finding, ...]
    lesion_probability: float
    has_lesion: bool
    body: Body
    seed: int

    def find_organ(self, finding: Finding) -> str:
        """Return the organ a finding lies in."""
        if self.region != "abdomen":
            return {"chest": "lung", "head": "skull" if self.modality == "X-Ray" else "brain"}[self.region]
        return "kidney" if finding.height == "lower" else {"left": "liver", "right": "stomach"}[finding.side]

    def find_boxes(self, size: int) -> tuple[Box, ...]:
        """Return a box around every finding, in pixels of a square picture of `size` pixels."""
        label = "possible lesion" if self.kind == "ambiguous" else "lesion"
        return tuple(_make_box(label, finding, size) for finding in self.findings)


def _make_box(label: str, finding: Finding, size: int) -> Box:
    x1, y1, x2, y2 = (round(min(max(edge, 0.0), 1.0) * size, 2)
                      for edge in (finding.x - finding.radius, finding.y - finding.radius,
                                   finding.x + finding.radius, finding.y + finding.radius))
    return Box(label, x1, y1, x2, y2)


def draw_cases(seed: int, split: str, count: int) -> Iterator[Case]:
    """Yield `count` cases of a split; the first N are the same whatever the count."""
    for index in range(count):
        block, place = divmod(index, len(KINDS))
        kinds = random.Random(f"{seed} {split} block {block}").sample(KINDS, len(KINDS))
        yield draw_case(kinds[place], random.Random(f"{seed} {split} case {index}"))


def draw_case(kind: Kind, chance: random.Random) -> Case:
    """Return a case of a given kind."""
    region = chance.choice(REGIONS)
    body = Body(0.5 + chance.uniform(-0.02, 0.02), 0.5 + chance.uniform(-0.02, 0.02), chance.uniform(0.95, 1.03))
    smudge, probability = chance.choice(tuple(SMUDGES.items()))
    if kind != "ambiguous":
        probability = 0.0 if kind == "normal" else 1.0
    places = [(side, height) for side in (-1, 1) for height in ("upper", "lower")]
    findings = []
    for side, height in chance.sample(places, NUM_FINDINGS[kind]):
        radii = SMUDGE_RADII if kind == "ambiguous" else RADII[chance.choice(tuple(RADII))]
        contrast = smudge if kind == "ambiguous" else chance.uniform(*LESION_CONTRASTS)
        x, y = _draw_place(body, side, height, SPOTS[region][height], chance)
        findings.append(Finding(x, y, chance.uniform(*radii), contrast))
    return Case(kind, chance.choice(MODALITIES), region, tuple(findings), probability, chance.random() < probability,
                body, chance.getrandbits(63))


def _draw_place(body: Body, side: int, height: str, spot: tuple[float, float, float, float],
                chance: random.Random) -> tuple[float, float]:
    across, along, spread_x, spread_y = spot
    x = body.x + side * body.unit * (across + chance.uniform(-spread_x, spread_x))
    y = body.y + (-1 if height == "upper" else 1) * body.unit * (along + chance.uniform(-spread_y, spread_y))
    return x, y

"""The six views a phantom can be: slices (CT, MRI) and films (X-ray) of chest, abdomen and head."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medvqa_cli.data.phantoms.canvas import Array, Canvas

# Grey values of tissues.
TISSUES: dict[str, dict[str, float]] = {
    "CT": {"fat": 70, "muscle": 118, "bone": 235, "marrow": 190, "lung": 26, "vessel": 95, "blood": 150, "heart": 132,
           "liver": 138, "stomach": 104, "kidney": 158, "spleen": 146, "gas": 6, "bowel": 100, "canal": 105,
           "grey": 112, "white": 98, "water": 52, "scalp": 88, "skull": 246},
    "MRI": {"fat": 205, "muscle": 72, "bone": 26, "marrow": 140, "lung": 12, "vessel": 48, "blood": 168, "heart": 92,
            "liver": 104, "stomach": 92, "kidney": 118, "spleen": 128, "gas": 6, "bowel": 120, "canal": 186,
            "grey": 92, "white": 128, "water": 34, "scalp": 190, "skull": 18},
}


def draw(canvas: Canvas, modality: str, region: str) -> None:
    """Draw a region as a modality shows it."""
    if modality == "X-Ray":
        {"chest": draw_chest_film, "abdomen": draw_abdomen_film, "head": draw_head_film}[region](canvas)
    else:
        slices = {"chest": draw_chest_slice, "abdomen": draw_abdomen_slice, "head": draw_head_slice}
        slices[region](canvas, modality)


def draw_chest_slice(canvas: Canvas, modality: str) -> None:
    """Two lungs beside the heart, the spine below, ribs all around."""
    tissue = TISSUES[modality]
    body = canvas.ellipse(0, 0, 1.0, 0.80)
    canvas.paint(body, tissue["fat"])
    canvas.paint(canvas.ellipse(0, 0.01, 0.91, 0.71), tissue["muscle"])
    _draw_ribs(canvas, tissue["bone"], 0.86, 0.665)
    lungs = canvas.ellipse(-0.43, 0.0, 0.335, 0.53) + canvas.ellipse(0.43, 0.0, 0.335, 0.53)
    canvas.paint(lungs.clip(0, 1), tissue["lung"])
    _draw_vessels(canvas, lungs, tissue["vessel"])
    canvas.paint(canvas.ellipse(0.0, -0.02, 0.14, 0.46, soft=2), tissue["muscle"])
    canvas.paint(canvas.ellipse(canvas.vary(0.07, 0.3), -0.12, canvas.vary(0.27), 0.25, angle=0.5), tissue["heart"])
    for x, y, radius in ((-0.01, -0.16, 0.10), (0.15, -0.08, 0.11)):
        canvas.paint(canvas.ellipse(x, y, radius, radius * 0.9, soft=2.5), tissue["blood"])
    canvas.paint(canvas.ellipse(0.12, 0.30, 0.075, 0.075), tissue["blood"])
    _draw_vertebra(canvas, tissue, 0.50)


def draw_abdomen_slice(canvas: Canvas, modality: str) -> None:
    """Liver and stomach above, kidneys below, the spine between them."""
    tissue = TISSUES[modality]
    canvas.paint(canvas.ellipse(0, 0, 1.0, 0.78), tissue["fat"])
    canvas.paint(canvas.ellipse(0, 0, 0.90, 0.68), tissue["muscle"])
    canvas.paint(canvas.ellipse(0, -0.01, 0.83, 0.61), tissue["fat"], 0.75)
    _draw_ribs(canvas, tissue["bone"], 0.865, 0.645)
    for _ in range(5):
        x, y = canvas.chance.uniform(-0.3, 0.3), canvas.chance.uniform(-0.35, 0.05)
        canvas.paint(canvas.ellipse(x, y, 0.11, 0.09, soft=1.5), tissue["bowel"])
    canvas.paint(canvas.ellipse(-0.40, -0.18, canvas.vary(0.40), 0.37, angle=-0.2), tissue["liver"])
    canvas.paint(canvas.ellipse(-0.10, -0.33, 0.24, 0.17, angle=0.15), tissue["liver"])
    canvas.paint(canvas.ellipse(0.42, -0.27, canvas.vary(0.30), 0.25, angle=0.35), tissue["stomach"])
    canvas.paint(canvas.ellipse(0.67, 0.10, 0.12, 0.24, angle=-0.15), tissue["spleen"])
    for side in (-1, 1):
        canvas.paint(canvas.ellipse(side * 0.40, 0.34, 0.215, 0.215, angle=side * 0.3), tissue["kidney"])
        canvas.paint(canvas.ellipse(side * 0.30, 0.31, 0.07, 0.09, soft=2), tissue["fat"], 0.8)
    canvas.paint(canvas.ellipse(-0.09, 0.16, 0.075, 0.065), tissue["blood"])
    canvas.paint(canvas.ellipse(0.08, 0.17, 0.06, 0.06), tissue["blood"])
    _draw_vertebra(canvas, tissue, 0.40)


def draw_head_slice(canvas: Canvas, modality: str) -> None:
    """Skull, folded grey matter, white matter and the ventricles."""
    tissue = TISSUES[modality]
    width, height = canvas.vary(0.82, 0.03), canvas.vary(0.98, 0.02)
    canvas.paint(canvas.ellipse(0, 0, width, height), tissue["scalp"])
    canvas.paint(canvas.ellipse(0, 0, width - 0.055, height - 0.055), tissue["skull"])
    inside = canvas.ellipse(0, 0, width - 0.14, height - 0.14)
    canvas.paint(inside, tissue["water"])
    canvas.paint(canvas.ellipse(0, 0, width - 0.165, height - 0.165, soft=1.5), tissue["grey"])
    folds = (canvas.cloud(11, 1.0) * 0.5).clip(-0.6, 0.6)
    canvas.paint(canvas.ellipse(0, 0, width - 0.29, height - 0.29, soft=3) * (1 - abs(folds)), tissue["white"])
    canvas.paint(inside * canvas.stripe(canvas.x, 0.022) * canvas.cover(0.32 - abs(canvas.y)), tissue["water"], 0.8)
    spread = canvas.vary(1.0, 0.15)
    for side in (-1, 1):
        canvas.paint(canvas.ellipse(side * 0.10, -0.13, 0.055 * spread, 0.17 * spread, angle=-side * 0.35, soft=1.5),
                     tissue["water"])
        canvas.paint(canvas.ellipse(side * 0.125, 0.15, 0.05 * spread, 0.17 * spread, angle=side * 0.45, soft=1.5),
                     tissue["water"])
        canvas.paint(canvas.ellipse(side * 0.15, 0.0, 0.06, 0.10, soft=2), tissue["grey"], 0.8)


def draw_chest_film(canvas: Canvas) -> None:
    """Dark lung fields under ribs and collar bones, the heart to the right of the middle, the diaphragm below."""
    away = abs(canvas.x)
    canvas.values += 14
    shoulders = canvas.cover(-0.98 + 0.75 * (away - 0.28).clip(0) - canvas.y, 4)
    canvas.paint(shoulders * canvas.cover(away - 1.0 - 0.05 * canvas.y, 4), 122 - 26 * away)
    lungs = canvas.ellipse(-0.45, -0.02, 0.35, 0.74, angle=0.10, soft=2) + canvas.ellipse(
        0.45, -0.02, 0.35, 0.74, angle=-0.10, soft=2)
    domes = 0.47 + 1.1 * (away - 0.36) ** 2 + 0.05 * (canvas.x > 0)
    canvas.paint(shoulders * canvas.cover(domes - canvas.y, 3) * canvas.cover(away - 0.88, 8), 142)
    canvas.paint(canvas.ellipse(0.42, 0.70, 0.13, 0.07, soft=4), 90, 0.7)
    lungs = lungs.clip(0, 1) * canvas.cover(canvas.y - domes, 2)
    canvas.paint(lungs, 60 + 16 * (canvas.y + 0.5))
    _draw_vessels(canvas, lungs, 96, count=18)
    _draw_film_ribs(canvas)
    canvas.paint(canvas.stripe(canvas.x, 0.26, 4) * canvas.cover(canvas.y - 1.05), 158, 0.7)
    canvas.paint(canvas.ellipse(canvas.vary(0.13, 0.2), 0.22, canvas.vary(0.29), 0.33, angle=0.6, soft=4), 166, 0.95)
    canvas.paint(canvas.ellipse(0.11, -0.30, 0.10, 0.11, soft=4), 158, 0.8)
    _draw_film_spine(canvas, 9, 9)
    for side in (-1, 1):
        line = canvas.y + 0.64 + 0.28 * side * canvas.x - 0.05 * ((side * canvas.x - 0.4) * 6).clip(-1, 1)
        bone = canvas.stripe(line, 0.055, 2) * canvas.cover(0.07 - side * canvas.x) * canvas.cover(away - 0.80, 2)
        canvas.add(shoulders * bone, 34)
        canvas.add(shoulders * canvas.ellipse(side * 0.93, -0.44, 0.12, 0.13, soft=3), 22)


def draw_abdomen_film(canvas: Canvas) -> None:
    """Lowest ribs above, pelvis below, the spine through the middle, gas in the bowel."""
    away = abs(canvas.x)
    canvas.values += 14
    trunk = canvas.cover(away - 0.95 - 0.08 * canvas.y ** 2, 4)
    canvas.paint(trunk, 118 + 12 * canvas.y - 26 * away ** 2 + canvas.cloud(4, 4.0))
    canvas.paint(canvas.ellipse(-0.44, -0.38, 0.42, 0.36, angle=-0.3, soft=3), 138, 0.8)
    canvas.paint(canvas.ellipse(0.44, -0.40, 0.28, 0.24, soft=4), 100, 0.7)
    for side in (-1, 1):
        canvas.paint(canvas.ellipse(side * 0.40, 0.30, 0.19, 0.25, angle=side * 0.2, soft=3), 134, 0.8)
        canvas.add(canvas.ellipse(side * 0.60, 0.90, 0.38, 0.29, angle=side * 0.6, soft=2), 42)
        canvas.add(canvas.ellipse(side * 0.50, 1.04, 0.24, 0.25, soft=2), -34)
        canvas.add(canvas.stripe(side * canvas.x - 0.16 - 0.22 * (canvas.y + 0.1), 0.10, 4) * canvas.cover(
            abs(canvas.y - 0.25) - 0.4, 4), 8)
    for _ in range(7):
        x, y = canvas.chance.uniform(-0.30, 0.30), canvas.chance.uniform(-0.12, 0.66)
        canvas.paint(canvas.ellipse(x, y, canvas.vary(0.085, 0.3), canvas.vary(0.055, 0.3), soft=3), 66, 0.75)
    for number in range(3):
        line = canvas.y + 0.82 - 0.17 * number - 0.25 * canvas.x ** 2
        canvas.add(canvas.stripe(line, 0.05, 2) * canvas.cover(0.2 - away) * canvas.cover(away - 0.88, 2), 20)
    canvas.paint(canvas.stripe(canvas.x, 0.22, 2), 160, 0.7)
    _draw_film_spine(canvas, 7, 16)


def draw_head_film(canvas: Canvas) -> None:
    """The skull from the side: vault, face below on the left, neck below on the right."""
    canvas.values += 30
    canvas.paint(canvas.ellipse(0.28, 1.0, 0.30, 0.50, soft=3), 92)
    canvas.paint(canvas.ellipse(-0.36, 0.62, 0.36, 0.36, angle=0.3, soft=2), 118)
    canvas.paint(canvas.ellipse(0.0, -0.10, 0.97, 0.84, soft=2), 86)
    vault = (0.92, 0.79)
    canvas.paint(canvas.ellipse(0.0, -0.10, *vault), 205)
    canvas.paint(canvas.ellipse(0.0, -0.10, vault[0] - 0.09, vault[1] - 0.09, soft=2.5), 122)
    inside = canvas.ellipse(0.0, -0.10, vault[0] - 0.10, vault[1] - 0.10)
    canvas.add(inside, canvas.cloud(4, 5.0))
    canvas.add(inside * canvas.stripe(canvas.x + 0.18 - 0.15 * canvas.y, 0.03, 1.5) * canvas.cover(canvas.y + 0.2), -16)
    canvas.paint(canvas.ellipse(-0.05, 0.62, 0.50, 0.09, angle=-0.1, soft=3), 196, 0.85)
    canvas.paint(canvas.ellipse(0.12, 0.60, 0.13, 0.09, soft=2), 225)
    canvas.paint(canvas.ellipse(-0.62, 0.54, 0.13, 0.10, soft=2), 60)
    canvas.paint(canvas.ellipse(-0.40, 0.70, 0.13, 0.10, soft=2), 78)
    canvas.paint(canvas.ellipse(-0.42, 0.92, 0.30, 0.06, angle=0.12, soft=2), 190)
    for number in range(3):
        canvas.paint(canvas.box(0.30, 0.76 + 0.14 * number, 0.11, 0.05, 2), 172, 0.85)


def _draw_ribs(canvas: Canvas, value: float, radius_x: float, radius_y: float) -> None:
    start = canvas.chance.uniform(0, math.pi / 7)
    for number in range(14):
        angle = start + number * math.pi / 7
        tilt = math.atan2(radius_y * math.cos(angle), -radius_x * math.sin(angle))
        canvas.paint(canvas.ellipse(radius_x * math.cos(angle), radius_y * math.sin(angle), 0.105, 0.034, angle=tilt),
                     value)


def _draw_vertebra(canvas: Canvas, tissue: dict[str, float], y: float) -> None:
    for side in (-1, 1):
        canvas.paint(canvas.ellipse(side * 0.15, y + 0.13, 0.10, 0.035, angle=side * 0.3), tissue["bone"])
    canvas.paint(canvas.ellipse(0, y + 0.15, 0.10, 0.09), tissue["bone"])
    canvas.paint(canvas.ellipse(0, y, 0.135, 0.105), tissue["bone"])
    canvas.paint(canvas.ellipse(0, y, 0.105, 0.08), tissue["marrow"])
    canvas.paint(canvas.ellipse(0, y + 0.135, 0.055, 0.045), tissue["canal"])


def _draw_vessels(canvas: Canvas, lungs: Array, value: float, count: int = 22) -> None:
    side = canvas.chance.choice((-1.0, 1.0), count)
    away = canvas.chance.uniform(0.16, 0.62, count)
    along = canvas.chance.uniform(-0.42, 0.42, count)
    canvas.dots(lungs, value, [(float(s * a), float(y), float(0.035 - 0.035 * a))
                               for s, a, y in zip(side, away, along, strict=True)])


def _draw_film_ribs(canvas: Canvas) -> None:
    start = float(canvas.chance.uniform(-0.04, 0.04))
    away = abs(canvas.x)
    cage = canvas.cover(0.12 - away, 2) * canvas.cover(away - 0.50 - 0.34 * (canvas.y + 0.9).clip(0, 1) ** 0.5, 2)
    for number in range(7):
        line = canvas.y + 0.80 + start - 0.19 * number - 0.42 * (away - 0.1) ** 2
        canvas.add(cage * canvas.stripe(line, 0.055, 2), 15)


def _draw_film_spine(canvas: Canvas, count: int, amount: float) -> None:
    for number in range(count):
        y = -0.95 + 1.9 * number / (count - 1)
        canvas.add(canvas.box(0, y, 0.10, 0.085, 2), amount)

"""A case as a picture: anatomy, then what was found, then the looks of the modality."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medvqa_cli.data.phantoms import anatomy
from medvqa_cli.data.phantoms.canvas import Canvas
from medvqa_cli.data.phantoms.cases import BODY_SPAN

if TYPE_CHECKING:
    from PIL.Image import Image

    from medvqa_cli.data.phantoms.canvas import Array
    from medvqa_cli.data.phantoms.cases import Case, Finding

# (modality, organ) -> grey value of the tissue, and of a lesion of contrast 1 in it.
LESIONS = {
    ("CT", "lung"): (26, 250), ("CT", "liver"): (138, 250), ("CT", "stomach"): (104, 250), ("CT", "kidney"): (158, 250),
    ("CT", "brain"): (102, 250), ("MRI", "lung"): (12, 250), ("MRI", "liver"): (104, 250),
    ("MRI", "stomach"): (92, 250), ("MRI", "kidney"): (118, 250), ("MRI", "brain"): (120, 250),
    ("X-Ray", "lung"): (70, 250), ("X-Ray", "liver"): (138, 250), ("X-Ray", "stomach"): (104, 250),
    ("X-Ray", "kidney"): (134, 250), ("X-Ray", "skull"): (122, 250),
}


def draw_picture(case: Case, size: int) -> Image:
    """Return the grey picture of a case, `size` x `size` pixels."""
    from PIL import Image

    canvas = Canvas(size, case.centre, BODY_SPAN * case.scale, case.seed)
    _draw_anatomy(canvas, case)
    canvas.values -= (canvas.values - 140).clip(0, None) * 0.5
    for finding in case.findings:
        _draw_finding(canvas, finding, *LESIONS[case.modality, case.find_organ(finding)],
                      is_hazy=case.kind == "ambiguous")
    {"CT": _finish_ct, "MRI": _finish_mri, "X-Ray": _finish_film}[case.modality](canvas)
    return Image.fromarray(canvas.values.round().clip(0, 250).astype("uint8"))


def _draw_anatomy(canvas: Canvas, case: Case) -> None:
    if case.modality == "X-Ray":
        films = {"chest": anatomy.draw_chest_film, "abdomen": anatomy.draw_abdomen_film, "head": anatomy.draw_head_film}
        films[case.region](canvas)
    else:
        slices = {"chest": anatomy.draw_chest_slice, "abdomen": anatomy.draw_abdomen_slice,
                  "head": anatomy.draw_head_slice}
        slices[case.region](canvas, case.modality)


def _draw_finding(canvas: Canvas, finding: Finding, tissue: float, bright: float, *, is_hazy: bool) -> None:
    """Draw a lesion with an edge, or a smudge that fades out; its grey value depends on its contrast alone."""
    across, along = canvas.picture_x - finding.x, canvas.picture_y - finding.y
    level: Array = (across ** 2 + along ** 2) / finding.radius ** 2
    if is_hazy:
        mask = (1.0 - level).clip(0.0, 1.0) ** 0.5
    else:
        mask = ((1.0 - level ** 0.5) * finding.radius * canvas.size / 1.6).clip(0.0, 1.0)
    canvas.paint(mask, tissue + finding.contrast * (bright - tissue))


def _finish_ct(canvas: Canvas) -> None:
    grain = canvas.grain(7.0)
    canvas.values += (grain + _shift(grain)) / 2


def _finish_mri(canvas: Canvas) -> None:
    """Shading of the receiving coil, and noise that never falls below zero (Rician)."""
    lean = canvas.chance.uniform(-0.10, 0.10, 2)
    canvas.values *= 1.0 + lean[0] * canvas.x + lean[1] * canvas.y
    canvas.values = ((canvas.values + canvas.grain(4.0)) ** 2 + canvas.grain(4.0) ** 2) ** 0.5


def _finish_film(canvas: Canvas) -> None:
    """Scatter: a slow gradient over the film, and noise that grows with darkness."""
    lean = canvas.chance.uniform(-8.0, 8.0, 2)
    canvas.values += lean[0] * canvas.x + lean[1] * canvas.y + canvas.grain(3.5)


def _shift(values: Array) -> Array:
    """Return values moved by a pixel along both axes, around the edge."""
    import numpy as np

    moved: Array = np.roll(values, (1, 1), (0, 1))
    return moved

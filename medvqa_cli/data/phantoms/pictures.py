"""A case as a picture: anatomy, then what was found, then the looks of the modality."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medvqa_cli.data.phantoms import anatomy
from medvqa_cli.data.phantoms.canvas import Canvas

if TYPE_CHECKING:
    from PIL.Image import Image

    from medvqa_cli.data.phantoms.cases import Case, Finding

# Anatomy brighter than this is dimmed by half: nothing but a lesion is white, as if it had taken up contrast agent.
BRIGHTEST_SOFT_TISSUE = 140
LESION_GREY = 250
# Grey value of the tissue that a lesion or smudge replaces.
ORGAN_GREYS = {
    "CT": {"lung": 26, "liver": 138, "stomach": 104, "kidney": 149, "brain": 102},
    "MRI": {"lung": 12, "liver": 104, "stomach": 92, "kidney": 118, "brain": 112},
    "X-Ray": {"lung": 68, "liver": 136, "stomach": 104, "kidney": 132, "skull": 122},
}


def draw_picture(case: Case, size: int) -> Image:
    """Return the grey picture of a case, `size` x `size` pixels."""
    from PIL import Image

    canvas = Canvas(size, case.body, case.seed)
    anatomy.draw(canvas, case.modality, case.region)
    canvas.values *= 1.0 + canvas.cloud(12, 0.02)
    canvas.values -= (canvas.values - BRIGHTEST_SOFT_TISSUE).clip(0.0) / 2
    for finding in case.findings:
        draw_finding(canvas, finding, ORGAN_GREYS[case.modality][case.find_organ(finding)],
                     is_hazy=case.kind == "ambiguous")
    {"CT": _finish_slice, "MRI": _finish_resonance, "X-Ray": _finish_film}[case.modality](canvas)
    return Image.fromarray(canvas.values.round().clip(0, 255).astype("uint8"))


def draw_finding(canvas: Canvas, finding: Finding, tissue: float, *, is_hazy: bool) -> None:
    """Draw a lesion with an edge, or a smudge that fades out; its grey value depends on its contrast alone.

    The outline is uneven but never leaves the circle of the finding's radius, so the finding's box holds all of it.
    """
    across, along = canvas.picture_x - finding.x, canvas.picture_y - finding.y
    reach = (across ** 2 + along ** 2) ** 0.5 / finding.radius * (1.08 + canvas.cloud(9, 0.09)).clip(1.0)
    width = finding.radius / 2 if is_hazy else 1.6 / canvas.size
    mask = ((1.0 - reach) * finding.radius / width).clip(0.0, 1.0)
    depth = 1.0 if is_hazy else 1.0 - 0.10 * (reach ** 2).clip(0.0, 1.0)
    canvas.paint(mask, tissue + finding.contrast * depth * (LESION_GREY - tissue))


def _finish_slice(canvas: Canvas) -> None:
    """Noise with a grain of two pixels, from the reconstruction."""
    canvas.values += canvas.blur(canvas.grain(9.0))


def _finish_resonance(canvas: Canvas) -> None:
    """Shading by the receiving coil, and noise that never falls below zero (Rician)."""
    lean = canvas.chance.uniform(-0.06, 0.06, 2)
    canvas.values *= 1.0 + lean[0] * canvas.x + lean[1] * canvas.y
    canvas.values = ((canvas.values + canvas.grain(4.0)) ** 2 + canvas.grain(4.0) ** 2) ** 0.5


def _finish_film(canvas: Canvas) -> None:
    """Uneven exposure, and the noise of single pixels."""
    lean = canvas.chance.uniform(-6.0, 6.0, 2)
    canvas.values += lean[0] * canvas.x + lean[1] * canvas.y + canvas.grain(3.5)

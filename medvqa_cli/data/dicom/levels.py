"""Grey levels of any depth to 8 bits a pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def stretch_levels(levels: NDArray[np.generic], ignored: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Map grey levels linearly from [darkest, brightest] to [0, 255]; a picture of one shade becomes black.

    Args:
        levels: Of any shape and type; what is not finite counts as 0.
        ignored: Pixels whose levels do not decide what is darkest and brightest; they are clipped.
    """
    import numpy as np

    values = np.nan_to_num(levels.astype(np.float64), posinf=0.0, neginf=0.0)
    counted = values if ignored is None or ignored.all() else values[~ignored]
    darkest, brightest = counted.min(), counted.max()
    scale = 1.0 / (brightest - darkest) if brightest > darkest else 0.0
    return to_bytes((values - darkest) * scale)


def apply_window(levels: NDArray[np.float64], center: float, width: float,
                 function: str = "LINEAR") -> NDArray[np.uint8]:
    """Map the grey levels inside a window to [0, 255], those below it to 0 and those above it to 255.

    The formulas are those of DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3.

    Args:
        levels: Grey levels after the modality transformation (Hounsfield units, for CT).
        center: Middle of the window.
        width: Its width, at least 1 (LINEAR) or above 0.
        function: LINEAR, LINEAR_EXACT or SIGMOID.
    """
    import numpy as np

    if function == "SIGMOID":
        return to_bytes(1.0 / (1.0 + np.exp(np.clip(-4.0 * (levels - center) / width, -700.0, 700.0))))
    if function == "LINEAR_EXACT":
        return to_bytes((levels - center) / width + 0.5)
    if width <= 1:
        return to_bytes((levels > center - 0.5).astype(np.float64))
    return to_bytes((levels - (center - 0.5)) / (width - 1) + 0.5)


def to_bytes(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return shares of full brightness, clipped to [0, 1], as whole numbers from 0 to 255."""
    import numpy as np

    return (np.clip(shares, 0.0, 1.0) * 255.0).round().astype(np.uint8)

"""Mask files: class maps, the labels of their classes, and where masks lie that a data set's reader does not name.

A class map is grey: its values are classes, 0 the background. It may be stored as grey (1, 8 or 16 bits), as RGB or
RGBA with three equal channels (transparency is ignored), or with a palette (its indices are the classes). A picture
with colours is refused: SLAKE's annotated X-rays are such pictures, with boxes and diagnoses drawn on them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.data.images import DECODING_ERRORS, check_image
from medvqa_cli.data.masking.regions import ClassMap
from medvqa_cli.data.reading import quote, read_text
from medvqa_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from PIL import Image

LABEL_FILE = "mask.txt"
LEVELS = 4
"""How many folders above a mask are searched for its labels: root/imgs/imgs/xmlab0/mask.png is SLAKE's deepest."""
FOLDERS = ("mask", "masks", "seg")


class MaskFiles:
    """Reads class maps; a label file is read once."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._names: dict[Path, dict[int, str]] = {}

    def read(self, path: Path) -> ClassMap:
        """Return a class map with the labels that `find_labels` finds.

        Raises:
            DataError: If the file is missing, broken, too large or not grey, or its label file is wrong.
        """
        import numpy as np

        values = read_class_map(path, self._max_pixels)
        numbers = np.flatnonzero(np.bincount(values.ravel())).tolist()
        return ClassMap(values, self._read_names(path), tuple(number for number in numbers if number))

    def _read_names(self, mask: Path) -> dict[int, str]:
        path = find_labels(mask)
        if path is None:
            return {}
        if path not in self._names:
            self._names[path] = read_labels(path)
        return self._names[path]


def read_class_map(path: Path, max_pixels: int) -> Any:
    """Return a class map as an unsigned integer array [height, width].

    Raises:
        DataError: If the file is missing, no picture, broken, too large, a JPEG or DICOM, or not grey.
    """
    import numpy as np
    from PIL import Image

    kind = check_image(path, max_pixels)
    if kind == "DICOM":
        raise DataError(f"The mask '{path}' is a DICOM file.", "Convert it to a grey PNG.")
    if kind == "JPEG":
        raise DataError(f"The mask '{path}' is a JPEG: its compression changes values, which are classes.",
                        "Convert it to a grey PNG, with a threshold that removes the noise around each shape.")
    try:
        with Image.open(path) as image:
            values = _take_grey(image, path)
    except DECODING_ERRORS as error:
        raise DataError(f"The mask '{path}' is broken: {error}.", "Extract it again.") from error
    return values.astype(np.uint16 if values.dtype.itemsize > 1 else np.uint8)


def _take_grey(image: Image.Image, path: Path) -> Any:
    import numpy as np

    values = np.asarray(image)
    if image.mode in ("1", "L", "P") or image.mode.startswith("I;16"):
        return values
    if image.mode in ("LA", "PA"):
        return values[..., 0]
    if image.mode == "I" and values.min() >= 0 and values.max() < 1 << 16:
        return values
    if image.mode in ("RGB", "RGBA"):
        red, green, blue = (values[..., channel] for channel in range(3))
        if np.array_equal(red, green) and np.array_equal(green, blue):
            return red
        raise DataError(f"The mask '{path}' has colours: it is no class map, but a picture with annotations on it.",
                        "A mask is grey: its values are classes, 0 the background. Remove the file, or convert it.")
    raise DataError(f"The mask '{path}' is of the kind '{image.mode}': its values are no classes.",
                    "A mask is grey, of 1, 8 or 16 bits: its values are classes, 0 the background.")


def find_labels(mask: Path) -> Path | None:
    """Return the label file of a mask: mask.txt in its folder, or the nearest of the folders above it."""
    candidates = (folder / LABEL_FILE for folder in list(mask.parents)[:LEVELS])
    return next((path for path in candidates if path.is_file()), None)


def read_labels(path: Path) -> dict[int, str]:
    """Return the label of each class: lines "number:label"; empty lines are passed over.

    Raises:
        DataError: If the file is unreadable, a line is anything else, or a number stands twice.
    """
    names: dict[int, str] = {}
    for place, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        number, _, label = (part.strip() for part in line.partition(":"))
        if not (number.isascii() and number.isdigit() and label):
            raise DataError(f"{path}, line {place}: expected 'number:label', found {quote(line)}.")
        if int(number) in names:
            raise DataError(f"{path}, line {place}: class {number} stands twice.")
        names[int(number)] = label
    return names


def find_mask(image: Path) -> Path | None:
    """Return the mask of a picture whose sample names none.

    Searched are the folders mask, masks and seg in the picture's folder and beside it for STEM_mask.png and STEM.png,
    and the picture's own folder for STEM_mask.png.
    """
    return next((path for path in _list_places(image) if path != image and path.is_file()), None)


def _list_places(image: Path) -> Iterator[Path]:
    for folder in (image.parent, image.parent.parent):
        for name in FOLDERS:
            yield folder / name / f"{image.stem}_mask.png"
            yield folder / name / f"{image.stem}.png"
    yield image.with_name(f"{image.stem}_mask.png")

"""Which path stands for a picture in an exported file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from medvqa_cli.data.files.fields import stays_inside
from medvqa_cli.data.images import measure_image
from medvqa_cli.data.prepared.image_copies import look_at_image
from medvqa_cli.data.prepared.rows import list_pictures
from medvqa_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from medvqa_cli.records import VQASample

IMAGE_FOLDER = "images"


def find_common_folder(samples: Iterable[VQASample]) -> Path | None:
    """Return the deepest folder that all pictures lie below; None if there is no picture, or only the top of a drive.

    Relative to the top of a drive a path would tell as much about this machine as an absolute one.
    """
    folders = {os.path.dirname(path) for sample in samples for path in list_pictures(sample)}  # noqa: PTH120 - fast
    try:
        common = Path(os.path.commonpath(folders))
    except ValueError:  # none, or two drives
        return None
    return None if common == Path(common.anchor) else common


class PictureNames:
    """Gives every picture the path that is written for it.

    Args:
        root: Folder that paths start from; pictures outside keep their absolute path. Not used for copies.
        copies: Folder to copy the pictures to, below `images/`; None writes no copy.
        max_pixels: Pictures with more pixels than this are refused, where they are looked at.
    """

    def __init__(self, root: Path | None, copies: Path | None, max_pixels: int) -> None:
        self.num_outside = 0
        self._root, self._copies, self._max_pixels = root, copies, max_pixels
        self._names: dict[str, str] = {}
        self._sizes: dict[str, tuple[int, int]] = {}

    @property
    def num_pictures(self) -> int:
        """Number of distinct pictures named so far."""
        return len(self._names)

    def name(self, path: str) -> str:
        """Return the path to write for a picture, with "/" between its parts; a copy is made once.

        A copy is named after its content, and DICOM becomes PNG: neither folders nor headers leave this machine.

        Raises:
            DataError: If a picture to be copied is missing or unreadable.
        """
        if path not in self._names:
            self._names[path] = self._refer(path) if self._copies is None else self._copy(path, self._copies)
        return self._names[path]

    def measure(self, path: str) -> tuple[int, int]:
        """Return a picture's width and height in pixels.

        Raises:
            DataError: If it is missing or unreadable.
        """
        if path not in self._sizes:
            self._sizes[path] = measure_image(path, self._max_pixels)
        return self._sizes[path]

    def _refer(self, path: str) -> str:
        if self._root is not None:
            for file, root in ((Path(path), self._root), (Path(path).resolve(), self._root.resolve())):
                relative = file.relative_to(root).as_posix() if file.is_relative_to(root) else ""
                if stays_inside(relative):
                    return relative
        self.num_outside += 1
        return path

    def _copy(self, path: str, folder: Path) -> str:
        fault, name = look_at_image(path, self._max_pixels, folder / IMAGE_FOLDER)
        if fault:
            raise DataError(fault, "Extract the images again, or leave their questions out with --missing-images skip.")
        return f"{IMAGE_FOLDER}/{name}"

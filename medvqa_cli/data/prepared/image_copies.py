"""One look at an image: whether it can be used, and its copy, if one is wanted.

Copies are named after their content: `<2 hex digits>/<sha256>.<suffix>`, so that the same image is there once.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from pathlib import Path

from medvqa_cli.data.images import check_image, read_image
from medvqa_cli.errors import DataError

SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "BMP": ".bmp", "GIF": ".gif", "WEBP": ".webp"}
BLOCK_BYTES = 2**20
Look = tuple[str, str]
"""What is wrong with an image (empty: nothing), and the name of its copy (empty: none)."""


def look_at_image(path: str, max_pixels: int, copies: Path | None = None) -> Look:
    """Check an image, and copy it if it is all right.

    A DICOM file is copied as a PNG of what it shows: its header may hold names.

    Args:
        path: The image.
        max_pixels: Images with more pixels cannot be used.
        copies: Folder of the copies; none are made without it.

    Raises:
        MissingDependencyError: If it is DICOM and what reads it is not installed.
        OSError: If the copy cannot be written.
    """
    try:
        kind = check_image(path, max_pixels)
        if copies is None:
            return "", ""
        if kind == "DICOM":
            stream = io.BytesIO()
            read_image(path, max_pixels).save(stream, "PNG")
            return "", _copy(stream, copies, ".png")
    except DataError as error:
        return error.message, ""
    with Path(path).open("rb") as file:
        return "", _copy(file, copies, SUFFIXES[kind])


def _copy(stream: io.BufferedIOBase, copies: Path, suffix: str) -> str:
    """Write a stream's bytes below a folder under their own hash, whole or not at all, and return that name."""
    copies.mkdir(parents=True, exist_ok=True)
    part = copies / f"{os.getpid()}.part"
    digest = hashlib.sha256()
    stream.seek(0)
    with part.open("wb") as target:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
            target.write(block)
    name = digest.hexdigest()
    place = copies / name[:2] / (name + suffix)
    place.parent.mkdir(exist_ok=True)
    part.replace(place)
    return f"{name[:2]}/{name}{suffix}"


def remove_unused(copies: Path, used: set[str]) -> None:
    """Remove the copies whose names are not in use, and what a killed process left half written."""
    if not used:
        shutil.rmtree(copies, ignore_errors=True)
        return
    for file in [path for path in copies.rglob("*") if path.is_file()]:
        if file.relative_to(copies).as_posix() not in used:
            file.unlink()

"""The one safe way from a file to an RGB picture: everything that opens an image goes through here."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from medvqa_cli.data.dicom.file import DicomFile, is_dicom
from medvqa_cli.data.dicom.levels import stretch_levels
from medvqa_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")
MAX_PIXELS = 64_000_000
MAX_BYTES = 2**30
"""Larger files are refused unread."""
TAIL_BYTES = 65_536
"""How far from its end a JPEG's end marker is looked for: some devices put data of their own behind it."""
WHITE = (255, 255, 255)
EXIF_ORIENTATION = 0x0112
EXIF_TURNED = (5, 6, 7, 8)
"""Orientations that swap width and height."""
JPEG_KINDS = ("JPEG", "MPO")
DECODING_ERRORS = (OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error,
                   zlib.error)
"""What Pillow raises on broken files, beyond its documented UnidentifiedImageError (an OSError)."""


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS, *, window: tuple[float, float] | None = None,
               frame: int = 0) -> Image.Image:
    """Return a picture file as an upright RGB picture, 8 bits a channel.

    EXIF orientation is applied; transparency is laid on white; grey of more than 8 bits (16-bit or float) is stretched
    so that its darkest pixel becomes 0 and its brightest 255; of an animation or a multi-page file the first is taken.
    How DICOM is shown is described in `medvqa_cli.data.dicom.file`.

    Args:
        path: A PNG, JPEG, TIFF, BMP, GIF, WebP or DICOM file; what it is is read from its content, not from its name
            (but DICOM without the mark DICM is known by its suffix).
        max_pixels: A picture with more pixels than this is refused before it is decoded.
        window: Center and width of the grey levels to show, in units after the modality transformation (Hounsfield
            units, for CT), width at least 1; for DICOM in grey only. The file's own window if None.
        frame: Which frame of a DICOM file, from 0.

    Raises:
        DataError: If the file is missing, no picture, broken, cut off, too large, or has no such frame.
        MissingDependencyError: If it is DICOM and what reads it is not installed.
        ValueError: If the window's width is below 1.
    """
    from PIL import Image, ImageOps

    if window is not None and not window[1] >= 1:
        raise ValueError(f"the width of a window is at least 1, not {window[1]}")
    with _explain_faults(path), _open_file(path) as stream:
        if is_dicom(stream, path):
            levels = _open_dicom(stream, path, max_pixels).decode(window, frame)
            return Image.fromarray(levels).convert("RGB")
        with _open(stream, path, max_pixels) as image:
            return _to_rgb(ImageOps.exif_transpose(image))


def check_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> str:
    """Check as cheaply as the format allows that a file is a whole picture of a bearable size.

    PNG: its header and checksums. JPEG: its header and end marker. DICOM: its header, and that all pixels are there and
    can be decoded. Other formats are decoded.

    Returns:
        The format: one of `FORMATS`, or DICOM.

    Raises:
        DataError: As `read_image`.
        MissingDependencyError: As `read_image`.
    """
    with _explain_faults(path), _open_file(path) as stream:
        if is_dicom(stream, path):
            _open_dicom(stream, path, max_pixels).check()
            return "DICOM"
        with _open(stream, path, max_pixels) as image:
            kind = str(image.format)
            if kind == "PNG":
                image.verify()
            elif kind not in JPEG_KINDS or not _has_end(stream):
                image.load()
            return "JPEG" if kind in JPEG_KINDS else kind


def measure_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return width and height in pixels of a picture as `read_image` shows it, decoding it only where that is needed.

    Raises:
        DataError: As `read_image`.
        MissingDependencyError: As `read_image`.
    """
    with _explain_faults(path), _open_file(path) as stream:
        if is_dicom(stream, path):
            file = _open_dicom(stream, path, max_pixels)
            return file.width, file.height
        with _open(stream, path, max_pixels) as image:
            is_turned = image.getexif().get(EXIF_ORIENTATION) in EXIF_TURNED
            return (image.height, image.width) if is_turned else (image.width, image.height)


def warn_burned_in(path: str | Path) -> str:
    """Return a warning if a DICOM file may show text in its pixels, such as a name; an empty text if not.

    It warns where the header says so (BurnedInAnnotation YES), and for ultrasound whose header does not deny it. Other
    formats have no such header.

    Raises:
        DataError: If the file is missing, or broken DICOM.
        MissingDependencyError: If it is DICOM and pydicom is not installed.
    """
    with _explain_faults(path), _open_file(path) as stream:
        if not is_dicom(stream, path):
            return ""
        file = DicomFile(stream, path)
        if file.is_labelled:
            return f"'{path}' says that text is burned into its pixels: look whether it shows names."
        if file.is_ultrasound and file.is_labelled is None:
            return f"'{path}' is ultrasound that does not deny burned-in text: look whether it shows names."
        return ""


def make_thumbnail(path: str | Path, size: int, max_pixels: int = MAX_PIXELS) -> bytes:
    """Return a picture as JPEG bytes, its longer side at most `size` pixels.

    Raises:
        DataError: As `read_image`.
    """
    image = read_image(path, max_pixels)
    image.thumbnail((size, size))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def hash_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> str:
    """Return a hash of what a picture shows: equal for equal pixels, whatever the file's name, format or metadata.

    Raises:
        DataError: As `read_image`.
    """
    image = read_image(path, max_pixels)
    return hashlib.sha256(f"{image.width}x{image.height}".encode() + image.tobytes()).hexdigest()


@contextlib.contextmanager
def _explain_faults(path: str | Path) -> Iterator[None]:
    """Turn what Pillow raises on a bad file into one clear error."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"The image '{path}' is missing.",
                        "Extract the images again, or leave their questions out with --missing-images skip.") from error
    except IsADirectoryError as error:
        raise DataError(f"The image '{path}' is a folder.") from error
    except PermissionError as error:
        raise DataError(f"The image '{path}' cannot be read: permission denied.") from error
    except UnidentifiedImageError as error:
        raise DataError(f"The file '{path}' is not an image of a known kind ({', '.join(FORMATS)}, DICOM).") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"The image '{path}' is too large to decode safely.",
                        "Make it smaller, or raise data.max_pixels.") from error
    except DECODING_ERRORS as error:
        raise DataError(f"The image '{path}' is broken: {error}.",
                        "Extract the images again, or leave their questions out with --missing-images skip.") from error


def _open_file(path: str | Path) -> BinaryIO:
    """Open a regular file of a bearable size: reading a pipe or a device might never end."""
    file = Path(path)
    facts = file.stat()
    if not stat.S_ISREG(facts.st_mode) and not stat.S_ISDIR(facts.st_mode):
        raise DataError(f"The image '{path}' is no regular file.")
    if facts.st_size > MAX_BYTES:
        raise DataError(f"The image '{path}' has {facts.st_size:,} bytes; at most {MAX_BYTES:,} are allowed.",
                        "Make it smaller.")
    return file.open("rb")


def _open(stream: BinaryIO, path: str | Path, max_pixels: int) -> Image.Image:
    """Open a file without decoding it."""
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None:  # ours is the limit that counts
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(stream, formats=FORMATS)
    _check_size(path, image.width, image.height, max_pixels)
    return image


def _open_dicom(stream: BinaryIO, path: str | Path, max_pixels: int) -> DicomFile:
    file = DicomFile(stream, path)
    _check_size(path, file.width, file.height, max_pixels)
    return file


def _check_size(path: str | Path, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise DataError(f"The image '{path}' has {width} x {height} pixels; at most {max_pixels:,} are allowed.",
                        "Make it smaller, or raise data.max_pixels.")


def _has_end(stream: BinaryIO) -> bool:
    """Tell whether a JPEG's last part ends: what stands last is no start of a scan but an end marker.

    Neither marker can stand in between the pixels (ISO/IEC 10918-1 B.1.1.5).
    """
    stream.seek(-min(TAIL_BYTES, stream.seek(0, os.SEEK_END)), os.SEEK_END)
    tail = stream.read()
    return tail.rfind(b"\xff\xd9") > tail.rfind(b"\xff\xda")


def _to_rgb(image: Image.Image) -> Image.Image:
    import numpy as np
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        return Image.fromarray(stretch_levels(np.asarray(image))).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layered = image.convert("RGBA")
    white = Image.new("RGBA", layered.size, (*WHITE, 255))
    return Image.alpha_composite(white, layered).convert("RGB")

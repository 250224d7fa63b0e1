"""The one safe way from a file to an RGB picture: everything that opens an image goes through here."""

from __future__ import annotations

import contextlib
import hashlib
import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from medvqa_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")
MAX_PIXELS = 64_000_000
WHITE = (255, 255, 255)
DECODING_ERRORS = (OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error,
                   zlib.error)
"""What Pillow raises on broken files, beyond its documented UnidentifiedImageError (an OSError)."""


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return a picture file as an upright RGB picture, 8 bits a channel.

    EXIF orientation is applied; transparency is laid on white; grey of more than 8 bits (16-bit or float) is stretched
    so that its darkest pixel becomes 0 and its brightest 255; of an animation or a multi-page file the first is taken.

    Args:
        path: A PNG, JPEG, TIFF, BMP, GIF or WebP file; what it is is read from its content, not from its name.
        max_pixels: A picture with more pixels than this is refused before it is decoded.

    Raises:
        DataError: If the file is missing, no picture, broken, cut off, too large, or DICOM.
    """
    from PIL import ImageOps

    with _explain_faults(path), _open(path, max_pixels) as image:
        return _to_rgb(ImageOps.exif_transpose(image))


def check_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> None:
    """Check cheaply that a file is a picture of a bearable size: its header, and checksums where the format has them.

    A JPEG that is cut off after its header passes; `read_image` finds it.

    Raises:
        DataError: As `read_image`.
    """
    with _explain_faults(path), _open(path, max_pixels) as image:
        image.verify()


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
        if _is_dicom(Path(path)):
            raise DataError(f"'{path}' is a DICOM file, which medvqa cannot read yet.",
                            "Convert it to PNG; DICOM support will come with the extra 'dicom'.") from error
        raise DataError(f"The file '{path}' is not an image of a known kind ({', '.join(FORMATS)}).") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"The image '{path}' is too large to decode safely.",
                        "Make it smaller, or raise data.max_pixels.") from error
    except DECODING_ERRORS as error:
        raise DataError(f"The image '{path}' is broken: {error}.",
                        "Extract the images again, or leave their questions out with --missing-images skip.") from error


def _open(path: str | Path, max_pixels: int) -> Image.Image:
    """Open a file without decoding it."""
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None:  # ours is the limit that counts
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(path, formats=FORMATS)
    if image.width * image.height > max_pixels:
        image.close()
        raise DataError(f"The image '{path}' has {image.width} x {image.height} pixels; at most {max_pixels:,} are "
                        "allowed.", "Make it smaller, or raise data.max_pixels.")
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        return _stretch_grey(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    layered = image.convert("RGBA")
    white = Image.new("RGBA", layered.size, (*WHITE, 255))
    return Image.alpha_composite(white, layered).convert("RGB")


def _stretch_grey(image: Image.Image) -> Image.Image:
    """Map deep grey linearly from [darkest, brightest] to [0, 255]; a picture of one shade becomes black."""
    import numpy as np
    from PIL import Image

    levels = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    darkest, brightest = levels.min(), levels.max()
    scaled = (levels - darkest) * (255.0 / (brightest - darkest)) if brightest > darkest else np.zeros_like(levels)
    return Image.fromarray(scaled.round().astype(np.uint8)).convert("RGB")


def _is_dicom(path: Path) -> bool:
    """Tell whether a file says it is DICOM: by its mark after 128 bytes, or by its name."""
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM" or path.suffix.lower() in {".dcm", ".dicom"}

"""DICOM files as pictures of 8 bits a channel.

Only the elements that say how pixels are to be shown are read; names, dates and identifiers are passed over, and no
text of a header gets into a result or an error. Grey levels go through the modality transformation (rescale or table),
then through the window asked for, else the file's first window, else its table of values of interest, else they are
stretched from the darkest to the brightest; padding pixels do not count there. MONOCHROME1 is inverted. Overlays,
display shutters and ICC profiles are not applied.
"""

from __future__ import annotations

import contextlib
import logging
import struct
import warnings
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

from medvqa_cli.data.dicom.levels import apply_window, stretch_levels, to_bytes
from medvqa_cli.data.dicom.stream import find_codestream_size, inflate_stream, measure_pixels, read_header
from medvqa_cli.errors import DataError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

SUFFIXES = {".dcm", ".dicom"}
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
KINDS = (*GREY, "PALETTE COLOR", *COLOURS)
DECODERS = ("pylibjpeg", "pyjpegls", "pillow", "pydicom")
"""Plugins of pydicom, in the order tried. GDCM is left out: damaged files crash the process in it."""
PACKAGES = {"1.2.840.10008.1.2.4.90": "pylibjpeg-openjpeg", "1.2.840.10008.1.2.4.91": "pylibjpeg-openjpeg"}
FAULTS = (OSError, EOFError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError,
          RuntimeError, MemoryError, struct.error, zlib.error)
"""What pydicom and its decoders raise on broken files, beyond its own two kinds."""


class DicomFile:
    """One DICOM file, its header read.

    Attributes:
        width: Columns of a frame.
        height: Rows of a frame.
        num_frames: Frames of the file, at least 1.
        is_labelled: Whether the header says that text is burned into the pixels; None if it does not say.
        is_ultrasound: Whether it is an ultrasound picture.

    Args:
        stream: The file, opened for reading; it stays the caller's.
        path: Its name, for errors.

    Raises:
        DataError: If the file is broken or cut off, or holds no picture, or one of an unknown kind.
        MissingDependencyError: If pydicom is not installed, or what its compression needs.
    """

    def __init__(self, stream: BinaryIO, path: str | Path) -> None:
        _import_pydicom()
        self._path = path
        with self._explain_faults():
            self._stream = inflate_stream(stream)
            self._header, self._syntax = read_header(self._stream)
            self._place = self._stream.tell()
            self._read_facts()

    def _read_facts(self) -> None:
        header = self._header
        label = header.get("BurnedInAnnotation")
        self.is_labelled = {"YES": True, "NO": False}.get(label) if isinstance(label, str) else None
        self.is_ultrasound = header.get("Modality") in ("US", "IVUS")
        if not self._stream.read(4) or "Rows" not in header:
            raise DataError(f"The DICOM file '{self._path}' holds no picture.", "Leave it out of the data set.")
        self.width, self.height = int(header.Columns), int(header.Rows)
        self.num_frames = int(header.get("NumberOfFrames") or 1)
        self._kind = header.PhotometricInterpretation
        if self._kind not in KINDS or min(self.width, self.height, self.num_frames) < 1:
            raise DataError(f"The DICOM file '{self._path}' holds no picture of a known kind ({', '.join(KINDS)}).")

    def check(self) -> None:
        """Check without decoding that the pixels are all there and that what decodes them is installed.

        Raises:
            DataError: If the file is cut off, or compressed in a way pydicom does not know (such as video).
            MissingDependencyError: If the package that decodes its compression is not installed.
        """
        self._find_decoders()
        with self._explain_faults():
            measure_pixels(self._stream, self._place, self._header, self._syntax, self.num_frames)

    def decode(self, window: tuple[float, float] | None = None, frame: int = 0) -> NDArray[np.uint8]:
        """Return one frame as it is to be shown.

        Args:
            window: Center and width, in units after the modality transformation, for grey pictures; the file's own
                way of showing them if None.
            frame: Which frame, from 0.

        Returns:
            Of shape [rows, columns] if grey, else [rows, columns, 3].

        Raises:
            DataError: If there is no such frame, or its pixels are broken.
            MissingDependencyError: As `check`.
        """
        if not 0 <= frame < self.num_frames:
            raise DataError(f"The DICOM file '{self._path}' has {self.num_frames} frames: there is no frame {frame}.",
                            f"Frames count from 0 to {self.num_frames - 1}.")
        self.check()
        with self._explain_faults():
            levels = self._read_levels(frame)
            if self._kind in GREY:
                grey = self._show_grey(levels, window, frame)
                return 255 - grey if self._kind == "MONOCHROME1" else grey
            return _show_colours(levels, self._header, self._kind)

    def _read_levels(self, frame: int) -> NDArray[Any]:
        """Return a frame's stored values; colours as RGB, unless they are of a palette."""
        from pydicom.pixels import pixel_array

        size = find_codestream_size(self._stream, self._place, self._syntax, frame, self.num_frames)
        if size not in (None, (self.width, self.height)):
            raise ValueError("the compressed picture is of another size than its header")
        failure: Exception | None = None
        for decoder in self._find_decoders():
            try:
                levels = pixel_array(self._stream, index=frame, transfer_syntax_uid=self._syntax,
                                     decoding_plugin=decoder)
            except FAULTS as error:
                failure = error
            else:
                return _check_shape(levels, self.height, self.width)
        raise ValueError from failure

    def _find_decoders(self) -> list[str]:
        """Return the plugins that can decode this file; one without a name if it is not compressed."""
        from pydicom.pixels import get_decoder

        try:
            with _hush_warnings():
                decoder = get_decoder(self._syntax)
        except NotImplementedError:
            raise DataError(f"The DICOM file '{self._path}' is compressed in a way that cannot be decoded "
                            f"({_name_syntax(self._syntax)}).", "Convert it, for instance to PNG.") from None
        if not self._syntax.is_encapsulated:
            return [""]
        found = [name for name in DECODERS if name in decoder.available_plugins]
        if not found:
            raise MissingDependencyError(f"Decoding the DICOM file '{self._path}' ({_name_syntax(self._syntax)})",
                                         PACKAGES.get(self._syntax, "pylibjpeg-libjpeg"), "dicom")
        return found

    def _show_grey(self, stored: NDArray[Any], window: tuple[float, float] | None, frame: int) -> NDArray[np.uint8]:
        levels = self._apply_modality(stored, frame)
        function = "LINEAR"
        if window is None:
            window = self._find_window(frame)
            function = self._find(frame, "FrameVOILUTSequence", "VOILUTFunction") or function
        if window is not None:
            return apply_window(levels, *window, function)
        if self._header.get("VOILUTSequence"):
            return _apply_table(levels, self._header)
        return stretch_levels(levels, self._find_padding(stored))

    def _apply_modality(self, stored: NDArray[Any], frame: int) -> NDArray[np.float64]:
        import numpy as np
        from pydicom.pixels import apply_modality_lut

        if self._header.get("ModalityLUTSequence"):
            return np.asarray(apply_modality_lut(stored, self._header), dtype=np.float64)
        slope = self._find(frame, "PixelValueTransformationSequence", "RescaleSlope")
        intercept = self._find(frame, "PixelValueTransformationSequence", "RescaleIntercept")
        return stored * float(1 if slope is None else slope) + float(intercept or 0)

    def _find_window(self, frame: int) -> tuple[float, float] | None:
        """Return the file's first window; one that the standard does not allow (of no width) counts as none."""
        center = self._find(frame, "FrameVOILUTSequence", "WindowCenter")
        width = self._find(frame, "FrameVOILUTSequence", "WindowWidth")
        return None if center is None or width is None or float(width) <= 0 else (float(center), float(width))

    def _find(self, frame: int, macro: str, name: str) -> Any:
        """Return the first value of an element: of the file, else of the frame's or the shared functional group."""
        frames = self._header.get("PerFrameFunctionalGroupsSequence") or []
        groups = [*frames[frame : frame + 1], *(self._header.get("SharedFunctionalGroupsSequence") or [])[:1]]
        for place in (self._header, *(item for group in groups for item in group.get(macro) or [])):
            value = place.get(name)
            if isinstance(value, list | tuple) or type(value).__name__ == "MultiValue":
                value = value[0] if len(value) else None
            if value is not None and value != "":
                return value
        return None

    def _find_padding(self, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Return which pixels only fill up the frame (PS3.3 C.7.5.1.1.2); None if the file names no such value."""
        first = self._header.get("PixelPaddingValue")
        if first is None:
            return None
        last = self._header.get("PixelPaddingRangeLimit", first)
        low, high = sorted((first, last))
        padding: NDArray[np.bool_] = (stored >= low) & (stored <= high)
        return padding

    @contextlib.contextmanager
    def _explain_faults(self) -> Iterator[None]:
        """Turn what pydicom raises into one error; what it says is left out, for it may quote the header."""
        from pydicom.errors import BytesLengthException, InvalidDicomError

        try:
            with _hush_warnings():
                yield
        except (*FAULTS, BytesLengthException, InvalidDicomError) as error:
            raise DataError(f"The DICOM file '{self._path}' is broken or cut off ({type(error).__name__}).",
                            "Copy it again, or leave its questions out with --missing-images skip.") from None


def is_dicom(stream: BinaryIO, path: str | Path) -> bool:
    """Tell whether a file is DICOM: by its mark after 128 bytes, or, as old files have none, by its name."""
    head = stream.read(132)
    stream.seek(0)
    return head[128:] == b"DICM" or str(path).lower().endswith(tuple(SUFFIXES))


def _import_pydicom() -> None:
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("Reading DICOM files", "pydicom", "dicom") from error
    logging.getLogger("pydicom").propagate = False  # its warnings quote the header, and a log file is an output too


@contextlib.contextmanager
def _hush_warnings() -> Iterator[None]:
    """Let no warning out: pydicom's quote the header."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _name_syntax(syntax: Any) -> str:
    """Return the registered name of a transfer syntax: what the file itself holds may be any text."""
    return syntax.name if syntax.name != str(syntax) else "an unknown transfer syntax"


def _check_shape(levels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    if levels.shape not in ((height, width), (height, width, 3)):
        raise ValueError("the pixels are of another shape than the header says")
    return levels


def _apply_table(levels: NDArray[np.float64], header: Any) -> NDArray[np.uint8]:
    """Look grey levels up in the file's first table of values of interest (PS3.3 C.11.2.1.1)."""
    import numpy as np
    from pydicom.pixels import apply_voi

    bits = int(header.VOILUTSequence[0].LUTDescriptor[2])
    return to_bytes(apply_voi(levels.round().astype(np.int64), header) / (2.0**bits - 1))


def _show_colours(levels: NDArray[Any], header: Any, kind: str) -> NDArray[np.uint8]:
    """Return colours, or indices into a palette, as RGB of 8 bits a channel."""
    from pydicom.pixels import apply_color_lut

    if kind == "PALETTE COLOR":
        levels = apply_color_lut(levels, header)[..., :3]
        bits = levels.dtype.itemsize * 8
    else:
        bits = int(header.BitsStored)
    return to_bytes(levels / (2.0**bits - 1))

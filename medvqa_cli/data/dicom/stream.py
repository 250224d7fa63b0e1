"""A DICOM file's elements read and its pixels measured, before anything is decoded.

Sources: DICOM PS3.5 7.1 (elements), A.4 (compressed pixels in fragments); ISO/IEC 10918-1 B.2 (JPEG), 14495-1 C.2
(JPEG-LS) and 15444-1 A.5 (JPEG 2000) for the sizes that compressed pictures state.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, BinaryIO

MAX_INFLATED_BYTES = 2**30
"""Most bytes that the zlib stream of a deflated file may unfold to."""
ITEM, END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
NO_FRAME = {0xC4, 0xC8, 0xCC}
"""JPEG markers from C0 to CF that begin no frame: tables, extensions, arithmetic conditioning."""
TABLE = "PaletteColorLookupTable"
PALETTES = [name for colour in ("Red", "Green", "Blue")
            for name in (f"{colour}{TABLE}Descriptor", f"{colour}{TABLE}Data", f"Segmented{colour}{TABLE}Data")]
ELEMENTS = ["Modality", "BurnedInAnnotation", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration",
            "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation",
            "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
            "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "SharedFunctionalGroupsSequence",
            "PerFrameFunctionalGroupsSequence", *PALETTES]
"""What is read of a header; everything else in it is passed over."""


def inflate_stream(stream: BinaryIO) -> BinaryIO:
    """Return the file, or what a deflated one (PS3.5 A.5) holds behind its first group of elements.

    Raises:
        ValueError: If that unfolds to more than `MAX_INFLATED_BYTES`.
        zlib.error: If it cannot be unfolded.
    """
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    stream.seek(0)
    read_preamble(stream, force=True)
    meta = read_dataset(stream, is_implicit_VR=False, is_little_endian=True,
                        stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return stream
    content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read(), MAX_INFLATED_BYTES + 1)
    if len(content) > MAX_INFLATED_BYTES:
        raise ValueError("it unfolds to too many bytes")
    return io.BytesIO(content)


def read_header(stream: BinaryIO) -> tuple[Any, Any]:
    """Return the elements that matter and the transfer syntax; the stream then stands before the pixels."""
    from pydicom import dcmread, uid

    stream.seek(0)
    header = dcmread(stream, stop_before_pixels=True, force=True, specific_tags=list(ELEMENTS))
    syntax = header.file_meta.get("TransferSyntaxUID")
    if not syntax:
        is_implicit, is_little = header.original_encoding
        syntax = (uid.ImplicitVRLittleEndian if is_implicit else
                  uid.ExplicitVRLittleEndian if is_little else uid.ExplicitVRBigEndian)
        header.file_meta.TransferSyntaxUID = syntax
    return header, syntax


def measure_pixels(stream: BinaryIO, place: int, header: Any, syntax: Any, num_frames: int) -> None:
    """Check that a file's pixels are all there.

    Args:
        stream: The file.
        place: Where the element with the pixels begins.
        header: Its elements.
        syntax: Its transfer syntax.
        num_frames: How many frames it should hold.

    Raises:
        EOFError: If it ends too early.
        ValueError: If the fragments of a compressed file are no fragments.
    """
    length = _open_element(stream, place, syntax)
    if syntax.is_encapsulated:
        _walk_fragments(stream)
        return
    start = stream.tell()
    bits = header.Rows * header.Columns * num_frames * header.BitsAllocated * header.SamplesPerPixel
    needed = (bits * 2 // 3 if header.PhotometricInterpretation == "YBR_FULL_422" else bits) // 8
    if min(length, stream.seek(0, 2) - start) < needed:
        raise EOFError


def find_codestream_size(stream: BinaryIO, place: int, syntax: Any, frame: int,
                         num_frames: int) -> tuple[int, int] | None:
    """Return width and height that a compressed frame itself states: it may lie about them in the file's header.

    Returns:
        None if the frame is not compressed, or in a format that states no size (run lengths).

    Raises:
        ValueError: If the frame is none of its format.
    """
    from pydicom.encaps import get_frame
    from pydicom.uid import RLELossless

    if not syntax.is_encapsulated or syntax == RLELossless:
        return None
    _open_element(stream, place, syntax)
    content = get_frame(stream, frame, number_of_frames=num_frames)
    start = content.find(b"\xff\x4f\xff\x51")  # it may be wrapped in a file of its own
    return _find_jpeg_2000_size(content, start) if start >= 0 else _find_jpeg_size(content)


def _open_element(stream: BinaryIO, place: int, syntax: Any) -> int:
    """Go to the first byte of an element's value and return its length."""
    stream.seek(place)
    order = "<" if syntax.is_little_endian else ">"
    if syntax.is_implicit_VR:
        return int(struct.unpack(f"{order}4xI", stream.read(8))[0])
    return int(struct.unpack(f"{order}8xI", stream.read(12))[0])


def _walk_fragments(stream: BinaryIO) -> None:
    """Go from fragment to fragment to the end of a compressed file's pixels."""
    end = stream.seek(0, 1)
    size = stream.seek(0, 2)
    while True:
        stream.seek(end)
        group, element, length = struct.unpack("<HHI", stream.read(8))
        if (group, element) == END:
            return
        if (group, element) != ITEM:
            raise ValueError("no fragment")
        end += 8 + length
        if end > size:
            raise EOFError


def _find_jpeg_2000_size(content: bytes, start: int) -> tuple[int, int]:
    right, bottom, left, top = struct.unpack_from(">4I", content, start + 8)
    return right - left, bottom - top


def _find_jpeg_size(content: bytes) -> tuple[int, int]:
    place = content.index(b"\xff\xd8") + 2
    while True:
        while content[place : place + 2] == b"\xff\xff":  # fill bytes
            place += 1
        marker, length = struct.unpack_from(">xBH", content, place)
        if (0xC0 <= marker <= 0xCF and marker not in NO_FRAME) or marker == 0xF7:
            height, width = struct.unpack_from(">HH", content, place + 5)
            return width, height
        place += 2 + length

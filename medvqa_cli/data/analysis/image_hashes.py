"""Which pictures are the same, and which look alike: two hashes, and the search for all pairs that are close.

The hash of what a picture looks like is the DCT hash of pHash (C. Zauner, Implementation and Benchmarking of Perceptual
Image Hash Functions, thesis, FH Hagenberg, 2010, section 3.2): of a small grey copy of the picture the lowest
frequencies of the discrete cosine transform, one bit each: whether it is above their median.

Differs: 256 bits (16 x 16 frequencies of a 64 x 64 copy) instead of 64 (8 x 8 of 32 x 32), because scans of different
patients share their large shapes. With 64 bits, 11 pairs of VQA-RAD's 315 pictures and 61 pairs of one of them with one
of SLAKE's 642 lie within 10 bits, as altered copies do. With 256 bits (`examples/benchmarks/image_hashes.py`):

| two pictures | bits that differ |
|---|---|
| a copy as JPEG of quality 30, at half the size, at 224 x 224 (120 pictures) | at most 8 |
| with 1.2 times the brightness, 1.3 times the contrast, or gamma 0.8 | at most 24 |
| with a line of text in a corner; turned by 1 degree | 98 %, 95 % within 24 |
| 1 % cut off each side; 2 % | 81 %, 24 % within 24 |
| SLAKE's 144 closest pairs: neighbouring slices of one scan, wherever looked at | 4-24 |
| VQA-RAD's closest pair of all 49,455 | 68 |
| the closest of the 202,230 pairs of a SLAKE and a VQA-RAD picture | 66 |

So two pictures within `MAX_DISTANCE` are copies of one, or neighbouring slices of one patient.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL import Image

BITS = 256
MAX_DISTANCE = 24
"""Pictures whose hashes differ in at most this many of the 256 bits count as near-duplicates."""
MIN_CONTRAST = 1.0
"""A picture whose small grey copy has a smaller standard deviation (grey levels of 0-255) shows nothing to compare."""

_SIDE = 64
_FREQUENCIES = 16
_BANDS = 16
_STRIDE = 121
"""Bit i of the search is bit 121 i mod 256 of the hash, so that a band mixes coarse and fine frequencies."""
_CHUNK = 1 << 20
"""Pairs compared at once: about 60 MB."""


def hash_pixels(image: Image.Image) -> str:
    """Return a hash that is equal for equal pixels: `hash_image` of a picture that is decoded already."""
    import numpy as np

    digest = hashlib.sha256(f"{image.width}x{image.height}".encode())
    digest.update(np.asarray(image).data)  # not through `tobytes`: a copy less, of millions of bytes
    return digest.hexdigest()


def hash_look(image: Image.Image) -> str:
    """Return a picture's perceptual hash as 64 hexadecimal digits; empty if it is of one shade."""
    import numpy as np
    from PIL.Image import Resampling

    small = image.convert("L").resize((_SIDE, _SIDE), Resampling.LANCZOS, reducing_gap=2.0)
    levels = np.asarray(small, dtype=np.float64)
    if levels.std() < MIN_CONTRAST:
        return ""
    waves = _make_waves()
    strengths = (waves @ levels @ waves.T).ravel()
    return np.packbits(strengths > np.median(strengths)).tobytes().hex()


@cache
def _make_waves() -> Any:
    """Return the lowest rows of the cosine transform (DCT-II), shape [frequencies, side], unscaled."""
    import numpy as np

    places = 2 * np.arange(_SIDE) + 1
    return np.cos(np.pi * np.arange(_FREQUENCIES)[:, None] * places / (2 * _SIDE))


def find_near_pairs(looks: Sequence[str], max_distance: int = MAX_DISTANCE) -> Iterator[tuple[Any, Any, Any]]:
    """Yield every pair of hashes that differ in at most `max_distance` bits, once, in chunks.

    The search is exact (multi-index hashing: M. Norouzi, A. Punjani, D. Fleet, Fast Search in Hamming Space with
    Multi-Index Hashing, CVPR 2012). Of 16 bands of 16 bits, at least one differs in at most one bit where the whole
    differs in at most 31. So only hashes that agree in a band, up to one bit, are compared.

    Args:
        looks: Distinct hashes of `hash_look`, none empty.
        max_distance: 0-31.

    Yields:
        Arrays of one length: place of the first in `looks`, place of the second, distance.

    Raises:
        ValueError: If `max_distance` is outside 0-31: the search would miss pairs.
    """
    import numpy as np

    if not 0 <= max_distance < 2 * _BANDS:
        raise ValueError(f"max_distance should be in 0-{2 * _BANDS - 1}, not {max_distance}")
    packed = np.frombuffer(bytes.fromhex("".join(looks)), np.uint8).reshape(len(looks), BITS // 8)
    bits = np.unpackbits(packed, axis=1)[:, (np.arange(BITS) * _STRIDE) % BITS]
    mixed = np.ascontiguousarray(np.packbits(bits, axis=1))
    words, keys = mixed.view(np.uint64), mixed.view(np.uint16)
    for band in range(_BANDS):
        order = np.argsort(keys[:, band], kind="stable")
        nearby = np.ascontiguousarray(words[order].T)  # what is compared lies together: twice as fast
        for candidates in _list_candidates(keys[order, band]):
            left, right, distance = _compare(nearby, *candidates, max_distance)
            first, second = order[left], order[right]
            is_new = _find_first_band(keys, first, second) == band
            if is_new.any():
                yield first[is_new], second[is_new], distance[is_new]


def _list_candidates(keys: Any) -> Iterator[tuple[Any, Any]]:
    """Yield pairs of places in sorted 16-bit keys that agree in all bits, or in all but one; each pair once."""
    import numpy as np

    places = np.arange(len(keys))
    starts = np.searchsorted(keys, np.arange(1 << 16))
    ends = np.append(starts[1:], len(keys))
    yield from _pair_up(places, places + 1, ends[keys])
    for bit in range(16):
        lower = places[(keys & (1 << bit)) == 0]
        partner = keys[lower] | np.uint16(1 << bit)
        yield from _pair_up(lower, starts[partner], ends[partner])


def _pair_up(items: Any, starts: Any, ends: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each item with every number from its start to its end (exclusive), about `_CHUNK` pairs at a time."""
    import numpy as np

    counts = ends - starts
    items, starts, counts = (array[counts > 0] for array in (items, starts, counts))
    total = np.cumsum(counts)
    begin = 0
    while begin < len(items):
        done = total[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, done + _CHUNK, side="right")))
        part = counts[begin:end]
        within = np.arange(part.sum()) - np.repeat(np.cumsum(part) - part, part)
        yield np.repeat(items[begin:end], part), np.repeat(starts[begin:end], part) + within
        begin = end


def _compare(words: Any, first: Any, second: Any, max_distance: int) -> tuple[Any, Any, Any]:
    """Return the pairs within the distance; most are out of it after their first 64 bits. `words`: [4, hashes]."""
    import numpy as np

    distance = np.zeros(len(first), np.int64)
    for word in words:
        distance += _count_bits(word[first] ^ word[second])
        is_near = distance <= max_distance
        first, second, distance = first[is_near], second[is_near], distance[is_near]
    return first, second, distance


def _find_first_band(keys: Any, first: Any, second: Any) -> Any:
    """Return the first band in which two hashes differ in at most one bit: the pair is reported there alone."""
    return (_count_bits(keys[first] ^ keys[second]) <= 1).argmax(axis=1)


def _count_bits(numbers: Any) -> Any:
    """Return the number of ones of each unsigned number; numpy 1 has no function for it."""
    import numpy as np

    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(numbers)
    octets = np.ascontiguousarray(numbers).view(np.uint8).reshape(*numbers.shape, numbers.itemsize)
    return np.unpackbits(octets, axis=-1).sum(axis=-1, dtype=np.int64)

"""Seeds that depend on what is asked, not on the order it is asked in: a resumed run draws the same samples."""

from __future__ import annotations

import hashlib
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def seed_for(seed: int, images: Sequence[str]) -> int:
    """Return a 63-bit seed from a run's seed and the last two parts of the image paths.

    Whole paths would make the samples depend on where the data lie.
    """
    names = "|".join("/".join(PurePath(path).parts[-2:]) for path in images)
    digest = hashlib.sha256(f"{seed}|{names}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1

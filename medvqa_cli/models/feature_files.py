"""Features of pictures in files, shared by runs and by processes, whole or not there."""

from __future__ import annotations

import os
import time
import uuid
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load, save

if TYPE_CHECKING:
    from pathlib import Path

    import torch

PART, WHOLE = ".part", ".safetensors"
STALE_SECONDS = 3600.0
"""A part file this old belongs to a process that was killed."""
ROOM = 0.9
"""Share of the bound that is left filled once something has to go."""


class FeatureFiles:
    """A file for each entry, below one folder.

    A file gets its name once it is whole, so that a kill leaves none that is not, and processes that write the same
    entry write the same bytes. What was not read for longest goes first. One that another process has taken away, or
    that is damaged, is as good as not there.

    Args:
        folder: Where the files lie; made if it is not there.
        max_bytes: Most bytes of all files.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._drop_parts()
        self._size = sum(size for _, size, _ in self._list_files())

    def get(self, key: str) -> dict[str, torch.Tensor] | None:
        """Return an entry; None if it is not there."""
        path = self._find(key)
        try:
            content = path.read_bytes()
            os.utime(path)
        except FileNotFoundError:
            return None
        try:
            return load(content)
        except SafetensorError:
            path.unlink(missing_ok=True)
            return None

    def put(self, key: str, features: dict[str, torch.Tensor]) -> None:
        """Keep an entry, unless it alone is larger than the bound."""
        content, path = save(features), self._find(key)
        if len(content) > self.max_bytes:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PART}")
        try:
            part.write_bytes(content)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        self._size += len(content)
        if self._size > self.max_bytes:
            self._make_room()

    def _find(self, key: str) -> Path:
        return self.folder / f"{key}{WHOLE}"

    def _list_files(self) -> list[tuple[float, int, Path]]:
        """Return time of last use, size and path of each file."""
        found = []
        for path in self.folder.rglob(f"*{WHOLE}"):
            try:
                facts = path.stat()
            except FileNotFoundError:
                continue
            found.append((facts.st_mtime, facts.st_size, path))
        return found

    def _make_room(self) -> None:
        """Remove the files that were not read for longest; what other processes wrote is counted too."""
        files = sorted(self._list_files())
        self._size = sum(size for _, size, _ in files)
        for _, size, path in files:
            if self._size <= self.max_bytes * ROOM:
                return
            path.unlink(missing_ok=True)
            self._size -= size

    def _drop_parts(self) -> None:
        for path in self.folder.rglob(f"*{PART}"):
            try:
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()
            except FileNotFoundError:
                continue

"""Whether original files have changed since they were read."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from medvqa_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from hashlib import _Hash

TEXT_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".xml", ".yaml", ".yml")
BLOCK_BYTES = 2**20


def fingerprint_files(root: Path) -> str:
    """Return a hash of the files below a folder: relative names and sizes, and the content of text files.

    Pictures count by name and size, so that half a million of them cost no reading; times do not count, so that a
    copy has the same fingerprint. Hidden files are left out. Of a root that is one file the content counts, whatever
    its kind.

    Raises:
        DataError: If a file cannot be read.
    """
    digest = hashlib.sha256()
    if root.is_file():
        _add_file(digest, root.name, str(root), with_content=True)
        return digest.hexdigest()
    start = len(str(root)) + 1
    names = (path[start:].replace(os.sep, "/") for path in _walk(root))
    for name in sorted(names, key=lambda name: name.split("/")):
        _add_file(digest, name, f"{root}{os.sep}{name}", with_content=name.lower().endswith(TEXT_SUFFIXES))
    return digest.hexdigest()


def _add_file(digest: _Hash, name: str, path: str, *, with_content: bool) -> None:
    try:
        facts = os.stat(path)  # noqa: PTH116 - there may be half a million, and Path takes longer
        digest.update(f"{name}\n{facts.st_size}\n".encode(errors="surrogateescape"))
        if with_content and stat.S_ISREG(facts.st_mode):
            with Path(path).open("rb") as file:
                while block := file.read(BLOCK_BYTES):
                    digest.update(block)
    except FileNotFoundError:  # a link to nowhere
        return
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror}.", "Change its permissions.") from error


def _walk(root: Path) -> Iterator[str]:
    """Yield the files below a folder, through links too, but no folder twice."""
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        subfolders[:] = [] if real in seen else [name for name in subfolders if not name.startswith(".")]
        if real not in seen:
            yield from (f"{folder}{os.sep}{name}" for name in names if not name.startswith("."))
        seen.add(real)

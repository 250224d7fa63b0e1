"""The members of a zip or tar archive, one after the other, with the checks that the standard library leaves out."""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import itertools
import lzma
import posixpath
import stat
import tarfile
import zipfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal, cast

from medvqa_cli.data.files.fields import quote
from medvqa_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Kind = Literal["file", "folder", "link"]

CHUNK = 1 << 20
MAX_TAR_READ = 16 << 20
MAX_LINK = 4096
OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
ENCRYPTED = 0x1
BY_HAND = "If you trust the archive, unpack it by hand and name the folder with --root DIR."


@dataclass(frozen=True, slots=True)
class Member:
    """One member: its name as it stands in the archive, and where a link leads, from the archive's top."""

    name: str
    kind: Kind
    open: Callable[[], IO[bytes]]
    link: str = ""


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in an archive: the number of members (None: unknown), the bytes they declare, and the members.

    A member must be used before the next one is asked for.
    """

    total: int | None
    size: int
    members: Iterator[Member]


@contextlib.contextmanager
def open_archive(path: Path, check: Callable[[int], None]) -> Iterator[Contents]:
    """Open a zip or tar archive, told apart by their first bytes.

    Args:
        path: The archive.
        check: Raises an error if so many unpacked bytes are too many.

    Raises:
        DataError: If a member is encrypted, a device, or a link that leads out of the archive, or members overlap.
        Exception: What the standard library raises for a damaged archive.
    """
    with path.open("rb") as stream:
        start = stream.read(6)
    if start.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            _check_overlap(path, infos)
            yield Contents(len(infos), sum(info.file_size for info in infos), _read_zip(path, archive, infos))
    else:
        opener = next((opener for magic, opener in OPENERS.items() if start.startswith(magic)), open)
        with opener(path, "rb") as stream:
            yield Contents(None, 0, _read_tar(path, _TarStream(stream, check)))


def refuse_member(path: Path, name: str, fault: str) -> DataError:
    """Return an error about one member of an archive."""
    return DataError(f"'{path}' is refused: its member {quote(name)} {fault}.", BY_HAND)


def _read_zip(path: Path, archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo]) -> Iterator[Member]:
    for info in infos:
        kind = _find_zip_kind(path, info)
        open_member = functools.partial(archive.open, info)
        yield Member(info.orig_filename, kind, open_member,
                     _read_zip_link(path, info, open_member) if kind == "link" else "")


def _find_zip_kind(path: Path, info: zipfile.ZipInfo) -> Kind:
    if info.flag_bits & ENCRYPTED:
        raise refuse_member(path, info.orig_filename, "is encrypted")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        raise refuse_member(path, info.orig_filename, "is neither a file nor a folder nor a link")
    if info.is_dir():
        return "folder"
    return "link" if kind == stat.S_IFLNK else "file"


def _read_zip_link(path: Path, info: zipfile.ZipInfo, open_member: Callable[[], IO[bytes]]) -> str:
    with open_member() as stream:
        text = stream.read(MAX_LINK).decode(errors="surrogateescape")
    return _resolve_link(path, info.orig_filename, posixpath.join(posixpath.dirname(info.orig_filename), text))


def _check_overlap(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse members that share bytes: Python before 3.11.8 unpacks such bombs."""
    spans = sorted((info.header_offset, info.header_offset + info.compress_size, info.orig_filename)
                   for info in members)
    for (_, end, _), (start, _, name) in itertools.pairwise(spans):
        if start < end:
            raise refuse_member(path, name, "overlaps another member")


def _read_tar(path: Path, stream: _TarStream) -> Iterator[Member]:
    with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r:") as archive:
        last = -1
        for info in iter(archive.next, None):
            if info.offset_data <= last:
                raise tarfile.ReadError("a member of negative size")  # else Python before 3.11.14 never ends
            last = info.offset_data
            cast("Any", archive).members.clear()  # millions of them would fill the memory
            yield _make_tar_member(path, archive, info)
        stream.finish()


def _make_tar_member(path: Path, archive: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    if info.isdir():
        return Member(info.name, "folder", _open_nothing)
    if info.issym() or info.islnk():
        folder = posixpath.dirname(info.name) if info.issym() else ""
        link = _resolve_link(path, info.name, posixpath.join(folder, info.linkname))
        return Member(info.name, "link", _open_nothing, link)
    if not info.isreg():
        raise refuse_member(path, info.name, "is neither a file nor a folder nor a link")
    return Member(info.name, "file", lambda: cast("IO[bytes]", archive.extractfile(info)))


def _open_nothing() -> IO[bytes]:
    raise ValueError("only a file can be opened")


def _resolve_link(path: Path, name: str, link: str) -> str:
    resolved = posixpath.normpath(link)
    if resolved.startswith(("/", "../")) or resolved in (".", "..") or "\\" in resolved or "\0" in resolved:
        raise refuse_member(path, name, f"is a link to {quote(link)}, out of the archive")
    return resolved


class _TarStream:
    """What `tarfile` reads from: forwards only, with bounded reads, so that no header can fill the memory."""

    def __init__(self, stream: IO[bytes], check: Callable[[int], None]) -> None:
        self._stream = stream
        self._check = check
        self._position = 0
        self._last = b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_TAR_READ:
            raise tarfile.ReadError("a header of impossible size")
        self._last = self._stream.read(size)
        self._position += len(self._last)
        self._check(self._position)
        return self._last

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        if position < self._position:
            raise tarfile.ReadError("a member of negative size")
        while self._position < position and self.read(min(CHUNK, position - self._position)):
            pass

    def finish(self) -> None:
        """Check that the archive ends as it should, and its check sum: `tarfile` takes a cut for the end.

        Raises:
            EOFError: If the end is missing.
        """
        if self._last != bytes(tarfile.BLOCKSIZE):
            raise EOFError("the end of the archive is missing")
        while self.read(CHUNK):
            pass

"""Zip and tar archives unpacked safely: nothing is written outside the target, and nothing stays behind an error."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import functools
import os
import shutil
import struct
import uuid
import zlib
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from tarfile import TarError
from typing import TYPE_CHECKING
from zipfile import BadZipFile

from medvqa_cli.data.files.fields import is_unicode, quote, stays_inside
from medvqa_cli.data.files.members import BY_HAND, CHUNK, Member, open_archive, refuse_member
from medvqa_cli.errors import DataError
from medvqa_cli.progress import SILENT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from medvqa_cli.progress import Progress

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
JUNK = ("__MACOSX", ".DS_Store")
RESTORE = "Download it again."
DAMAGE = (BadZipFile, TarError, LZMAError, zlib.error, struct.error, EOFError, OSError, NotImplementedError,
          RuntimeError, ValueError, LookupError, OverflowError)


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """What an archive may unpack to, together with the archives inside it.

    `max_ratio` bounds the unpacked bytes a byte of the archive; it does not count below `spared_bytes`.
    """

    max_bytes: int = 1 << 40
    max_members: int = 10_000_000
    max_ratio: float = 200.0
    spared_bytes: int = 64 << 20


DEFAULT = UnpackLimits()


@dataclass(slots=True)
class Budget:
    """Counts what has been unpacked from archives of `packed` bytes, against the limits."""

    limits: UnpackLimits
    packed: int
    bytes: int = 0
    members: int = 0

    def spend(self, archive: Path, size: int = 0, members: int = 0) -> None:
        """Count unpacked bytes and members.

        Raises:
            DataError: If that is more than the limits allow.
        """
        self.bytes += size
        self.members += members
        self.check(archive, self.bytes)
        if self.members > self.limits.max_members:
            raise DataError(f"'{archive}' holds more than {self.limits.max_members:,} members.", BY_HAND)

    def check(self, archive: Path, size: int) -> None:
        """Raise an error if so many unpacked bytes are more than the limits allow."""
        if size > self.limits.max_bytes:
            raise DataError(f"'{archive}' unpacks to more than {show_size(self.limits.max_bytes)}.", BY_HAND)
        if size > max(self.limits.spared_bytes, self.limits.max_ratio * self.packed):
            raise DataError(f"'{archive}' unpacks to more than {self.limits.max_ratio:g} times its size: it looks like "
                            "a zip bomb.", BY_HAND)


def is_archive(path: Path) -> bool:
    """Tell from its name whether a file is an archive that `unpack_archive` reads."""
    return bool(_find_suffix(path.name))


def unpack_archive(archive: Path, target: Path, *, progress: Progress = SILENT,
                   limits: UnpackLimits = DEFAULT) -> Path:
    """Unpack a zip or tar archive (tar.gz, tar.bz2, tar.xz; told apart by their first bytes) into a new folder.

    Archives inside it are unpacked too, see `unpack_nested`. Members are written as plain files and folders: links
    become copies of the file of the archive that they name, owners, times and permissions are left out, and so are the
    files that macOS adds (`__MACOSX`, `.DS_Store`, `._*`). Everything is unpacked into `<target>.part` first.

    Args:
        archive: The archive.
        target: The folder to make; it must not exist.
        progress: Is told about every member.
        limits: What the archive may unpack to.

    Returns:
        The folder that holds the content: `target`, or the folder in it that is all there is.

    Raises:
        DataError: If the archive is missing, damaged, cut off or encrypted; if a member's name leads out of the target,
            two members want the same place, or a member is a device or a link to anything but a file of the archive;
            if it unpacks to more than the limits or the disk allow. Then nothing is left behind.
    """
    if target.exists():
        raise DataError(f"'{target}' exists already: '{archive.name}' cannot be unpacked there.", "Delete it first.")
    part = target.with_name(f"{target.name}.part")
    with _scratch(archive, part):
        budget = Budget(limits, archive.stat().st_size)
        _unpack(archive, part, budget, progress)
        try:
            _unpack_inner(part, budget, progress)
        except DataError as error:  # name what is inside by a place that outlives the error
            raise DataError(error.message.replace(str(part), str(archive)), error.hint) from error
        part.rename(target)
    return _find_content(target)


def unpack_nested(folder: Path, *, progress: Progress = SILENT, limits: UnpackLimits = DEFAULT) -> None:
    """Unpack every archive in a folder of ours beside itself, and delete it; archives inside these stay packed.

    One whose content is a single folder gives that folder (`imgs.zip` gives `imgs/`), any other a folder of its own
    name. Several archives may add to one folder.

    Args:
        folder: The folder; searched to any depth.
        progress: Is told about every member.
        limits: What the archives may unpack to, together.

    Raises:
        DataError: As `unpack_archive`, or if a file would take the place of another that differs.
    """
    packed = sum(path.stat().st_size for path in _find_archives(folder))
    _unpack_inner(folder, Budget(limits, packed), progress)


def show_size(size: float) -> str:
    """Return a number of bytes in words, such as "1.5 GiB"."""
    units = ("bytes", "KiB", "MiB", "GiB")
    for unit in units:
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


@contextlib.contextmanager
def _scratch(archive: Path, part: Path) -> Iterator[None]:
    """Take away what a kill or an error leaves at `part`; turn every failure into one error about the archive."""
    shutil.rmtree(part, ignore_errors=True)
    try:
        yield
    except DAMAGE as error:
        raise _explain(archive, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _explain(archive: Path, error: Exception) -> DataError:
    if not isinstance(error, OSError) or error.errno is None:  # gzip and bz2 report damage as OSError without a number
        return DataError(f"'{archive}' cannot be unpacked: it is cut off, damaged or of an unknown kind ({error}).",
                         RESTORE)
    if error.errno == errno.ENOSPC:
        return DataError(f"The disk is full: '{archive}' could not be unpacked.",
                         "Free some space and run the same command again.")
    where = f" {quote(str(error.filename))}" if error.filename else ""
    return DataError(f"'{archive}' cannot be unpacked: {error.strerror}{where}.")


def _unpack(archive: Path, folder: Path, budget: Budget, progress: Progress) -> None:
    folder.mkdir(parents=True)
    with open_archive(archive, functools.partial(budget.check, archive)) as contents:
        budget.check(archive, contents.size)
        _check_space(archive, contents.size, folder)
        progress.start(f"Unpacking {archive.name}", contents.total, "file")
        links: list[tuple[Member, Path]] = []
        for member in contents.members:
            budget.spend(archive, members=1)
            place = _find_place(archive, member, folder)
            if place and member.kind == "link":
                links.append((member, place))
            elif place:
                _write_member(archive, member, place, budget)
            progress.advance()
    for member, place in links:
        _copy_link(archive, member, place, folder / member.link, budget)
    progress.finish()


def _check_space(archive: Path, size: int, folder: Path) -> None:
    if size > (free := shutil.disk_usage(folder).free):
        raise DataError(f"'{archive}' unpacks to {show_size(size)}, but only {show_size(free)} of "
                        "the disk are free.", "Free some space and run the same command again.")


def _find_place(archive: Path, member: Member, folder: Path) -> Path | None:
    """Return where a member belongs; None if it is left out."""
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if member.name.startswith("/") or "\\" in member.name or (parts and not stays_inside("/".join(parts))):
        raise refuse_member(archive, member.name, "has an unsafe name (absolute, or with '..', a backslash or NUL)")
    if not is_unicode(member.name):
        raise refuse_member(archive, member.name, "has a name that is not valid Unicode")
    if not parts and member.kind != "folder":
        raise refuse_member(archive, member.name, "has no name")
    is_junk = any(part in JUNK or part.startswith("._") for part in parts)
    return None if is_junk or not parts else folder.joinpath(*parts)


def _write_member(archive: Path, member: Member, place: Path, budget: Budget) -> None:
    with _own_place(archive, member):
        if member.kind == "folder":
            place.mkdir(parents=True, exist_ok=True)
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        file = place.open("xb")
    with file, member.open() as stream:
        _copy_bytes(stream, file, archive, budget)


def _copy_link(archive: Path, member: Member, place: Path, source: Path, budget: Budget) -> None:
    if not source.is_file():
        raise refuse_member(archive, member.name, "is a link to something that is no file of the archive")
    with _own_place(archive, member):
        place.parent.mkdir(parents=True, exist_ok=True)
        file = place.open("xb")
    with file, source.open("rb") as stream:
        _copy_bytes(stream, file, archive, budget)


@contextlib.contextmanager
def _own_place(archive: Path, member: Member) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise refuse_member(archive, member.name, "lies where another member lies (the same name, or one that differs "
                            "in upper and lower case only)") from error


def _copy_bytes(source: IO[bytes], file: IO[bytes], archive: Path, budget: Budget) -> None:
    while chunk := source.read(CHUNK):  # counted here, whatever size the archive declares
        budget.spend(archive, size=len(chunk))
        file.write(chunk)


def _find_archives(folder: Path) -> list[Path]:
    return sorted(Path(place, name) for place, _, names in os.walk(folder) for name in names if is_archive(Path(name)))


def _unpack_inner(folder: Path, budget: Budget, progress: Progress) -> None:
    for archive in _find_archives(folder):
        part = archive.with_name(f".{uuid.uuid4().hex}.part")  # a name that no member can have
        with _scratch(archive, part):
            _unpack(archive, part, budget, progress)
            content = list(part.iterdir())
            is_single = len(content) == 1 and content[0].is_dir()
            source = content[0] if is_single else part
            name = source.name if is_single else archive.name[:-len(_find_suffix(archive.name))]
            _merge(archive, source, archive.parent / name)
            archive.unlink()


def _find_suffix(name: str) -> str:
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix) and len(name) > len(suffix)), "")


def _merge(archive: Path, source: Path, target: Path) -> None:
    if not target.exists():
        source.rename(target)
        return
    for path in [path for path in source.rglob("*") if path.is_file()]:
        place = target / path.relative_to(source)
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            path.rename(place)
        elif not (place.is_file() and filecmp.cmp(path, place, shallow=False)):
            raise DataError(f"'{archive}' holds '{path.relative_to(source)}', but something else is at '{place}'.",
                            BY_HAND)


def _find_content(folder: Path) -> Path:
    content = list(folder.iterdir())
    while len(content) == 1 and content[0].is_dir():
        folder = content[0]
        content = list(folder.iterdir())
    return folder

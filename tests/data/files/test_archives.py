"""Nothing an archive says or hides writes outside its folder, fills the disk, or leaves a half-unpacked folder."""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
import time
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvqa_cli.data.files import archives
from medvqa_cli.data.files.archives import UnpackLimits, is_archive, show_size, unpack_archive, unpack_nested
from medvqa_cli.errors import DataError

FILES = {"set/train.json": b"[]", "set/imgs/a/source.jpg": b"picture" * 500, "set/empty": b""}
FORMATS = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz")
HAND = "If you trust the archive, unpack it by hand and name the folder with --root DIR."
FEW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MANY = settings(FEW, max_examples=10_000)


def pack(path: Path, files, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write an archive of the kind its name says; `files` maps names to bytes."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        mode = {".gz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}.get(path.suffix, "w")
        with tarfile.open(path, mode) as archive:
            for name, content in files.items():
                add_tar(archive, name, content)
    return path


def add_tar(archive, name, content=b"", kind=tarfile.REGTYPE, link="") -> None:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    archive.addfile(info, io.BytesIO(content))


def pack_bytes(files, name: str = "x.zip") -> bytes:
    stream = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in files.items():
                archive.writestr(member, content)
    else:
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for member, content in files.items():
                add_tar(archive, member, content)
    return stream.getvalue()


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refuse(archive: Path, **options) -> str:
    """Unpack beside the archive; the message of the error, once it is clear that nothing else is there."""
    before = sorted(archive.parent.iterdir())
    with pytest.raises(DataError) as failure:
        unpack_archive(archive, archive.parent / "out", **options)
    assert sorted(archive.parent.iterdir()) == before
    return failure.value.message.replace(str(archive), "A")


def find_fault(archive: Path, target: Path) -> str:
    """The message of the error of unpacking; empty if there is none."""
    try:
        unpack_archive(archive, target)
    except DataError as error:
        return error.message
    return ""


@pytest.mark.parametrize("ending", FORMATS)
def test_every_kind_of_archive_is_unpacked(tmp_path, ending):
    archive = pack(tmp_path / f"a.{ending}", FILES)
    content = unpack_archive(archive, tmp_path / "new" / "out")
    assert content == tmp_path / "new" / "out" / "set"
    assert read_files(content) == {name.removeprefix("set/"): text for name, text in FILES.items()}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]
    assert archive.is_file()


def test_archives_are_known_by_name_and_read_by_content(tmp_path):
    names = {"a.zip": True, "A.TAR.GZ": True, "a.tgz": True, "a.tar.xz": True, "a.txz": True, "a.tbz2": True,
             "a.json": False, "a.gz": False, ".zip": False, "a.xlsx": False, "zip": False}
    assert {name: is_archive(Path(name)) for name in names} == names
    archive = pack(tmp_path / "a.tar", FILES).rename(tmp_path / "a.tar.gz")
    assert read_files(unpack_archive(archive, tmp_path / "out")) == {k[4:]: v for k, v in FILES.items()}


def test_only_a_folder_that_stands_alone_is_descended_into(tmp_path):
    two = unpack_archive(pack(tmp_path / "two.zip", {"a/x": b"", "b": b""}), tmp_path / "two")
    deep = unpack_archive(pack(tmp_path / "deep.zip", {"a/b/c/x": b"", "a/b/c/y/z": b""}), tmp_path / "deep")
    assert (two, deep) == (tmp_path / "two", tmp_path / "deep" / "a" / "b" / "c")


def test_what_macos_adds_is_left_out(tmp_path):
    archive = pack(tmp_path / "a.zip", {"set/a": b"1", "__MACOSX/set/._a": b"", "set/.DS_Store": b"", "set/._a": b""})
    assert read_files(unpack_archive(archive, tmp_path / "out")) == {"a": b"1"}


def test_archives_inside_are_unpacked_beside_themselves_one_level_deep(tmp_path):
    deepest = pack_bytes({"x": b"deep"})
    archive = pack(tmp_path / "Slake1.0.zip", {
        "Slake/train.json": b"[]",
        "Slake/imgs.zip": pack_bytes({"imgs/a.jpg": b"A", "imgs/inner.zip": deepest}),
        "Slake/more.zip": pack_bytes({"imgs/b.jpg": b"B", "imgs/a.jpg": b"A"}),
        "Slake/loose.tar": pack_bytes({"c.jpg": b"C", "d.jpg": b"D"}, "loose.tar"),
    })
    assert read_files(unpack_archive(archive, tmp_path / "out")) == {
        "train.json": b"[]", "imgs/a.jpg": b"A", "imgs/b.jpg": b"B", "imgs/inner.zip": deepest,
        "loose/c.jpg": b"C", "loose/d.jpg": b"D"}


def test_archives_inside_that_disagree_are_refused(tmp_path):
    archive = pack(tmp_path / "a.zip", {"1.zip": pack_bytes({"i/a": b"A", "i/c": b""}),
                                        "2.zip": pack_bytes({"i/a": b"other", "i/b": b""})})
    assert refuse(archive) == "'A/2.zip' holds 'a', but something else is at 'A/i/a'."


def test_a_folder_is_unpacked_in_place(tmp_path):
    pack(tmp_path / "imgs.zip", {"imgs/a": b"A", "imgs/b": b"B"})
    unpack_nested(tmp_path)
    assert read_files(tmp_path) == {"imgs/a": b"A", "imgs/b": b"B"}


@pytest.mark.parametrize("ending", ["zip", "tar"])
@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "//x", "C:/x", "c:x", "a\\..\\..\\x", "\\x", "..", "a/.."])
def test_a_member_that_leads_out_is_refused(tmp_path, ending, name):
    (tmp_path / "deep").mkdir()
    archive = pack(tmp_path / "deep" / f"a.{ending}", {"fine": b"1", name: b"2"})
    shown = name.replace("\\", "\\\\")
    assert refuse(archive) == (f"'A' is refused: its member \"{shown}\" has an unsafe name (absolute, or with '..', a "
                               "backslash or NUL).")
    assert read_files(tmp_path).keys() == {f"deep/a.{ending}"}


def test_a_nul_byte_in_a_name_is_refused(tmp_path):
    data = pack_bytes({"aXb.jpg": b"1"}).replace(b"aXb.jpg", b"a\0b.jpg")
    (tmp_path / "a.zip").write_bytes(data)
    assert '"a\\u0000b.jpg" has an unsafe name' in refuse(tmp_path / "a.zip")


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("a", "a/b/c"), ("a/b", "./a//b")])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_that_want_the_same_place_are_refused(tmp_path, names):
    for ending in ("zip", "tar"):
        with (zipfile.ZipFile if ending == "zip" else tarfile.open)(tmp_path / f"a.{ending}", "w") as archive:
            for name in names:
                archive.writestr(name, b"1") if ending == "zip" else add_tar(archive, name, b"1")
        assert refuse(tmp_path / f"a.{ending}") == (
            f"'A' is refused: its member \"{names[1]}\" lies where another member lies (the same name, or one that "
            "differs in upper and lower case only).")


def test_links_in_a_tar_become_copies(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add_tar(archive, "imgs/b", kind=tarfile.SYMTYPE, link="../real/a")
        add_tar(archive, "real/a", b"picture")
        add_tar(archive, "hard", kind=tarfile.LNKTYPE, link="real/a")
    out = unpack_archive(tmp_path / "a.tar", tmp_path / "out")
    assert read_files(out) == {"imgs/b": b"picture", "real/a": b"picture", "hard": b"picture"}
    assert not any(path.is_symlink() or path.stat().st_nlink > 1 for path in out.rglob("*") if not path.is_dir())


@pytest.mark.parametrize(("kind", "link", "fault"), [
    (tarfile.SYMTYPE, "/etc/passwd", 'is a link to "/etc/passwd", out of the archive.'),
    (tarfile.SYMTYPE, "../../etc/passwd", 'is a link to "d/../../etc/passwd", out of the archive.'),
    (tarfile.LNKTYPE, "../secret", 'is a link to "../secret", out of the archive.'),
    (tarfile.LNKTYPE, "/etc/passwd", 'is a link to "/etc/passwd", out of the archive.'),
    (tarfile.SYMTYPE, "..", 'is a link to "d/..", out of the archive.'),
    (tarfile.SYMTYPE, "nothing", "is a link to something that is no file of the archive."),
    (tarfile.SYMTYPE, "link", "is a link to something that is no file of the archive."),
    (tarfile.SYMTYPE, "../d", "is a link to something that is no file of the archive."),
    (tarfile.CHRTYPE, "", "is neither a file nor a folder nor a link."),
    (tarfile.FIFOTYPE, "", "is neither a file nor a folder nor a link."),
])
def test_links_out_of_a_tar_and_devices_are_refused(tmp_path, kind, link, fault):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    with tarfile.open(tmp_path / "in" / "a.tar", "w") as archive:
        add_tar(archive, "d/link", kind=kind, link=link)
        add_tar(archive, "d/x", b"")
    assert refuse(tmp_path / "in" / "a.tar") == f"'A' is refused: its member \"d/link\" {fault}"


def test_writing_through_a_link_is_refused(tmp_path):
    """The classic trick: a link to a folder outside, then a member below it."""
    (tmp_path / "in").mkdir()
    (tmp_path / "outside").mkdir()
    with tarfile.open(tmp_path / "in" / "a.tar", "w") as archive:
        add_tar(archive, "d", kind=tarfile.SYMTYPE, link="x/../../outside")
        add_tar(archive, "d/evil", b"evil")
    refuse(tmp_path / "in" / "a.tar")
    with tarfile.open(tmp_path / "in" / "a.tar", "w") as archive:  # the link names a real folder of the archive
        add_tar(archive, "e", kind=tarfile.DIRTYPE)
        add_tar(archive, "d", kind=tarfile.SYMTYPE, link="e")
        add_tar(archive, "d/evil", b"evil")
    refuse(tmp_path / "in" / "a.tar")
    assert read_files(tmp_path).keys() == {"in/a.tar"}


def test_links_in_a_zip(tmp_path):
    def write(link: str, mode: int = stat.S_IFLNK) -> Path:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("d/real", b"picture")
            info = zipfile.ZipInfo("d/link")
            info.create_system, info.external_attr = 3, (mode | 0o777) << 16
            archive.writestr(info, link)
        return tmp_path / "a.zip"

    assert refuse(write("../../etc/passwd")).endswith('is a link to "d/../../etc/passwd", out of the archive.')
    assert refuse(write("x", stat.S_IFIFO)).endswith('"d/link" is neither a file nor a folder nor a link.')
    assert read_files(unpack_archive(write("real"), tmp_path / "out"))["link"] == b"picture"


def test_an_encrypted_zip_is_refused(tmp_path):
    data = bytearray(pack_bytes({"a.jpg": b"1"}))
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    assert refuse(tmp_path / "a.zip") == "'A' is refused: its member \"a.jpg\" is encrypted."


@pytest.mark.parametrize("ending", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_bomb_is_stopped_by_its_ratio(tmp_path, ending):
    archive = pack(tmp_path / f"a.{ending}", {"zeros": bytes(10_000_000)})
    limits = UnpackLimits(spared_bytes=1_000_000)
    assert refuse(archive, limits=limits) == "'A' unpacks to more than 200 times its size: it looks like a zip bomb."
    assert (unpack_archive(archive, tmp_path / "out") / "zeros").stat().st_size == 10_000_000


def test_a_large_bomb_is_stopped_by_the_default_limits(tmp_path):
    archive = tmp_path / "a.tar.gz"
    info = tarfile.TarInfo("zeros")
    info.size = 200 << 20
    with gzip.open(archive, "wb", compresslevel=1) as stream:
        stream.write(info.tobuf())
        for _ in range(200):
            stream.write(bytes(1 << 20))
        stream.write(bytes(1024))
    if archive.stat().st_size * 200 < 200 << 20:
        assert "it looks like a zip bomb" in refuse(archive)


def test_bytes_and_members_are_limited(tmp_path):
    archive = pack(tmp_path / "a.tar", {str(number): os.urandom(100) for number in range(20)})
    assert refuse(archive, limits=UnpackLimits(max_bytes=1999)) == "'A' unpacks to more than 1.952 KiB."
    assert refuse(archive, limits=UnpackLimits(max_members=19)) == "'A' holds more than 19 members."


def test_a_bomb_inside_an_archive_counts_too(tmp_path):
    bomb = pack_bytes({"zeros": bytes(3_000_000)})
    archive = pack(tmp_path / "a.zip", {f"{number}.zip": bomb for number in range(4)})
    limits = UnpackLimits(spared_bytes=10_000_000, max_ratio=10)
    assert refuse(archive, limits=limits).startswith("'A/3.zip' unpacks to more than 10 times its size: it looks like")


def test_links_to_a_large_file_count(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add_tar(archive, "a", bytes(100_000))
        for number in range(50):
            add_tar(archive, f"l{number}", kind=tarfile.LNKTYPE, link="a")
    assert "zip bomb" in refuse(tmp_path / "a.tar", limits=UnpackLimits(spared_bytes=1_000_000, max_ratio=2))


def test_overlapping_members_are_refused(tmp_path):
    """A bomb in which many directory entries name the same compressed bytes."""
    body = zlib.compress(bytes(100_000))[2:-4]
    crc = zlib.crc32(bytes(100_000))
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 33, crc, len(body), 100_000, 1, 0) + b"0" + body
    entries = b"".join(
        struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 8, 0, 33, crc, len(body), 100_000, 1, 0, 0, 0, 0, 0, 0)
        + str(number).encode() for number in range(10))
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 10, 10, len(entries), len(local), 0)
    (tmp_path / "a.zip").write_bytes(local + entries + end)
    assert refuse(tmp_path / "a.zip") == "'A' is refused: its member \"1\" overlaps another member."


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path):
    data = pack_bytes({"a": bytes(5000)})
    (tmp_path / "a.zip").write_bytes(data.replace(struct.pack("<L", 5000), struct.pack("<L", 10)))
    assert "cut off, damaged" in refuse(tmp_path / "a.zip")
    (tmp_path / "a.zip").write_bytes(data.replace(struct.pack("<L", 5000), struct.pack("<L", 50_000_000)))
    assert "zip bomb" in refuse(tmp_path / "a.zip", limits=UnpackLimits(spared_bytes=49_000_000))


def test_a_tar_whose_headers_would_fill_the_memory_is_refused(tmp_path):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(10_000))
    assert "a header of impossible size" in refuse(tmp_path / "a.tar")


def test_a_tar_with_a_negative_size_ends(tmp_path):
    header = tarfile.TarInfo("a")
    content = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    content[124:136] = b"\xff" * 10 + b"\xfc\x00"  # base 256: -1024
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content)
    (tmp_path / "a.tar").write_bytes(bytes(content) + bytes(2048))
    started = time.monotonic()
    assert "cut off, damaged" in refuse(tmp_path / "a.tar")
    assert time.monotonic() - started < 5


def test_a_tar_of_nothing_but_name_headers_is_refused(tmp_path):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1
    (tmp_path / "a.tar").write_bytes((header.tobuf(tarfile.GNU_FORMAT) + bytes(512)) * 5000)
    assert "cannot be unpacked" in refuse(tmp_path / "a.tar")


@pytest.mark.parametrize("ending", FORMATS)
def test_a_cut_archive_is_one_error_wherever_it_is_cut(tmp_path, ending):
    archive = pack(tmp_path / f"a.{ending}", FILES)
    whole = archive.read_bytes()
    for length in {0, 1, 6, *range(0, len(whole), max(1, len(whole) // 80))}:
        archive.write_bytes(whole[:length])
        if fault := find_fault(archive, tmp_path / "out"):
            assert str(archive) in fault
            assert sorted(tmp_path.iterdir()) == [archive]
        else:  # only the padding behind the end was cut
            assert read_files(tmp_path / "out") == FILES
            archives.shutil.rmtree(tmp_path / "out")


def test_a_tar_cut_between_two_members_is_refused(tmp_path):
    archive = pack(tmp_path / "a.tar", {"a": b"1" * 512, "b": b"2" * 512})
    archive.write_bytes(archive.read_bytes()[:1024])
    assert "the end of the archive is missing" in refuse(archive)


def test_a_file_that_is_no_archive(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError) as failure:
        unpack_archive(tmp_path / "a.zip", tmp_path / "out")
    assert failure.value.message.startswith(f"'{tmp_path}/a.zip' cannot be unpacked: it is cut off, damaged or of an ")
    assert failure.value.hint == "Download it again."
    with pytest.raises(DataError, match=r"no\.zip' cannot be unpacked: No such file or directory"):
        unpack_archive(tmp_path / "no.zip", tmp_path / "out")


def test_a_target_that_is_there_is_left_alone(tmp_path):
    archive = pack(tmp_path / "a.zip", FILES)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    assert refuse(archive) == f"'{tmp_path}/out' exists already: 'a.zip' cannot be unpacked there."
    assert (tmp_path / "out" / "mine").exists()


def test_what_a_kill_left_behind_is_cleared(tmp_path):
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "half").touch()
    content = unpack_archive(pack(tmp_path / "a.zip", FILES), tmp_path / "out")
    assert "half" not in read_files(content)
    assert not (tmp_path / "out.part").exists()


def test_a_disk_too_small_is_known_before_and_while_unpacking(tmp_path, monkeypatch):
    archive = pack(tmp_path / "a.zip", FILES)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: archives.shutil._ntuple_diskusage(9000, 8000, 1000))
    assert refuse(archive) == "'A' unpacks to 3.42 KiB, but only 1000 bytes of the disk are free."
    monkeypatch.undo()

    def fill(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives, "_copy_bytes", fill)
    assert refuse(archive) == "The disk is full: 'A' could not be unpacked."


def test_sizes_in_words():
    assert [show_size(size) for size in (0, 1023, 1536, 5 << 20, 3 << 40)] == [
        "0 bytes", "1023 bytes", "1.5 KiB", "5 MiB", "3 TiB"]


NAMES = st.text(max_size=6) | st.text(st.sampled_from("aA.b/\\:\0~ é\u202e"), max_size=12) | st.sampled_from(
    ["..", "../x", "/etc/x", "a/../../x", "C:\\x", "con", "a" * 300, ".", "", "a/", "../", "x/./y"])


def check_names(base: Path, names: list[str], ending: str) -> None:
    """Unpack members of any names: all of it lands in the target, or nothing is written."""
    inner = base / "a" / "b"
    archives.shutil.rmtree(base / "a", ignore_errors=True)
    inner.mkdir(parents=True)
    archive = inner / f"x.{ending}"
    try:
        with (zipfile.ZipFile if ending == "zip" else tarfile.open)(archive, "w") as stream:
            for name in names:
                stream.writestr(zipfile.ZipInfo(name), b"1") if ending == "zip" else add_tar(stream, name, b"1")
    except (UnicodeEncodeError, ValueError, IndexError):
        return
    outside = set(base.rglob("*"))
    fault = find_fault(archive, inner / "out")
    new = set(base.rglob("*")) - outside
    assert (str(archive) in fault and not new) if fault else new
    assert all(path.is_relative_to(inner / "out") and not path.is_symlink() for path in new)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@FEW
@given(names=st.lists(NAMES, min_size=1, max_size=4), ending=st.sampled_from(["zip", "tar"]))
def test_no_name_leads_outside(tmp_path, names, ending):
    check_names(tmp_path, names, ending)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Duplicate name")
@MANY
@given(names=st.lists(NAMES, min_size=1, max_size=4), ending=st.sampled_from(["zip", "tar"]))
def test_no_name_leads_outside_in_10_000_archives(tmp_path, names, ending):
    check_names(tmp_path, names, ending)


def check_damage(base: Path, ending: str, changes: list[tuple[float, int]]) -> None:
    """Change bytes of an archive: one error that names it, or files in the target and nothing else."""
    archives.shutil.rmtree(base / "d", ignore_errors=True)
    (base / "d").mkdir()
    archive = pack(base / "d" / f"x.{ending}", FILES)
    content = bytearray(archive.read_bytes())
    for share, value in changes:
        content[int(share * (len(content) - 1))] = value
    archive.write_bytes(content)
    fault = find_fault(archive, base / "d" / "out")
    assert str(archive) in fault or not fault
    assert {path.name for path in (base / "d").iterdir()} == ({archive.name} if fault else {archive.name, "out"})


CHANGES = st.lists(st.tuples(st.floats(0, 1) | st.floats(0, 0.2), st.integers(0, 255)), min_size=1, max_size=5)


@FEW
@given(ending=st.sampled_from(FORMATS), changes=CHANGES)
def test_no_damage_brings_it_down(tmp_path, ending, changes):
    check_damage(tmp_path, ending, changes)


@pytest.mark.slow
@MANY
@given(ending=st.sampled_from(FORMATS), changes=CHANGES)
def test_no_damage_brings_it_down_in_10_000_archives(tmp_path, ending, changes):
    check_damage(tmp_path, ending, changes)

"""A table with pictures inside, written as plain files: the layout that `reading.read_hub_rows` reads."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.reading import HUB_FACTS
from medvqa_cli.errors import DataError
from medvqa_cli.progress import SILENT
from medvqa_cli.records import write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from medvqa_cli.progress import Progress

IMAGE_FOLDER = "images"
UNKNOWN = ".bin"
PICTURE_KEYS = {"bytes", "path"}
MAGIC = ((b"\x89PNG\r\n\x1a\n", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"GIF8", ".gif"), (b"BM", ".bmp"),
         (b"II*\0", ".tif"), (b"MM\0*", ".tif"), (b"II+\0", ".tif"), (b"MM\0+", ".tif"),
         (b"\0\0\0\x0cjP  ", ".jp2"), (b"\xff\x4f\xff\x51", ".j2k"))


def lay_out_rows(tables: Mapping[str, Iterable[Mapping[str, Any]]], target: Path, origin: Mapping[str, Any],
                 progress: Progress = SILENT, total: int | None = None) -> None:
    """Write the splits of a table as a new folder of plain files: hub.json, <split>.jsonl, images/.

    A picture is a value {"bytes": ..., "path": ...}, or bytes that begin like a picture; in its place the row gets the
    relative path of its file, images/<first two digits>/<SHA-256 of the bytes>.<extension>. The bytes are written as
    they are, each distinct picture once; the extension follows the first bytes, and is ".bin" for what is no known
    picture: reading the image says so later, with its question. Numbers that are not finite become null; dates and
    times are written as ISO 8601. One row is held in memory.

    Args:
        tables: The rows of every split.
        target: The folder to make. It is written as `<target>.part` and renamed: it is there whole or not at all.
        origin: Where the table is from; goes into hub.json.
        progress: Is told about every row.
        total: Number of rows, if known.

    Raises:
        DataError: If the target exists, there is no split, a split's name is no plain word, a picture that stands
            outside the table cannot be read or is no picture, or a value has no form in JSON.
    """
    if target.exists():
        raise DataError(f"'{target}' exists already.", "Delete it first.")
    if not tables or not all(re.fullmatch(r"\w+", split) for split in tables):
        raise DataError(f"The splits of a table need names of letters, digits and '_', but are: {', '.join(tables)}.")
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        progress.start("Writing rows and pictures", total, "row")
        pictures: set[str] = set()
        splits = {split: _write_split(split, rows, part, pictures, progress) for split, rows in tables.items()}
        write_json(part / HUB_FACTS, {**origin, "splits": splits, "pictures": sorted(pictures)})
        progress.finish()
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def find_extension(content: bytes) -> str:
    """Return the extension that fits the first bytes of a picture; ".bin" if they are none that is known."""
    if content[128:132] == b"DICM":
        return ".dcm"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    return next((extension for magic, extension in MAGIC if content.startswith(magic)), UNKNOWN)


def _write_split(split: str, rows: Iterable[Mapping[str, Any]], folder: Path, pictures: set[str],
                 progress: Progress) -> int:
    number = 0
    with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as stream:
        for number, row in enumerate(rows, start=1):
            where = f"Split '{split}', row {number}"
            values = {}
            for name, value in row.items():
                found: list[str] = []
                values[name] = _encode(value, folder, f"{where}, column '{name}'", found)
                pictures.update([name] if found else [])
            stream.write(json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n")
            progress.advance()
    return number


def _encode(value: Any, folder: Path, where: str, found: list[str]) -> Any:
    """Return a value as JSON holds it; pictures are written, and their paths appended to `found`."""
    if isinstance(value, bytes):
        return _write_bytes(value, folder, where, found)
    if isinstance(value, dict):
        if value.keys() == PICTURE_KEYS and isinstance(value["bytes"], bytes | None):
            return _write_picture(value["bytes"], value["path"], folder, where, found)
        return {str(key): _encode(part, folder, where, found) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(part, folder, where, found) for part in value]
    return _encode_plain(value, where)


def _encode_plain(value: Any, where: str) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise DataError(f"{where}: a value of type {type(value).__name__} has no form in JSON.")


def _write_bytes(value: bytes, folder: Path, where: str, found: list[str]) -> str:
    if find_extension(value) == UNKNOWN:
        raise DataError(f"{where}: bytes that are no picture.")
    return _write_once(value, folder, found)


def _write_picture(content: bytes | None, path: str | None, folder: Path, where: str, found: list[str]) -> str | None:
    if content is None and not path:
        return None
    return _write_once(_read_outside(str(path), where) if content is None else content, folder, found)


def _read_outside(path: str, where: str) -> bytes:
    """Return a picture that a row only names: nothing but pictures, for a table may name any file of the machine."""
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: the picture '{path}' is not in the table and cannot be read.",
                        "Save the table again with its pictures inside it.") from error
    if find_extension(content) == UNKNOWN:
        raise DataError(f"{where}: '{path}' is no picture.")
    return content


def _write_once(content: bytes, folder: Path, found: list[str]) -> str:
    digest = hashlib.sha256(content).hexdigest()
    relative = f"{IMAGE_FOLDER}/{digest[:2]}/{digest}{find_extension(content)}"
    file = folder / relative
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    found.append(relative)
    return relative


def iterate_rows(table: Any, batch_size: int = 32) -> Iterator[dict[str, Any]]:
    """Yield the rows of a `datasets.Dataset` or `IterableDataset` undecoded: pictures as bytes, labels by name."""
    from datasets import ClassLabel

    labels = {name: feature for name, feature in (table.features or {}).items() if isinstance(feature, ClassLabel)}
    for batch in table.with_format("arrow").iter(batch_size=batch_size):
        for row in batch.to_pylist():
            named = {name: feature.int2str(row[name]) for name, feature in labels.items() if row[name] is not None}
            yield row | named

"""Rows as files of each form, written in one pass, and read back."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.exchange import restore_sample
from medvqa_cli.data.files.fields import PATH_HINT
from medvqa_cli.data.prepared.rows import LISTS, MAPPINGS, PICTURES, SIDES, TABLES, TEXTS
from medvqa_cli.data.reading import join_path, read_jsonl_rows, read_parquet_rows
from medvqa_cli.errors import DataError
from medvqa_cli.records import VQASample

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from medvqa_cli.data.reading import Row

BATCH_ROWS = 1000
DEFAULTS = {spec.name: spec.default for spec in dataclasses.fields(VQASample)
            if spec.default is not dataclasses.MISSING}


def encode_json(row: Mapping[str, Any]) -> bytes:
    """Return a row as one line of JSON, without its end.

    Raises:
        TypeError: If a value has no form in JSON.
        ValueError: If a value is not finite or no valid Unicode.
    """
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode()


def encode_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with every field, and its mappings as JSON text (null where there is none).

    Raises:
        TypeError, ValueError: As `encode_json`.
    """
    encode_json(row)  # what has no place in a table either is found here, and not with a thousand other rows
    return {**DEFAULTS, **row, **{key: encode_json(row[key]).decode() for key in MAPPINGS if key in row}}


def write_list(path: Path, lines: Iterable[bytes]) -> int:
    """Write encoded rows as one JSON list, a row a line, and return their number."""
    count = 0
    with path.open("wb") as stream:
        for count, line in enumerate(lines, start=1):
            stream.write((b",\n" if count > 1 else b"[\n") + line)
        stream.write(b"\n]\n" if count else b"[]\n")
    return count


def write_lines(path: Path, lines: Iterable[bytes]) -> int:
    """Write encoded rows as JSON lines, and return their number."""
    with path.open("wb") as stream:
        return sum(stream.write(line + b"\n") > 0 for line in lines)


def write_parquet(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write the rows of `encode_columns` as Parquet, every field a column, and return their number."""
    import pyarrow as pa
    from pyarrow import parquet

    schema, rows, count = _make_schema(), iter(rows), 0
    with parquet.ParquetWriter(path, schema) as writer:
        while batch := list(itertools.islice(rows, BATCH_ROWS)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


def read_export(path: Path, image_root: Path | None = None) -> Iterator[VQASample]:
    """Yield the samples of an exported Parquet or JSON-lines file, equal to those exported.

    Paths of pictures are taken as they are where they are absolute: read your own exports with it.

    Args:
        path: A file of the form `parquet` or `jsonl`.
        image_root: Folder that the pictures' paths start from (`ExportReport.image_root`); the file's own if None.

    Raises:
        DataError: If the file cannot be read or a row is not as it was exported; file, row and field are named.
    """
    folder = (path.parent if image_root is None else image_root).absolute()
    is_table = path.suffix.lower() == ".parquet"
    for row in read_parquet_rows(path) if is_table else read_jsonl_rows(path):
        values = _decode_columns(row) if is_table else dict(row.values)
        yield restore_sample(row, values | {key: _join(row, key, folder) for key in PICTURES if key in values})


def _decode_columns(row: Row) -> dict[str, Any]:
    """Return the values of a row with its mappings; those that are null keep their default."""
    values = {key: value for key, value in row.values.items() if value is not None}
    return values | {key: _decode(row, key, values[key]) for key in MAPPINGS if key in values}


def _decode(row: Row, key: str, value: Any) -> Any:
    try:
        return json.loads(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise row.wrong(key, "JSON") from error


def _join(row: Row, key: str, folder: Path) -> tuple[str, ...]:
    paths = row.value(key)
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise row.wrong(key, "a list of paths")
    try:
        return tuple(path if Path(path).is_absolute() else str(join_path(folder, path)) for path in paths)
    except DataError as error:
        raise row.error(f"a path in '{key}' does not stay inside '{folder}'", PATH_HINT) from error


def _make_schema() -> Any:
    import pyarrow as pa

    text = pa.string()
    box = pa.struct({"label": text, **dict.fromkeys(SIDES, pa.float64())})
    return pa.schema({**dict.fromkeys(TEXTS, text), **dict.fromkeys((*PICTURES, *LISTS), pa.list_(text)),
                      "boxes": pa.list_(box), **dict.fromkeys(TABLES, pa.list_(pa.list_(text))),
                      **dict.fromkeys(MAPPINGS, text)})

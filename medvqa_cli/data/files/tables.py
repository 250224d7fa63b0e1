"""JSON, JSON-lines, CSV and Parquet files as rows; all but JSON are read a piece at a time, whatever their size."""

from __future__ import annotations

import csv
import itertools
import json
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.files.fields import Row, quote
from medvqa_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

RESTORE = "Download or extract the file again."
RECODE = "Convert it with: iconv -f ENCODING -t UTF-8."
CHUNK = 1 << 20
MAX_LINE_BYTES = 64 << 20
MAX_JSON_BYTES = 2 << 30
PARQUET_BATCH = 64


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a .json, .jsonl, .csv, .tsv or .parquet file (upper and lower case are equal).

    Raises:
        DataError: If the file's name ends in something else, or on a fault of the file.
    """
    readers = {".json": read_json_rows, ".jsonl": read_jsonl_rows, ".csv": read_csv_rows, ".tsv": _read_tsv_rows,
               ".parquet": read_parquet_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"'{path}' is no table: its name should end in one of {', '.join(readers)}.")
    yield from reader(path)


def read_text(path: Path) -> str:
    """Return a UTF-8 text file; a byte-order mark is dropped.

    Raises:
        DataError: If the file is missing, unreadable or not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _wrong_encoding(path, error.object.count(b"\n", 0, error.start) + 1, error) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    It is held in memory, at about five times its size; a file of more than 2 GiB is refused.

    Raises:
        DataError: If it is missing, too large, not UTF-8, empty, cut off or not valid JSON.
    """
    if path.is_file() and path.stat().st_size > MAX_JSON_BYTES:
        raise DataError(f"'{path}' is larger than {MAX_JSON_BYTES >> 20} MiB: too large for one JSON document.",
                        "Make it JSON-lines, which is read a row at a time: jq -c '.[]' FILE.json > FILE.jsonl.")
    return _parse_json(read_text(path), str(path))


def read_json_rows(path: Path) -> list[Row]:
    """Return the objects of a JSON file that holds one list; it is held in memory, see `read_json`.

    Raises:
        DataError: If it is not valid JSON, not a list, or holds anything but objects.
    """
    records = read_json(path)
    if not isinstance(records, list):
        raise DataError(f"{path}: expected a list of records, found {_name_type(records)}.", RESTORE)
    return [_make_row(record, path, number) for number, record in enumerate(records, start=1)]


def read_jsonl_rows(path: Path) -> Iterator[Row]:
    """Yield the objects of a JSON-lines file; empty lines are passed over.

    Lines end in LF, CRLF or CR. One line is held in memory.

    Raises:
        DataError: If the file cannot be read, or a line is not one JSON object or longer than 64 MiB.
    """
    for number, line in enumerate(_read_lines(path), start=1):
        if line.strip():
            yield _make_row(_parse_json(line.rstrip("\r\n"), f"{path}, line {number}"), path, number)


def read_csv_rows(path: Path, *, delimiter: str = ",", header: Sequence[str] | None = None,
                  quotes: bool = True) -> Iterator[Row]:
    """Yield the records of a CSV file; all values are texts.

    Lines end in LF, CRLF or CR; empty lines are passed over. One record is held in memory; a value has at most 131,072
    characters (`csv.field_size_limit`).

    Args:
        path: The file.
        delimiter: What separates values.
        header: Names of the columns of a file without a header line.
        quotes: False reads quotation marks as plain characters; a value then cannot hold a delimiter or a line end.

    Raises:
        DataError: If the file is empty, a column has no name or one taken, or a record has too many or too few values.
    """
    records = _read_records(path, delimiter, quotes=quotes)
    first = next(records, None)
    if first is None:
        raise DataError(f"{path}: the file is empty.", RESTORE)
    names = [name.strip() for name in (first if header is None else header)]
    if not all(names) or len(set(names)) < len(names):
        raise DataError(f"{path}: every column needs a name of its own, but the header is {quote(names)}.")
    if header is not None:
        yield _match_columns(path, 1, names, first)
    for number, record in enumerate(records, start=1 if header is None else 2):
        yield _match_columns(path, number, names, record)


def read_parquet_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Yield the rows of a Parquet file; values have the file's own types.

    Args:
        path: The file.
        columns: Read only these.

    Raises:
        DataError: If the file cannot be read, is no Parquet file, is damaged, or a column is missing or stands twice.
    """
    import pyarrow
    from pyarrow import parquet

    numbers = itertools.count(1)
    try:
        with path.open("rb") as stream, parquet.ParquetFile(stream, pre_buffer=False, buffer_size=CHUNK) as file:
            _check_columns(path, file.schema_arrow.names, columns)
            for batch in file.iter_batches(PARQUET_BATCH, columns=columns):
                yield from (Row(values, path, next(numbers)) for values in batch.to_pylist())
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' is no valid Parquet file ({_first_line(error)}).", RESTORE) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _read_tsv_rows(path: Path) -> Iterator[Row]:
    return read_csv_rows(path, delimiter="\t")


def _read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text with their ends, holding one line in memory; a byte-order mark is dropped."""
    number = 0
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(_split_lines(stream, path), start=1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if "\0" in text:
                    raise DataError(f"{path}, line {number}: a NUL byte: the file is damaged, or not UTF-8.", RECODE)
                yield text
    except UnicodeDecodeError as error:
        raise _wrong_encoding(path, number, error) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _split_lines(stream: BinaryIO, path: Path) -> Iterator[bytes]:
    rest, number = b"", 1
    while chunk := stream.read(CHUNK):
        *lines, rest = (rest + chunk).splitlines(keepends=True)
        if len(rest) > MAX_LINE_BYTES:
            raise DataError(f"{path}, line {number + len(lines)}: longer than {MAX_LINE_BYTES >> 20} MiB.", RESTORE)
        yield from lines
        number += len(lines)
    yield from rest.splitlines(keepends=True)


def _read_records(path: Path, delimiter: str, *, quotes: bool) -> Iterator[list[str]]:
    reader = csv.reader(_read_lines(path), delimiter=delimiter, strict=True,
                        quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE)
    try:
        yield from (record for record in reader if record)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not valid CSV ({error}).", RESTORE) from error


def _match_columns(path: Path, number: int, names: list[str], record: list[str]) -> Row:
    if len(record) != len(names):
        raise DataError(f"{path}, row {number}: {len(record)} values under {len(names)} columns.", RESTORE)
    return Row(dict(zip(names, record, strict=True)), path, number)


def _check_columns(path: Path, names: list[str], wanted: Sequence[str] | None) -> None:
    if len(set(names)) < len(names):
        raise DataError(f"{path}: every column needs a name of its own, but the columns are {quote(names)}.")
    if missing := [name for name in wanted or () if name not in names]:
        raise DataError(f"{path}: the column '{missing[0]}' is missing.", f"The columns found are: {', '.join(names)}.")


def _parse_json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        is_cut = not text[error.pos:].strip() or error.msg.startswith("Unterminated string")
        what = "the file is empty" if not text.strip() else "the JSON is cut off" if is_cut else "not valid JSON"
        raise DataError(f"{place}: {what} ({error}).", RESTORE) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of nested lists
        raise DataError(f"{place}: not usable JSON ({error}).", RESTORE) from error


def _make_row(record: Any, path: Path, number: int) -> Row:
    if not isinstance(record, dict):
        raise DataError(f"{path}, row {number}: expected an object, found {_name_type(record)} {quote(record)}.")
    return Row(record, path, number)


def _name_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def _wrong_encoding(path: Path, line: int, error: UnicodeDecodeError) -> DataError:
    return DataError(f"{path}, line {line}: not UTF-8 text (byte 0x{error.object[error.start]:02x}).",
                     RECODE)


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"'{path}' cannot be read: {error.strerror or _first_line(error)}.", RESTORE)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")

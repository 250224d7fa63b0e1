"""JSON, JSON-lines and CSV files as rows that know where they stand, so that every error names file, row and value."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from medvqa_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from medvqa_cli.data.protocol import DatasetCard

RESTORE = "Download or extract the file again."
PATH_HINT = "Paths in a data set must be relative and must not contain '..'."


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a file.

    `number` counts records from 1: the position in a JSON list, the line of a JSON-lines file, the record below the
    header of a CSV file.
    """

    values: Mapping[str, Any]
    file: Path
    number: int

    def value(self, key: str) -> Any:
        """Return a value as it stands in the file.

        Raises:
            DataError: If the key is missing.
        """
        if key not in self.values:
            raise self.error(f"the key '{key}' is missing", f"The keys found are: {', '.join(map(str, self.values))}.")
        return self.values[key]

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text with its white space tidied: none at the ends, single blanks inside.

        Args:
            key: Where it stands.
            default: Returned if the key is missing; without it a missing key is an error.

        Raises:
            DataError: If the key is missing and there is no default, or the value is no valid text.
        """
        if default is not None and key not in self.values:
            return default
        value = self.value(key)
        if not isinstance(value, str):
            raise self.wrong(key, "a text")
        if not is_unicode(value):
            raise self.wrong(key, "valid Unicode")
        return " ".join(value.split())

    def required_text(self, key: str) -> str:
        """Return a tidied text that says something.

        Raises:
            DataError: If the key is missing, or the value is no text or empty.
        """
        return self.text(key) or self._fail(key, "a text that is not empty")

    def integer(self, key: str) -> int:
        """Return a whole number.

        Raises:
            DataError: If the key is missing or the value is anything else (true and false are no numbers).
        """
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(key, "a whole number")
        return value

    def text_or_integer(self, key: str) -> str:
        """Return a tidied text; a whole number is written out.

        Raises:
            DataError: If the key is missing or the value is neither.
        """
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self.wrong(key, "a text or a whole number")
        return self.text(key) if isinstance(value, str) else str(value)

    def path(self, key: str, folder: Path) -> Path:
        """Return the file that a value names relative to a folder; white space is left as it is.

        Raises:
            DataError: If the key is missing, or the value is no text or leads out of the folder.
        """
        relative = self.value(key)
        if not isinstance(relative, str):
            raise self.wrong(key, "a text")
        if not _stays_inside(relative):
            raise self.error(f"the path {quote(relative)} in '{key}' does not stay inside '{folder}'", PATH_HINT)
        return folder / relative

    def choice(self, key: str, allowed: Sequence[str]) -> str:
        """Return a tidied text that is one of `allowed`, in the spelling given there; upper and lower case are equal.

        Raises:
            DataError: If the key is missing or the value is none of them.
        """
        found = self.text(key).lower()
        spelling = {name.lower(): name for name in allowed}
        return spelling.get(found) or self._fail(key, f"one of {', '.join(allowed)}")

    def error(self, fault: str, hint: str = "") -> DataError:
        """Return an error about this row: "FILE, row N: FAULT."."""
        return DataError(f"{self.file}, row {self.number}: {fault}.", hint)

    def wrong(self, key: str, wanted: str) -> DataError:
        """Return an error about one value: what it should be and what it is."""
        return self.error(f"'{key}' should be {wanted}, but is {quote(self.values[key])}")

    def _fail(self, key: str, wanted: str) -> NoReturn:
        raise self.wrong(key, wanted)


def quote(value: Any, max_length: int = 80) -> str:
    """Return a value as one short line of JSON, for an error message."""
    text = json.dumps(value, default=str, ensure_ascii=False).encode(errors="backslashreplace").decode()
    return text if len(text) <= max_length else f"{text[:max_length]}..."


def is_unicode(text: str) -> bool:
    """Tell whether a text can be written as UTF-8 (JSON escapes can spell half characters that cannot)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_text(path: Path) -> str:
    """Return a UTF-8 text file; a byte-order mark is dropped.

    Raises:
        DataError: If the file is missing, unreadable or not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 text (byte 0x{error.object[error.start]:02x}).",
                        "Convert it with: iconv -f ENCODING -t UTF-8.") from error
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror}.", RESTORE) from error


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: If it is missing, not UTF-8, empty, cut off or not valid JSON.
    """
    return _parse_json(read_text(path), str(path))


def read_json_rows(path: Path) -> list[Row]:
    """Return the objects of a JSON file that holds one list.

    Raises:
        DataError: If it is not valid JSON, not a list, or holds anything but objects.
    """
    records = read_json(path)
    if not isinstance(records, list):
        raise DataError(f"{path}: expected a list of records, found {_name_type(records)}.", RESTORE)
    return [_make_row(record, path, number) for number, record in enumerate(records, start=1)]


def read_jsonl_rows(path: Path) -> list[Row]:
    """Return the objects of a JSON-lines file; empty lines are passed over.

    Raises:
        DataError: If a line is not one JSON object.
    """
    lines = read_text(path).split("\n")
    return [_make_row(_parse_json(line, f"{path}, line {number}"), path, number)
            for number, line in enumerate(lines, start=1) if line.strip()]


def read_csv_rows(path: Path, *, delimiter: str = ",") -> list[Row]:
    """Return the records of a CSV file with a header line; all values are texts.

    Raises:
        DataError: If the file is empty, a column has no name or one taken, or a record has too many or too few values.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        records = [record for record in reader if record]
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not valid CSV ({error}).", RESTORE) from error
    if not records:
        raise DataError(f"{path}: the file is empty.", RESTORE)
    header = [name.strip() for name in records[0]]
    if not all(header) or len(set(header)) < len(header):
        raise DataError(f"{path}: every column needs a name of its own, but the header is {quote(header)}.")
    for number, record in enumerate(records[1:], start=1):
        if len(record) != len(header):
            raise DataError(f"{path}, row {number}: {len(record)} values under {len(header)} columns.", RESTORE)
    return [Row(dict(zip(header, record, strict=True)), path, number)
            for number, record in enumerate(records[1:], start=1)]


def find_folder(card: DatasetCard, root: Path | None, find_fault: Callable[[Path], str]) -> Path:
    """Return the folder of a data set's original files: `root`, or the first of the card's default folders that fits.

    Args:
        card: The data set's card.
        root: The folder the user named, if any.
        find_fault: Says what is wrong with the layout of a folder; an empty text if nothing is.

    Raises:
        DataError: If `root` is missing or laid out wrongly, or no default folder fits (the folders tried are listed).
    """
    if root is None:
        tried = [Path(folder).expanduser().absolute() for folder in card.default_roots]
        found = next((folder for folder in tried if folder.is_dir() and not find_fault(folder)), None)
        if found is None:
            raise DataError(f"The files of {card.title} were not found. Tried: {', '.join(map(str, tried))}.",
                            f"{card.obtain} Name the folder with --root DIR.")
        return found.resolve()
    folder = root.expanduser().resolve()
    if not folder.is_dir():
        raise DataError(f"The folder '{folder}' does not exist.", "Name the data set's folder with --root DIR.")
    if fault := find_fault(folder):
        raise DataError(f"'{folder}' is not laid out like {card.title}: {fault}.", card.obtain)
    return folder


def join_path(folder: Path, relative: str) -> Path:
    """Return `folder / relative` for a path that comes from a data set; `Row.path` names file and row as well.

    Raises:
        DataError: If the path is empty, absolute, or leads out of the folder: a data set must not reach other files.
    """
    if not _stays_inside(relative):
        raise DataError(f"The path {quote(relative)} does not stay inside '{folder}'.", PATH_HINT)
    return folder / relative


def _stays_inside(relative: str) -> bool:
    parts = relative.replace("\\", "/").split("/")
    is_absolute = not parts[0] or ":" in parts[0]
    return bool(relative.strip()) and not is_absolute and ".." not in parts and "\0" not in relative


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

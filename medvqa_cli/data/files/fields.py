"""One row of a file: its fields are checked as they are read, and every error names file, row and value."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from medvqa_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PATH_HINT = "Paths in a data set must be relative and must not contain '..'."


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a file.

    `number` counts records from 1: the position in a JSON list, the line of a JSON-lines file, the record below the
    header of a CSV file, the row of a Parquet file.
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

    def optional(self, key: str, default: Any = None) -> Any:
        """Return a value as it stands in the file; `default` if the key is missing or the value is null."""
        value = self.values.get(key)
        return default if value is None else value

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
        return self._tidy(key, self.value(key), "a text")

    def optional_text(self, key: str) -> str:
        """Return a tidied text; an empty one if the key is missing or the value is null.

        Raises:
            DataError: If the value is anything else.
        """
        return "" if self.optional(key) is None else self.text(key)

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

    def real(self, key: str) -> float:
        """Return a finite number.

        Raises:
            DataError: If the key is missing or the value is anything else (true and false are no numbers).
        """
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.wrong(key, "a number")
        return float(value)

    def number_text(self, key: str) -> str:
        """Return a tidied text; a number is written out, and 5.0 as "5": tables turn whole numbers into such.

        Raises:
            DataError: If the key is missing or the value is neither.
        """
        value = self.value(key)
        if isinstance(value, float) and math.isfinite(value):
            return str(int(value)) if value.is_integer() else repr(value)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self.wrong(key, "a text or a number")
        return self.text(key) if isinstance(value, str) else str(value)

    def texts(self, key: str) -> tuple[str, ...]:
        """Return the tidied texts of a list.

        Raises:
            DataError: If the key is missing or the value is no list of texts.
        """
        values = self.value(key)
        if not isinstance(values, list | tuple):
            raise self.wrong(key, "a list of texts")
        return tuple(self._tidy(key, value, "a list of texts") for value in values)

    def paths(self, key: str, folder: Path) -> tuple[Path, ...]:
        """Return the files that a list, or one text, names relative to a folder; see `path`.

        Raises:
            DataError: If the key is missing, or the value is neither, or one of the paths leads out of the folder.
        """
        values = self.value(key)
        if isinstance(values, str):
            values = [values]
        if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
            raise self.wrong(key, "a path or a list of paths")
        return tuple(self._join(key, value, folder) for value in values)

    def path(self, key: str, folder: Path) -> Path:
        """Return the file that a value names relative to a folder; white space is left as it is.

        Raises:
            DataError: If the key is missing, or the value is no valid text or leads out of the folder.
        """
        relative = self.value(key)
        if not isinstance(relative, str):
            raise self.wrong(key, "a text")
        return self._join(key, relative, folder)

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

    def _tidy(self, key: str, value: Any, wanted: str) -> str:
        if not isinstance(value, str):
            raise self.wrong(key, wanted)
        if not is_unicode(value):
            raise self.wrong(key, "valid Unicode")
        return " ".join(value.split())

    def _join(self, key: str, relative: str, folder: Path) -> Path:
        if not is_unicode(relative):
            raise self.wrong(key, "valid Unicode")
        if not stays_inside(relative):
            raise self.error(f"the path {quote(relative)} in '{key}' does not stay inside '{folder}'", PATH_HINT)
        return folder / relative

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


def stays_inside(relative: str) -> bool:
    """Tell whether a relative path stays in the folder it starts from, read as Unix and as Windows do."""
    parts = relative.replace("\\", "/").split("/")
    is_absolute = not parts[0] or ":" in parts[0]
    return bool(relative.strip()) and not is_absolute and ".." not in parts and "\0" not in relative

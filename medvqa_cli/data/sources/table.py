"""Table: any CSV, TSV, JSON, JSON-lines or Parquet file of questions and answers, with a map of its columns."""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import itertools
import posixpath
import re
import string
from collections import defaultdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medvqa_cli.data.protocol import DatasetCard
from medvqa_cli.data.reading import SPLIT_WORDS, Row, find_folder, is_unicode, name_splits, quote, read_rows
from medvqa_cli.errors import DataError
from medvqa_cli.records import AnswerType, VQASample

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import BaseModel

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
UNIFORM_SUFFIXES = (".csv", ".tsv", ".parquet")
"""Files in which every row has the same columns."""
REQUIRED = ("question", "answer")
FIELDS = (*REQUIRED, "image", "image_id", "question_id", "split", "answer_type", "options", "alternatives", "context",
          "language", "question_type", "modality", "organ")
CLOSED_WORDS = dict.fromkeys(("open", "false", "no", "0"), False) | dict.fromkeys(("closed", "true", "yes", "1"), True)
EMBEDDED_HINT = "Write each picture to a file, and its path into the table instead of the picture."
MAP_HINT = "Say which column holds what with options.columns, such as 'question=Q,answer=A,image=file'."


class Table:
    """One table, or a folder of tables, of your own: no code is needed.

    A row is a question. `question` and `answer` must not be empty; numbers are written out. Every other field (`image`,
    `image_id`, `question_id`, `split`, `answer_type`, `question_type`, `modality`, `organ`, `language`, `options`,
    `alternatives`, `context`) may be missing, empty or null. A field is read from the column of its own name, or from
    the one that `options.columns` gives; "field=" reads it from none.

    `image` is a path relative to the table's folder, or to `image_root`; without one the question is text alone.
    `image`, `options`, `alternatives` and `context` may hold several: a list, or one text with `list_separator` in it.
    `image_id` is the path of the (first) image where no column gives it; questions that share it are about one image.
    `answer_type` holds open or closed (or yes, no, true, false, 1, 0). An answer "B" means the second of the options.

    A row's split is what its column says ("val", "dev" and the like become "validation"); else `split`; else the word
    such as train, val or test in its file's name; else train. `split_fractions` makes splits instead, by a hash of
    `split_seed` and the image_id (the question, where there is no image): every image lies in one split whatever the
    order of rows, and splits have about the sizes asked for.
    """

    card = DatasetCard(
        title="Table",
        summary="Your own questions in a CSV, TSV, JSON, JSON-lines or Parquet file, with any column names.",
        licence="that of your files", citation="Your own data.",
        homepage="https://frictionlessdata.io/specs/tabular-data-resource/",
        obtain="It reads your own files: name a .csv, .tsv, .jsonl, .json or .parquet file, or a folder, with --root.",
        closed_definition="options.closed = auto (default): the column answer_type, else an answer that is yes or no "
                          "or a question with options; yes_no and options: only the one; never: only the column",
        single_file=True,
    )

    @cached_property
    def Options(self) -> type[BaseModel]:  # noqa: N802 - the protocol's name
        """The reader's options, built when first asked for: importing this file must not import pydantic."""
        from typing import Annotated

        from pydantic import AfterValidator, BeforeValidator, Field

        from medvqa_cli.settings.section import Section

        class TableOptions(Section):
            """How a table is read."""

            columns: Annotated[dict[str, str], BeforeValidator(_parse_pairs), AfterValidator(_check_fields)] = Field({})
            """Which column holds which field: a mapping, or a text such as "question=Q,answer=A,image=file"."""
            files: str = "*"
            """Which tables to read in a folder: a name, or a pattern such as "questions_*.csv"."""
            image_root: Path | None = None
            """Folder that image paths start from, absolute or relative to the table's folder."""
            list_separator: str = Field("|", min_length=1)
            """What separates several images, options or alternatives in one text."""
            split: str = Field("", pattern=r"^\w*$")
            """Split of the rows that no column puts into one; not given: the file's name decides."""
            split_fractions: Annotated[dict[str, float], BeforeValidator(_parse_fractions),
                                       AfterValidator(_check_fractions)] = Field({})
            """Splits to make by image: a mapping, or a text such as "train=0.8,validation=0.1,test=0.1"."""
            split_seed: int = 0
            """Another seed makes other splits."""
            closed: Literal["auto", "yes_no", "options", "never"] = "auto"
            """What makes a question closed where no column says so: a yes/no answer or options; one of them; none."""
            language: str = Field("en", min_length=1)
            """Language of the rows where no column names one."""

        return TableOptions

    def find_root(self, root: Path | None) -> Path:
        """Return the table, or the folder of tables; see `Dataset.find_root`."""
        return find_folder(self.card, root, _find_fault)

    def read(self, root: Path, options: Any) -> Iterator[VQASample]:
        """Yield a sample of every row of all tables; see `Dataset.read`."""
        yield from TableReader(root, options).read_samples()


class TableReader:
    """Makes samples of the rows of one table or of a folder of tables."""

    def __init__(self, root: Path, options: Any) -> None:
        self._root, self._options = root, options
        self._columns = {field: options.columns.get(field, field) for field in FIELDS}
        folder = root if root.is_dir() else root.parent
        self._images = (folder / Path(options.image_root or "").expanduser()).resolve()
        self._ids: defaultdict[str, set[str]] = defaultdict(set)
        if not self._images.is_dir():
            raise DataError(f"The folder of images '{self._images}' does not exist.", "Correct options.image_root.")

    def read_samples(self) -> Iterator[VQASample]:
        """Yield a sample of every row of all tables; see `Dataset.read`."""
        tables = name_splits(_find_tables(self._root, self._options.files))
        if not tables:
            raise DataError(f"'{self._root}' has no table '{self._options.files}'.", "Correct options.files.")
        if self._options.split_fractions and len(set(tables.values())) > 1:
            raise DataError(f"'{self._root}' has several splits already, which options.split_fractions would mix.",
                            "Name one table with options.files, or leave split_fractions out.")
        for path, split in tables.items():
            for row in self._check_columns(path):
                yield self._make_sample(row, split)

    def _make_sample(self, row: Row, table_split: str) -> VQASample:
        images, options = tuple(self._read_images(row)), self._read_list(row, "options")
        question, answer = self._read_required(row, "question"), _spell_out(self._read_required(row, "answer"), options)
        question_id = self._read_text(row, "question_id") or f"{row.file.name}-{row.number}"
        image_id = self._read_text(row, "image_id") or next(iter(images), "")
        split = self._find_split(row, table_split, image_id or f"text {question}", len(images))
        if question_id in self._ids[split]:
            raise row.error(f"the question_id {quote(question_id)} stands in split '{split}' already",
                            "Make it unique, or let the questions be numbered: options.columns 'question_id='.")
        self._ids[split].add(question_id)
        return VQASample(
            dataset="table", split=split, question_id=question_id, image_id=image_id or f"text {question_id}",
            question=question, answer=answer, answer_type=self._find_answer_type(row, answer, options),
            images=tuple(f"{self._images}/{image}" for image in images), options=options,
            alternatives=self._read_list(row, "alternatives"), context=self._read_list(row, "context"),
            language=self._read_text(row, "language") or self._options.language,
            question_type=self._read_text(row, "question_type"), modality=self._read_text(row, "modality"),
            organ=self._read_text(row, "organ"))

    def _check_columns(self, path: Path) -> Iterator[Row]:
        """Yield the rows of a table; a column that every row must have is missed at the first, another at the end."""
        missing, first = {field for field in (*REQUIRED, *self._options.columns) if self._columns[field]}, None
        at_once = missing if path.suffix.lower() in UNIFORM_SUFFIXES else {*REQUIRED}
        for row in read_rows(path):
            missing = {field for field in missing if self._columns[field] not in row.values}
            if first is None and missing & at_once:
                raise self._explain_missing(row, missing & at_once)
            first = first or row
            yield row
        if first is None:
            raise DataError(f"{path}: the table has no rows.", "Fill it, or take it out of the folder.")
        if missing:
            raise self._explain_missing(first, missing)

    def _explain_missing(self, row: Row, fields: set[str]) -> DataError:
        field = min(fields, key=FIELDS.index)
        column, found = self._columns[field], {name.lower(): name for name in row.values}
        near = difflib.get_close_matches(column.lower(), found, n=1)
        what = f"the column '{column}'" if column == field else f"the column '{column}' for '{field}'"
        return DataError(f"{row.file}: {what} is missing; the columns are {quote(list(row.values), 1000)}.",
                         (f"Did you mean '{found[near[0]]}'? " if near else "") + MAP_HINT)

    def _read_required(self, row: Row, field: str) -> str:
        if text := row.number_text(self._columns[field]):
            return text
        raise row.wrong(self._columns[field], "a text or a number that is not empty")

    def _find_value(self, row: Row, field: str) -> Any:
        column = self._columns[field]
        return row.optional(column) if column else None

    def _read_text(self, row: Row, field: str) -> str:
        return "" if self._find_value(row, field) is None else row.number_text(self._columns[field])

    def _read_list(self, row: Row, field: str) -> tuple[str, ...]:
        column = self._columns[field]
        texts = (Row({column: part}, row.file, row.number).number_text(column) for part in self._list_parts(row, field))
        return tuple(text for text in texts if text)

    def _list_parts(self, row: Row, field: str) -> list[Any]:
        value = self._find_value(row, field)
        if isinstance(value, str):
            return [part for part in value.split(self._options.list_separator) if part.strip()]
        return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]

    def _read_images(self, row: Row) -> Iterator[str]:
        """Yield the paths of a row's images, relative to the image folder."""
        column = self._columns["image"]
        for value in self._list_parts(row, "image"):
            part = value["path"] if isinstance(value, dict) and value.get("path") and not value.get("bytes") else value
            if isinstance(part, bytes | dict):
                raise row.error(f"'{column}' holds a picture itself, not the path of one", EMBEDDED_HINT)
            if not isinstance(part, str) or not is_unicode(part):
                raise row.wrong(column, "a path or several")
            Row({column: part.strip()}, row.file, row.number).path(column, self._images)  # must not lead out of it
            yield posixpath.normpath(part.strip())

    def _find_split(self, row: Row, table_split: str, group: str, num_images: int) -> str:
        named, fractions = self._read_text(row, "split"), self._options.split_fractions
        if fractions and named:
            raise row.error(f"'{self._columns['split']}' names the split {quote(named)}, but options.split_fractions "
                            "is to make the splits", "Leave one out; options.columns 'split=' reads no such column.")
        if fractions:
            if num_images > 1 and not self._read_text(row, "image_id"):
                raise row.error("it has several images, so that options.split_fractions cannot keep each in one split",
                                "Say with a column image_id which rows belong together, or with a column split.")
            return _draw_split(fractions, f"{self._options.split_seed} {group}")
        split = named or self._options.split or table_split
        split = SPLIT_WORDS.get(split.lower(), split)
        if not split:
            raise row.error("neither a column nor the file's name says its split", "Set options.split or files.")
        if not re.fullmatch(r"\w+", split):
            raise row.wrong(self._columns["split"], "a name of letters, digits and '_'")
        return split

    def _find_answer_type(self, row: Row, answer: str, options: tuple[str, ...]) -> AnswerType:
        stated = self._find_value(row, "answer_type")
        word = "" if stated is None else str(stated).strip().lower()
        if word and word not in CLOSED_WORDS:
            raise row.wrong(self._columns["answer_type"], "open or closed")
        yes_no = answer.lower() in {"yes", "no"}
        rules = {"auto": yes_no or bool(options), "yes_no": yes_no, "options": bool(options), "never": False}
        return "closed" if (CLOSED_WORDS[word] if word else rules[self._options.closed]) else "open"


def _spell_out(answer: str, options: tuple[str, ...]) -> str:
    letters = dict(zip(string.ascii_uppercase, options, strict=False))
    return answer if answer in options else letters.get(answer.upper(), answer)


def _find_fault(root: Path) -> str:
    return "" if _find_tables(root) else f"there is no file whose name ends in {', '.join(SUFFIXES)}"


def _find_tables(root: Path, pattern: str = "*") -> list[Path]:
    """Return the tables at a root; hidden files are none, nor is the list of contents of a hub copy."""
    paths = [path for path in (root.iterdir() if root.is_dir() else [root]) if path.suffix.lower() in SUFFIXES]
    return sorted(path for path in paths if path.is_file() and fnmatch.fnmatchcase(path.name, pattern)
                  and path.name != "hub.json" and not path.name.startswith("."))


def _draw_split(fractions: Mapping[str, float], key: str) -> str:
    """Return a split with the probability of its fraction; the same key is always drawn the same."""
    drawn = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    bounds = zip(fractions, itertools.accumulate(fractions.values()), strict=True)
    return next((split for split, bound in bounds if drawn < bound), list(fractions)[-1])


def _parse_pairs(value: Any) -> Any:
    """Read "question=Q,answer=A", as it is typed on the command line."""
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",")]
    names = {name.strip(): column.strip() for name, _, column in pairs}
    if not all(equals for _, equals, _ in pairs) or len(names) < len(pairs):
        raise ValueError("it should be a text such as 'question=Q,answer=A', with each name once")
    return names


def _parse_fractions(value: Any) -> Any:
    return {name: float(share) for name, share in _parse_pairs(value).items()} if isinstance(value, str) else value


def _check_fields(columns: dict[str, str]) -> dict[str, str]:
    if unknown := [field for field in columns if field not in FIELDS]:
        raise ValueError(f"there is no field '{unknown[0]}'; the fields are {', '.join(FIELDS)}")
    if empty := [field for field in REQUIRED if columns.get(field) == ""]:
        raise ValueError(f"the field '{empty[0]}' needs a column")
    return columns


def _check_fractions(fractions: dict[str, float]) -> dict[str, float]:
    named = {SPLIT_WORDS.get(name.lower(), name): share for name, share in fractions.items()}
    are_shares = min(named.values(), default=0) > 0 and abs(sum(named.values()) - 1) < 1e-6
    are_names = len(named) == len(fractions) and all(re.fullmatch(r"\w+", name) for name in named)
    if fractions and not (are_shares and are_names):
        raise ValueError("it should give each split a share, together 1, such as 'train=0.9,test=0.1'")
    return named


PLUGIN = Table()

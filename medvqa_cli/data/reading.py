"""What a data-set plugin reads with: files as rows, the folder of a data set, and hub copies laid out in files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from medvqa_cli.data.files.fields import PATH_HINT, Row, is_unicode, quote, stays_inside
from medvqa_cli.data.files.tables import (
    RESTORE,
    read_csv_rows,
    read_json,
    read_json_rows,
    read_jsonl_rows,
    read_parquet_rows,
    read_rows,
    read_text,
)
from medvqa_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from medvqa_cli.data.protocol import DatasetCard

__all__ = [
    "SPLIT_WORDS", "Row", "find_folder", "find_split_words", "is_hub_layout", "is_unicode", "join_path", "name_splits",
    "quote", "read_csv_rows", "read_hub_rows", "read_json", "read_json_rows", "read_jsonl_rows", "read_parquet_rows",
    "read_rows", "read_text",
]

HUB_FACTS = "hub.json"
SPLIT_WORDS = {"train": "train", "training": "train", "validation": "validation", "validate": "validation",
               "val": "validation", "valid": "validation", "dev": "validation", "test": "test", "testing": "test"}
"""Words for the splits -> the split."""


def find_folder(card: DatasetCard, root: Path | None, find_fault: Callable[[Path], str]) -> Path:
    """Return the folder of a data set's original files: `root`, or the first of the card's default folders that fits.

    Where the card says `single_file`, `root` (or a default) may also be one file: it is returned if `find_fault`, which
    then gets a file, finds nothing wrong with it.

    Args:
        card: The data set's card.
        root: The folder the user named, if any.
        find_fault: Says what is wrong with the layout of a folder; an empty text if nothing is.

    Raises:
        DataError: If `root` is missing or laid out wrongly, or no default folder fits (the folders tried are listed).
    """
    if root is not None:
        return _check_root(card, root, find_fault)
    tried = [Path(folder).expanduser().absolute() for folder in card.default_roots]
    found = next((path for path in tried if _is_fit(card, path) and not find_fault(path)), None)
    if found is None:
        places = f" Tried: {', '.join(map(str, tried))}." if tried else ""
        raise DataError(f"The files of {card.title} were not found.{places}",
                        f"{card.obtain} Name the folder with --root DIR.")
    return found.resolve()


def _check_root(card: DatasetCard, root: Path, find_fault: Callable[[Path], str]) -> Path:
    try:
        path = root.expanduser().resolve()
    except (RuntimeError, ValueError, OSError) as error:  # "~nobody", a NUL byte, a link that names itself
        raise DataError(f"The path '{root}' cannot be used: {error}.") from error
    if path.is_file() and not card.single_file:
        raise DataError(f"'{path}' is a file, but {card.title} is a folder.", card.obtain)
    if not _is_fit(card, path):
        what, name = ("file or folder", "PATH") if card.single_file else ("folder", "DIR")
        raise DataError(f"The {what} '{path}' does not exist.", f"Name the data set's {what} with --root {name}.")
    if fault := find_fault(path):
        raise DataError(f"'{path}' is not laid out like {card.title}: {fault}.", card.obtain)
    return path


def _is_fit(card: DatasetCard, path: Path) -> bool:
    return path.is_dir() or (card.single_file and path.is_file())


def find_split_words(path: Path) -> set[str]:
    """Return the splits that a file's name speaks of, such as {"validation"} for `own_val.csv`."""
    return {SPLIT_WORDS[word] for word in re.split(r"[^a-z]+", path.stem.lower()) if word in SPLIT_WORDS}


def name_splits(paths: Iterable[Path]) -> dict[Path, str]:
    """Return the split that each file's name stands for: train if none of them stands for one, empty if others do."""
    words = {path: find_split_words(path) for path in paths}
    rest = "" if any(words.values()) else "train"
    return {path: next(iter(splits)) if len(splits) == 1 else rest for path, splits in words.items()}


def is_hub_layout(root: Path) -> bool:
    """Tell whether a folder holds a hub copy laid out in files; see `read_hub_rows`."""
    return (root / HUB_FACTS).is_file()


def read_hub_rows(root: Path) -> Iterator[tuple[str, Row]]:
    """Yield the split and the row of everything in a hub copy laid out in files, split by split.

    ```
    hub.json               {"hub": id, "revision": ..., "splits": {split: number of rows}, "pictures": [columns]}
    train.jsonl            one row a line: the hub's own columns; a picture is the relative path of its file, or null
    images/5f/5f2c...9.png  each distinct picture once, under the SHA-256 of its bytes: `Path.stem` identifies it
    ```

    A picture's file is found by `row.path(column, root)`, a list of pictures by `row.paths(column, root)`.

    Raises:
        DataError: If hub.json or a split's file is damaged, or a split has more or fewer rows than hub.json says.
    """
    path = root / HUB_FACTS
    facts = read_json(path)
    splits = facts.get("splits") if isinstance(facts, dict) else None
    if not (isinstance(splits, dict) and all(isinstance(count, int) for count in splits.values())):
        raise DataError(f"{path}: 'splits' should give each split's number of rows, but is {quote(splits)}.", RESTORE)
    for split, expected in splits.items():
        file, found = join_path(root, f"{split}.jsonl"), 0
        for row in read_jsonl_rows(file):
            yield split, row
            found += 1
        if found != expected:
            raise DataError(f"{file}: {found} rows, but {path.name} says {expected}.", RESTORE)


def join_path(folder: Path, relative: str) -> Path:
    """Return `folder / relative` for a path that comes from a data set; `Row.path` names file and row as well.

    Raises:
        DataError: If the path is empty, absolute, or leads out of the folder: a data set must not reach other files.
    """
    if not stays_inside(relative):
        raise DataError(f"The path {quote(relative)} does not stay inside '{folder}'.", PATH_HINT)
    return folder / relative

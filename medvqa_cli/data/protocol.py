"""What a data-set plugin is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic import BaseModel

    from medvqa_cli.progress import Progress
    from medvqa_cli.records import VQASample


@dataclass(frozen=True, slots=True, kw_only=True)
class HubCopy:
    """Where a data set can be had on the Hugging Face hub, and in which form.

    `form` is "files" where the repository holds the original files (they are fetched as they are, archives among them
    unpacked), and "rows" where it holds a table with the pictures inside (it is loaded by `datasets.load_dataset` and
    laid out as `data/reading.py` describes under `read_hub_rows`). `patterns` names the files to fetch of form "files";
    all if empty. `may_download` is False where the licence or the access rules leave fetching to the user.
    """

    id: str
    form: Literal["files", "rows"]
    patterns: tuple[str, ...] = ()
    may_download: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetCard:
    """Facts about a data set, shown by `medvqa data list`.

    `default_language` is the language filter used when the user names none; empty means no filter.
    `default_roots` are folders searched when no root is given ("~" allowed).
    `closed_definition` says in words what makes a question closed in this data set. `single_file` says that the root
    may also be one file instead of a folder.
    """

    title: str
    summary: str
    licence: str
    citation: str
    homepage: str
    obtain: str
    closed_definition: str
    languages: tuple[str, ...] = ("en",)
    default_language: str = ""
    splits: tuple[str, ...] = ("train", "validation", "test")
    default_roots: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    hub: HubCopy | None = None
    single_file: bool = False
    generated: bool = False


@runtime_checkable
class Dataset(Protocol):
    """Reads one data set's original files.

    A plugin file imports only this module, records, errors, data/reading.py and the standard library at module level.
    It may have a method `describe_closed(root, options) -> str` that says what makes a question closed where that
    depends on files or options; else the card's `closed_definition` is stated beside results.
    """

    card: DatasetCard

    @property
    def Options(self) -> type[BaseModel] | None:  # noqa: N802 - it holds a class
        """Strict pydantic model of the reader's own options (a cached property that imports pydantic), or None."""

    def find_root(self, root: Path | None) -> Path:
        """Return the folder that holds the files: `root`, or the first default folder that looks right.

        Every layout the data set has is accepted: the original one, and a hub copy laid out in files. Archives and
        saved tables never arrive here: they are unpacked before.

        Raises:
            DataError: If there is none (the folders tried are listed) or its layout is wrong.
        """

    def read(self, root: Path, options: Any) -> Iterator[VQASample]:
        """Yield every sample of every split and language, in file order, with absolute image paths.

        Rows are read one at a time where the format allows it, so that any number fits into memory.

        Raises:
            DataError: On a structural fault; file, row and value are named.
        """


@runtime_checkable
class GeneratedDataset(Dataset, Protocol):
    """A data set that makes its own files; its card says `generated=True`."""

    def generate(self, directory: Path, options: Any, progress: Progress) -> None:
        """Write the files that `read` expects below `directory`; the same options give the same bytes."""

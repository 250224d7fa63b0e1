"""Hub copies of data sets: fetched, or saved by `datasets`, and laid out as plain files.

No hub could be reached where this was written. Run were: `load_from_disk`, `load_dataset` on repositories that lie in a
local folder, `snapshot_download` and the errors of both libraries with the answers of a hub played below their HTTP
client. Not run: a download from the hub itself, and `load_dataset` fetching Parquet files from it.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.files.archives import is_archive, unpack_nested
from medvqa_cli.data.files.layout import iterate_rows, lay_out_rows
from medvqa_cli.errors import DataError
from medvqa_cli.progress import SILENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from medvqa_cli.data.protocol import HubCopy
    from medvqa_cli.progress import Progress

PARQUET = ("*.parquet", "data/*.parquet")
UNREACHED = re.compile("Connect|Timeout|Protocol|Network|Offline|LocalEntryNotFound|IncompleteSnapshot")
LFS_POINTER = b"version https://git-lfs"


def fetch_hub_copy(copy: HubCopy, target: Path, *, revision: str | None = None, progress: Progress = SILENT) -> str:
    """Fetch a hub copy into a new folder of plain files.

    What is downloaded stays in the hub's own cache (HF_HOME), so that a broken download goes on where it stopped, and
    what is there already is used without a network. Form "files": the repository's files are copied and archives among
    them unpacked. Form "rows": the table is loaded by `datasets.load_dataset` and laid out by `lay_out_rows`.

    Args:
        copy: What to fetch.
        target: The folder to make.
        revision: Branch, tag or commit; the main branch if not given.
        progress: Is told about files and rows.

    Returns:
        The commit that was fetched; empty if it is not known.

    Raises:
        DataError: If the hub cannot be reached or must not be (HF_HUB_OFFLINE=1), the repository or the revision does
            not exist, access is not granted, the disk is full, or what was fetched is not usable. The hint says how to
            fetch it by hand.
    """
    if target.exists():
        raise DataError(f"'{target}' exists already.", "Delete it first.")
    progress.say(f"Fetching the data set '{copy.id}' from the hub.")
    fetch = _fetch_files if copy.form == "files" else _fetch_rows
    with _explained(copy, revision):
        return fetch(copy, target, revision, progress)


def is_saved_table(folder: Path) -> bool:
    """Tell whether a folder was made by `save_to_disk`, or holds Parquet files as the clone of a hub repository."""
    is_saved = (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file())
    return is_saved or any(True for pattern in PARQUET for _ in folder.glob(pattern))


def lay_out_saved(folder: Path, target: Path, *, progress: Progress = SILENT) -> None:
    """Lay out a table for which `is_saved_table` is true as `fetch_hub_copy` does; nothing is fetched.

    A table saved without splits becomes the split it was taken from, or "train". Splits of Parquet files follow their
    names (`data/train-00000-of-00001.parquet`), or the `configs` in the repository's README.md. `datasets` takes about
    five times the size of the largest Parquet row group in memory.

    Raises:
        DataError: If the table cannot be read (damaged, written by a newer version of `datasets`, or a pointer to a
            file that git has not fetched), or a row cannot be laid out.
    """
    from datasets import Dataset, load_dataset, load_from_disk

    _check_pointers(folder)
    with _readable(folder):
        is_saved = (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()
        loaded = load_from_disk(str(folder)) if is_saved else load_dataset(str(folder.resolve()), streaming=True)
        tables = {str(loaded.split or "train"): loaded} if isinstance(loaded, Dataset) else dict(loaded)
        _lay_out(tables, target, {"hub": "", "revision": "", "folder": str(folder)}, progress)


def _fetch_files(copy: HubCopy, target: Path, revision: str | None, progress: Progress) -> str:
    from huggingface_hub import snapshot_download

    patterns = copy.patterns or ("*",)
    snapshot = Path(snapshot_download(copy.id, repo_type="dataset", revision=revision, allow_patterns=list(patterns)))
    cached = sorted(Path(place, name).relative_to(snapshot).as_posix()
                    for place, _, names in os.walk(snapshot) for name in names)
    names = [name for name in cached if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]  # as the hub does
    if not names:
        raise DataError(f"The hub data set '{copy.id}' holds no file like {', '.join(patterns)}.")
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        for name in names:
            _take_file(snapshot / name, part / name)
        unpack_nested(part, progress=progress)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return _find_commit(snapshot.as_posix())


def _take_file(file: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if is_archive(file):  # it is deleted when it has been unpacked: a link spares the copy
        try:
            os.link(file.resolve(), place)
        except OSError:
            shutil.copyfile(file, place)
    else:
        shutil.copyfile(file, place)


def _fetch_rows(copy: HubCopy, target: Path, revision: str | None, progress: Progress) -> str:
    from datasets import load_dataset

    tables = load_dataset(copy.id, revision=revision)
    caches = [cache["filename"] for table in tables.values() for cache in table.cache_files]
    commit = _find_commit(caches[0]) if caches else ""
    _lay_out(tables, target, {"hub": copy.id, "revision": revision or "main", "commit": commit}, progress)
    return commit


def _find_commit(path: str) -> str:
    found = re.search(r"\b[0-9a-f]{40}\b", path.replace("\\", "/"))
    return found[0] if found else ""


def _lay_out(tables: Mapping[Any, Any], target: Path, origin: Mapping[str, Any], progress: Progress) -> None:
    rows = {str(split): iterate_rows(table) for split, table in tables.items()}
    is_counted = all(hasattr(table, "num_rows") for table in tables.values())
    total = sum(table.num_rows for table in tables.values()) if is_counted else None
    lay_out_rows(rows, target, origin, progress, total)


def _check_pointers(folder: Path) -> None:
    for file in (file for pattern in PARQUET for file in folder.glob(pattern)):
        with file.open("rb") as stream:
            if stream.read(len(LFS_POINTER)) == LFS_POINTER:
                raise DataError(f"'{file}' is only a pointer: git has not fetched the file itself.",
                                f"Run `git lfs pull` in '{folder}'.")


def _list_failures() -> tuple[type[BaseException], ...]:
    """Return the errors that `datasets`, the hub's client and its HTTP library raise for what a user can cause."""
    import pyarrow
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, ValueError, RuntimeError, LookupError, TypeError, DatasetsError, pyarrow.ArrowException,
            *HfHubHTTPError.__bases__)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except _list_failures() as error:
        raise _find_full_disk(error) or DataError(
            f"The table in '{folder}' cannot be read: {_first_line(error)}.",
            "Save or download it again; a table saved by a newer version needs: pip install -U datasets.") from error


@contextmanager
def _explained(copy: HubCopy, revision: str | None) -> Iterator[None]:
    try:
        yield
    except _list_failures() as error:
        fault, hint = _find_fault(copy, revision, error)
        by_hand = (f"Or fetch it elsewhere with `hf download {copy.id} --repo-type dataset --local-dir FOLDER` and run "
                   "`medvqa data prepare NAME --root FOLDER`.")
        raise _find_full_disk(error) or DataError(f"The hub data set '{copy.id}' {fault}.",
                                                  f"{hint} {by_hand}") from error


def _find_full_disk(error: BaseException) -> DataError | None:
    if any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in _causes(error)):
        return DataError("The disk is full: the data set could not be fetched or laid out.",
                         "Free some space, or let HF_HOME name a folder on a larger disk, and run the same command "
                         "again: what has been downloaded is kept.")
    return None


def _find_fault(copy: HubCopy, revision: str | None, error: BaseException) -> tuple[str, str]:
    """Return what is wrong, as the end of a sentence, and what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    kinds, text = tuple(_causes(error)), str(error)
    names = {type(cause).__name__ for cause in kinds}
    if any(isinstance(cause, GatedRepoError) for cause in kinds) or "gated dataset" in text:
        return "is open only to those who were granted access", (
            f"Ask for it at https://huggingface.co/datasets/{copy.id}, then log in with `hf auth login`.")
    if any(isinstance(cause, RevisionNotFoundError) for cause in kinds) or text.startswith("Revision "):
        return f"has no revision '{revision}'", "Leave data.revision out, or name a branch, tag or commit it has."
    if any(isinstance(cause, RepositoryNotFoundError) for cause in kinds) or "DatasetNotFoundError" in names:
        return "does not exist, or is not open to you", "If it is private, log in with `hf auth login`."
    if constants.HF_HUB_OFFLINE:
        return ("is not in the cache of the hub, and HF_HUB_OFFLINE forbids to fetch it",
                "Run again without HF_HUB_OFFLINE on a machine with a network.")
    if any(UNREACHED.search(name) for name in names):
        return "cannot be fetched: the hub cannot be reached", "Check the network (and HF_ENDPOINT) and try again."
    return f"cannot be used: {_first_line(error)}", ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__

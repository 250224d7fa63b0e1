"""Original files on the local disk: made, fetched from the hub, unpacked from an archive, or lying there already.

Whatever does not lie there as plain files is put below the store's folder as `source/`; `source.json` beside it says
what that was, so that it is done once.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from medvqa_cli.errors import DataError, SettingsError
from medvqa_cli.records import write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pydantic import BaseModel

    from medvqa_cli.data.protocol import Dataset, GeneratedDataset, HubCopy
    from medvqa_cli.progress import Progress
    from medvqa_cli.settings.schema import Settings

    Maker = Callable[[Path, Progress], Path | None]

ANNOUNCEMENTS = {
    "generated": "Making the files of '{name}'.",
    "hub": "Taking '{name}' from the hub copy '{hub}' ({revision}).",
    "archive": "Unpacking '{root}'.",
    "table": "Laying out the table in '{root}'.",
}


@dataclass(frozen=True, slots=True)
class Originals:
    """Where a data set's original files come from.

    Attributes:
        kind: "local", "generated", "hub", "archive" or "table" (saved by `datasets`, or Parquet files of a hub copy).
        identity: What they are, as plain JSON values; the same identity gives the same files. Empty for "local" files
            that nobody named: they are searched for.
        make: Puts the files below a new folder and returns the folder that holds them; None for "local" ones.
    """

    kind: str
    identity: Mapping[str, Any]
    make: Maker | None = None

    def describe(self) -> str:
        """Return in words where the files are."""
        return describe_origin({"kind": self.kind, **self.identity})


def find_originals(settings: Settings, name: str, plugin: Dataset, *, options: BaseModel | None, root: Path | None,
                   makers: Mapping[str, Any]) -> Originals:
    """Return where the settings say the original files come from.

    Args:
        settings: `data.source` and `data.revision` count.
        name: The data set's name, for errors.
        plugin: Its reader.
        options: The reader's options.
        root: The folder or file the user named.
        makers: What decides the files of a generated data set, as plain JSON values.

    Raises:
        SettingsError: If `data.root` or `data.source` do not fit the data set.
        DataError: If its hub copy may not be fetched, or it has none.
    """
    if plugin.card.generated:
        _check_generated(settings, name, root)
        return Originals("generated", makers, functools.partial(_generate, cast("GeneratedDataset", plugin), options))
    if settings.data.source == "hf":
        if root:
            raise SettingsError(f"data.source is 'hf', but data.root names '{root}'.", "Leave one of them out.")
        copy = _find_hub_copy(name, plugin)
        revision = settings.data.revision or "main"
        return Originals("hub", {"hub": copy.id, "revision": revision},
                         functools.partial(_fetch, copy, settings.data.revision, name))
    return _find_local(plugin, root)


def describe_origin(origin: Mapping[str, Any]) -> str:
    """Return in words where files were, such as "in '/data/slake'"."""
    if origin.get("kind") == "hub":
        return f"fetched from the hub copy '{origin['hub']}' ({origin['revision']})"
    return f"in '{origin['root']}'" if origin.get("root") else "made by medvqa"


def make_files(originals: Originals, folder: Path, progress: Progress, *, force: bool) -> Path:
    """Return the folder `source/` that holds files made, fetched or unpacked, doing so unless it has been done before.

    A kill leaves the old files or the new ones.

    Raises:
        DataError: If they cannot be had.
    """
    target, record = folder / "source", folder / "source.json"
    wanted = {"kind": originals.kind, **originals.identity}
    known = _read_record(record)
    if known and known["origin"] == wanted and target.is_dir() and not force:
        return target / str(known["inside"])
    assert originals.make is not None
    progress.say(ANNOUNCEMENTS[originals.kind].format(name=folder.name, **originals.identity))
    record.unlink(missing_ok=True)
    part = folder / f"source.{os.getpid()}.part"
    try:
        content = originals.make(part, progress) or part
        inside = content.resolve().relative_to(part.resolve()).as_posix()
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    write_json(record, {"origin": wanted, "inside": inside})
    return target / inside


def _check_generated(settings: Settings, name: str, root: Path | None) -> None:
    if root:
        raise SettingsError(f"data.root is '{root}', but the data set '{name}' makes its own files.",
                            "Leave data.root out.")
    if settings.data.source == "hf":
        raise SettingsError(f"data.source is 'hf', but the data set '{name}' makes its own files.",
                            "Leave --source and --download out.")


def _find_hub_copy(name: str, plugin: Dataset) -> HubCopy:
    copy = plugin.card.hub
    if copy is None:
        raise DataError(f"The data set '{name}' has no copy on the hub that medvqa knows.", plugin.card.obtain)
    if not copy.may_download:
        raise DataError(f"medvqa does not download '{name}': its licence or access rules leave that to you.",
                        plugin.card.obtain)
    return copy


def _find_local(plugin: Dataset, root: Path | None) -> Originals:
    from medvqa_cli.data.files.archives import is_archive, unpack_archive
    from medvqa_cli.data.files.hub import is_saved_table, lay_out_saved

    if root is None:
        return Originals("local", {})
    if root.is_file() and is_archive(root):
        facts = root.stat()
        return Originals("archive", {"root": str(root), "bytes": facts.st_size, "changed": facts.st_mtime_ns},
                         lambda target, progress: unpack_archive(root, target, progress=progress))
    if root.is_dir() and (plugin.card.hub or is_saved_to_disk(root)) and is_saved_table(root):
        from medvqa_cli.data.prepared.store import fingerprint_files

        return Originals("table", {"root": str(root), "files": fingerprint_files(root)},
                         lambda target, progress: lay_out_saved(root, target, progress=progress))
    return Originals("local", {"root": str(root)})


def is_saved_to_disk(folder: Path) -> bool:
    """Tell whether a folder was made by `save_to_disk`: then even a reader of plain tables cannot read its files."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _generate(plugin: GeneratedDataset, options: BaseModel | None, target: Path, progress: Progress) -> None:
    target.mkdir(parents=True)
    plugin.generate(target, options, progress)


def _fetch(copy: HubCopy, revision: str | None, name: str, target: Path, progress: Progress) -> None:
    from medvqa_cli.data.files.hub import fetch_hub_copy

    try:
        fetch_hub_copy(copy, target, revision=revision, progress=progress)
    except DataError as error:
        raise DataError(error.message, error.hint.replace("prepare NAME", f"prepare {name}")) from error


def _read_record(path: Path) -> Any:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return record if isinstance(record, dict) and {"origin", "inside"} <= record.keys() else None

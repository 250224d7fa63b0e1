"""What the settings mean by a data set: its plugin, options, folder of original files and store."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medvqa_cli import __version__, plugins
from medvqa_cli.errors import SettingsError
from medvqa_cli.records import write_json
from medvqa_cli.registry import normalize_name
from medvqa_cli.settings.options import read_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

    from medvqa_cli.data.protocol import Dataset, GeneratedDataset
    from medvqa_cli.progress import Progress
    from medvqa_cli.settings.schema import Settings

STORE_FORMAT = 2
REASONS = {
    "format": "it was prepared by another version of medvqa",
    "medvqa": "it was prepared by another version of medvqa",
    "plugin": "its reader has changed",
    "dataset": "it was another data set",
    "options": "its options have changed",
    "missing_images": "data.missing_images has changed",
    "max_pixels": "data.max_pixels has changed",
}


@dataclass(frozen=True, slots=True)
class DataSource:
    """A data set as the settings name it.

    Attributes:
        name: Name of the store: the plugin's name, or the user's own name for it (`aliases.datasets`).
        plugin_name: Name of the plugin.
        plugin: The plugin.
        options: Its options, validated.
        root: Folder of the original files as the user named it, absolute; None if not named.
        folder: Folder of the store, absolute.
        reader: Everything besides the files that decides what the store holds, as plain JSON values.
    """

    name: str
    plugin_name: str
    plugin: Dataset
    options: BaseModel | None
    root: Path | None
    folder: Path
    reader: dict[str, Any]

    @property
    def is_generated(self) -> bool:
        """Whether the data set makes its own files."""
        return self.plugin.card.generated

    def find_change(self, facts: Mapping[str, Any] | None) -> str:
        """Return why a store with these facts cannot be used, or an empty text if it can."""
        if facts is None:
            return "it has not been prepared yet"
        before = facts.get("reader", {})
        changed = [key for key, value in self.reader.items() if before.get(key) != value]
        if changed:
            return REASONS[changed[0]]
        root = self._generated_root if self.is_generated else self.root
        if root and str(root) != facts["root"]:
            return f"its files were in '{facts['root']}' and are now in '{root}'"
        return ""

    def find_root(self, facts: Mapping[str, Any] | None) -> Path:
        """Return the folder of the original files: as named, else as used before, else a default folder.

        Raises:
            DataError: If there is none, or its layout is wrong.
        """
        before = Path(facts["root"]) if facts and "root" in facts else None
        return self.plugin.find_root(self.root or (before if before and before.is_dir() else None))

    def make_files(self, progress: Progress, *, force: bool) -> Path:
        """Let a generated data set write its files, unless those made with the same options are there."""
        root, record = self._generated_root, self.folder / "generated.json"
        makers = {key: self.reader[key] for key in ("medvqa", "dataset", "plugin", "options")}
        if root.is_dir() and not force and _read_record(record) == makers:
            return root
        progress.say(f"Making the files of '{self.name}'.")
        record.unlink(missing_ok=True)
        part = self.folder / f"source.{os.getpid()}.part"
        try:
            part.mkdir(parents=True)
            cast("GeneratedDataset", self.plugin).generate(part, self.options, progress)
            shutil.rmtree(root, ignore_errors=True)
            part.rename(root)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        write_json(record, makers)
        return root

    @property
    def _generated_root(self) -> Path:
        return self.folder / "source"


def find_source(settings: Settings) -> DataSource:
    """Return the data set that the settings name.

    Raises:
        PluginError: If it is unknown.
        SettingsError: If its options are wrong, or a root is given for a data set that makes its own files.
    """
    plugins.add_files(settings.plugins)
    typed = normalize_name(settings.data.dataset)
    own = {normalize_name(name): target for name, target in settings.aliases.datasets.items()}
    plugin_name = plugins.datasets.resolve(own.get(typed, settings.data.dataset))
    plugin = plugins.datasets.get(plugin_name)
    name = typed if typed in own else plugin_name
    if not re.fullmatch(r"[\w.-]*\w", name):
        raise SettingsError(f"aliases.datasets has the name '{settings.data.dataset}': use letters, digits, '_', '-'.")
    options = read_options(plugin.Options, settings.data.options, "data.options")
    root = _find_named_root(settings, typed, plugin_name)
    if root and plugin.card.generated:
        raise SettingsError(f"data.root is '{root}', but the data set '{name}' makes its own files.",
                            "Leave data.root out.")
    return DataSource(name, plugin_name, plugin, options, root, settings.paths.prepared.absolute() / name,
                      _describe_reader(settings, plugin_name, plugin, options))


def _find_named_root(settings: Settings, typed: str, plugin_name: str) -> Path | None:
    roots = {normalize_name(name): root for name, root in settings.aliases.roots.items()}
    root = settings.data.root or roots.get(typed) or roots.get(plugin_name)
    return root.expanduser().resolve() if root else None


def _describe_reader(settings: Settings, name: str, plugin: Dataset, options: BaseModel | None) -> dict[str, Any]:
    return {"format": STORE_FORMAT, "medvqa": __version__, "dataset": name, "plugin": _hash_code(plugin),
            "options": options.model_dump(mode="json") if options else {},
            "missing_images": settings.data.missing_images, "max_pixels": settings.data.max_pixels}


def _hash_code(plugin: Dataset) -> str:
    """Return a hash of the plugin's file: whoever edits a reader wants its data read anew."""
    path = inspect.getsourcefile(type(plugin))
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] if path and Path(path).is_file() else ""


def _read_record(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None

"""What the settings mean by a data set: its plugin, options, original files and store."""

from __future__ import annotations

import hashlib
import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli import __version__, plugins
from medvqa_cli.data.prepared.store import read_facts
from medvqa_cli.errors import DataError, SettingsError
from medvqa_cli.registry import normalize_name
from medvqa_cli.settings.options import read_options
from medvqa_cli.workflows.originals import Originals, describe_origin, find_originals, make_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

    from medvqa_cli.data.protocol import Dataset
    from medvqa_cli.progress import Progress
    from medvqa_cli.settings.data import DatasetDeclaration
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
    "embed_images": "data.embed_images has changed",
}


@dataclass(frozen=True, slots=True)
class DataSource:
    """A data set as the settings name it.

    Attributes:
        name: Name of the store: the plugin's name, or the user's own name for it (`datasets`, `aliases.datasets`).
        plugin_name: Name of the plugin.
        plugin: The plugin.
        options: Its options, validated.
        originals: Where its original files come from.
        searches: Whether local files are searched for that nobody named, or those used before are taken.
        folder: Folder of the store, absolute.
        reader: Everything besides the files that decides what the store holds, as plain JSON values.
    """

    name: str
    plugin_name: str
    plugin: Dataset
    options: BaseModel | None
    originals: Originals
    searches: bool
    folder: Path
    reader: dict[str, Any]

    def find_change(self, facts: Mapping[str, Any] | None) -> str:
        """Return why a store with these facts cannot be used, or an empty text if it can."""
        if facts is None:
            return "it has not been prepared yet"
        before = facts.get("reader", {})
        changed = [key for key, value in self.reader.items() if before.get(key) != value
                   and not (key == "embed_images" and before.get(key))]  # a store with images serves all the same
        if changed:
            return REASONS[changed[0]]
        known, wanted = facts["origin"], self.origin
        if self.originals.kind == "local" and not self.originals.identity:
            return "" if self.searches or known["kind"] == "local" else f"its files were {describe_origin(known)}"
        if known != wanted:
            return f"its files were {describe_origin(known)} and are now {self.originals.describe()}"
        return ""

    @property
    def origin(self) -> dict[str, Any]:
        """Where the original files come from, as store.json keeps it."""
        return {"kind": self.originals.kind, **self.originals.identity}

    def find_root(self, facts: Mapping[str, Any] | None) -> Path | None:
        """Return the folder of local files: as named, else as used before, else a default folder.

        Returns:
            None if the files have to be made ready first, see `make_files`.

        Raises:
            DataError: If there is none, or its layout is wrong.
        """
        if self.originals.make:
            return None
        before = Path(facts["root"]) if facts and "root" in facts else None
        named = self.originals.identity.get("root")
        if named:
            return self.plugin.find_root(Path(named))
        return self.plugin.find_root(before) if before and before.exists() else self._search()

    def _search(self) -> Path:
        try:
            return self.plugin.find_root(None)
        except DataError as error:
            copy = self.plugin.card.hub
            if not (copy and copy.may_download):
                raise
            hint = f"Fetch the hub copy with `medvqa data prepare {self.name} --download`. Or: {error.hint}"
            raise DataError(error.message, hint) from error

    def make_files(self, progress: Progress, *, force: bool) -> Path:
        """Return the folder of files that are made, fetched or unpacked, below the store's folder.

        Raises:
            DataError: If they cannot be had, or their layout is wrong.
        """
        root = make_files(self.originals, self.folder, progress, force=force)
        return root if self.originals.kind == "generated" else self.plugin.find_root(root)

    def describe_files(self, facts: Mapping[str, Any] | None) -> str:
        """Return in words where the original files are.

        Raises:
            DataError: If local files are not found.
        """
        return self.originals.describe() if self.originals.make else str(self.find_root(facts))


def find_source(settings: Settings) -> DataSource:
    """Return the data set that the settings name.

    Raises:
        PluginError: If it is unknown.
        SettingsError: If its options are wrong, or its root or source does not fit it.
        DataError: If its hub copy may not be fetched, or it has none.
    """
    plugins.add_files(settings.plugins)
    typed = normalize_name(settings.data.dataset)
    declared = {normalize_name(name): declaration for name, declaration in settings.datasets.items()}.get(typed)
    own = {normalize_name(name): target for name, target in settings.aliases.datasets.items()}
    plugin_name = plugins.datasets.resolve(declared.reader if declared else own.get(typed, settings.data.dataset))
    plugin = plugins.datasets.get(plugin_name)
    name = typed if declared or typed in own else plugin_name
    if not re.fullmatch(r"[\w.-]*\w", name):
        raise SettingsError(f"The data set's name '{settings.data.dataset}' is none: use letters, digits, '_', '-'.")
    folder = settings.paths.prepared.absolute() / name
    root = _find_named_root(settings, typed, plugin_name, declared)
    options = _read_options(settings, typed, plugin, declared)
    if plugin.card.single_file and not (root or declared or settings.data.options):
        options = _recall_options(plugin, folder) or options
    reader = _describe_reader(settings, plugin_name, plugin, options)
    makers = {key: reader[key] for key in ("medvqa", "dataset", "plugin", "options")}
    originals = find_originals(settings, name, plugin, options=options, root=root, makers=makers)
    return DataSource(name, plugin_name, plugin, options, originals, settings.data.source == "auto",
                      folder, reader)


def _read_options(settings: Settings, typed: str, plugin: Dataset,
                  declared: DatasetDeclaration | None) -> BaseModel | None:
    tree = {**(declared.options if declared else {}), **settings.data.options}
    own = declared and not settings.data.options
    return read_options(plugin.Options, tree, f"datasets.{typed}.options" if own else "data.options")


def _recall_options(plugin: Dataset, folder: Path) -> BaseModel | None:
    """Return the options a store of one's own files was prepared with: who names no file means the one used before."""
    facts = read_facts(folder)
    return read_options(plugin.Options, facts["reader"]["options"], "data.options") if facts else None


def _find_named_root(settings: Settings, typed: str, plugin_name: str,
                     declared: DatasetDeclaration | None) -> Path | None:
    roots = {normalize_name(name): root for name, root in settings.aliases.roots.items()}
    root = settings.data.root or (declared and declared.root) or roots.get(typed) or roots.get(plugin_name)
    return root.expanduser().resolve() if root else None


def _describe_reader(settings: Settings, name: str, plugin: Dataset, options: BaseModel | None) -> dict[str, Any]:
    return {"format": STORE_FORMAT, "medvqa": __version__, "dataset": name, "plugin": _hash_code(plugin),
            "options": options.model_dump(mode="json") if options else {},
            "missing_images": settings.data.missing_images, "max_pixels": settings.data.max_pixels,
            "embed_images": settings.data.embed_images}


def _hash_code(plugin: Dataset) -> str:
    """Return a hash of the plugin's file: whoever edits a reader wants its data read anew."""
    path = inspect.getsourcefile(type(plugin))
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] if path and Path(path).is_file() else ""

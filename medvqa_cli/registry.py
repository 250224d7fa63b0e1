"""Find a plugin by name, import it at first use, check it against its protocol.

Built-ins are the files of one package; other packages add theirs through an entry-point group; a loose file is added
by path. Listing reads names only and imports no plugin.
"""

from __future__ import annotations

import ast
import difflib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from medvqa_cli.errors import MedVQAError, PluginError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T = TypeVar("T")


def normalize_name(name: str) -> str:
    """Return the one spelling of a plugin name: lower case, underscores."""
    return name.strip().lower().replace("-", "_")


class Registry(Generic[T]):
    """The plugins of one kind.

    Args:
        kind: What a user calls one, such as "data set".
        group: Entry-point group other packages add to.
        package: Package whose modules are the built-ins.
        required: Attributes a plugin must have.
    """

    def __init__(self, kind: str, group: str, package: str, required: Sequence[str]) -> None:
        self.kind = kind
        self.group = group
        self.package = package
        self.required = tuple(required)
        self._loose: dict[str, T] = {}
        self._files: dict[str, Path | None] = {}
        self._loaded: dict[str, T] = {}

    def names(self) -> list[str]:
        """Return all plugin names, sorted."""
        return sorted({*self.entry_points(), *self._loose})

    def entry_points(self) -> dict[str, EntryPoint]:
        """Return built-ins and installed plugins by name, unloaded.

        Raises:
            PluginError: If two plugins carry the same name.
        """
        found: dict[str, EntryPoint] = {}
        for entry in [*self._builtins(), *importlib.metadata.entry_points(group=self.group)]:
            name = normalize_name(entry.name)
            if name in found and found[name].value != entry.value:
                raise PluginError(f"The {self.kind} name '{name}' is taken twice: by '{found[name].value}' and by "
                                  f"'{entry.value}'.", "Uninstall one of the two packages, or rename its entry point.")
            found[name] = entry
        return found

    def origin(self, name: str) -> str:
        """Return where a plugin comes from: "built-in", a distribution's name, or "file"."""
        if name in self._loose:
            return "file"
        entry = self.entry_points()[name]
        return entry.dist.name if entry.dist else "built-in"

    def summary(self, name: str) -> str:
        """Return one line about a plugin without importing it: its file's first line, or its package's summary."""
        if name in self._loose:
            return f"from {self._files[name]}" if self._files[name] else "added by the program"
        entry = self.entry_points()[name]
        return entry.dist.metadata["Summary"] or "" if entry.dist else _read_summary(entry.module)

    def add(self, name: str, plugin: T, file: Path | None = None) -> None:
        """Add a plugin object under a name, as `--plugin file.py` does; the same file may be added again.

        Raises:
            PluginError: If the name is taken or the plugin lacks something.
        """
        name = normalize_name(name)
        known = name in self._loose and file is not None and self._files[name] == file
        if name in self.entry_points() or (name in self._loose and not known):
            raise PluginError(f"The {self.kind} name '{name}' is taken"
                              f"{f' by {self._files[name]}' if self._files.get(name) else ''}.", "Rename the file.")
        self._check(name, plugin)
        self._loose[name], self._files[name] = plugin, file

    def get(self, name: str) -> T:
        """Return the plugin called `name` (`-` and `_` are equal), or whose card lists it as an alias.

        Raises:
            PluginError: If the name is unknown, or the plugin cannot be imported or is incomplete.
        """
        return self._load(self.resolve(name))

    def resolve(self, name: str) -> str:
        """Return the plugin name behind a name or alias.

        Raises:
            PluginError: If nothing goes by that name.
        """
        wanted = normalize_name(name)
        names = self.names()
        if wanted in names:
            return wanted
        aliases = self.aliases()
        if wanted in aliases:
            return aliases[wanted]
        raise PluginError(f"Unknown {self.kind} '{name}'.{self._suggest(wanted, [*names, *aliases])}",
                          f"Known: {', '.join(names)}.")

    def aliases(self) -> dict[str, str]:
        """Return alias -> plugin name over all plugins that load; of two with one alias the built-in one wins."""
        plugins = sorted(self.loadable().items(), key=lambda item: self.origin(item[0]) == "built-in")
        return {normalize_name(alias): name for name, plugin in plugins for alias in cast("Any", plugin).card.aliases}

    def loadable(self) -> dict[str, T]:
        """Return every plugin that loads; a broken one never hides the others."""
        plugins: dict[str, T] = {}
        for name in self.names():
            try:
                plugins[name] = self._load(name)
            except MedVQAError:
                continue
        return plugins

    def failure(self, name: str) -> str:
        """Return why a plugin does not load, or an empty string if it does."""
        try:
            self._load(name)
        except MedVQAError as error:
            return error.message
        return ""

    def missing_parts(self, plugin: object) -> list[str]:
        """Return the required attributes a plugin lacks; no property is run: `Options` would import pydantic."""
        return [part for part in self.required if inspect.getattr_static(plugin, part, self) is self]

    def _builtins(self) -> list[EntryPoint]:
        spec = importlib.util.find_spec(self.package)
        paths = list(spec.submodule_search_locations or ()) if spec else []
        return [EntryPoint(module.name, f"{self.package}.{module.name}:PLUGIN", self.group)
                for module in pkgutil.iter_modules(paths) if not module.name.startswith("_")]

    def _load(self, name: str) -> T:
        if name in self._loose:
            return self._loose[name]
        if name not in self._loaded:
            plugin = self._import(name, self.entry_points()[name])
            self._check(name, plugin)
            self._loaded[name] = plugin
        return self._loaded[name]

    def _import(self, name: str, entry: EntryPoint) -> T:
        try:
            return cast("T", entry.load())
        except MedVQAError:
            raise
        except (Exception, SystemExit) as error:  # a plugin may fail in any way
            raise PluginError(f"The {self.kind} plugin '{name}' ({entry.value}) cannot be loaded: "
                              f"{type(error).__name__}: {error}",
                              "Fix or uninstall the package it comes from.") from error

    def _check(self, name: str, plugin: object) -> None:
        missing = self.missing_parts(plugin)
        if missing:
            raise PluginError(f"The {self.kind} plugin '{name}' lacks: {', '.join(missing)}.",
                              f"A {self.kind} plugin needs: {', '.join(self.required)}.")

    @staticmethod
    def _suggest(wanted: str, names: Sequence[str]) -> str:
        close = difflib.get_close_matches(wanted, names, n=1)
        return f" Did you mean '{close[0]}'?" if close else ""


def _read_summary(module: str) -> str:
    """Return the first line of a module's docstring, read from its file."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return ""
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def load_file(path: Path) -> Any:
    """Import a loose plugin file and return its PLUGIN.

    Raises:
        PluginError: If the file is missing, fails, or has no PLUGIN.
    """
    name = f"medvqa_plugin_{normalize_name(path.stem)}"
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise PluginError(f"The plugin file '{path}' does not exist or is not a Python file.")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses and pickle look it up there
    try:
        spec.loader.exec_module(module)
    except MedVQAError:
        raise
    except (Exception, SystemExit) as error:  # a plugin may fail in any way
        raise PluginError(f"The plugin file '{path}' cannot be loaded: {type(error).__name__}: {error}") from error
    if not hasattr(module, "PLUGIN"):
        raise PluginError(f"The plugin file '{path}' has no PLUGIN.", "End it with: PLUGIN = MyDataset()")
    return module.PLUGIN


def add_file(path: Path, registries: Mapping[str, Registry[Any]]) -> str:
    """Add a loose plugin file to the registry whose protocol it meets; return that registry's key.

    Raises:
        PluginError: If it meets none.
    """
    plugin = load_file(path)
    for key, registry in registries.items():
        if not registry.missing_parts(plugin):
            registry.add(path.stem, plugin, path.resolve())
            return key
    wants = "; ".join(f"a {registry.kind} needs {', '.join(registry.required)}" for registry in registries.values())
    raise PluginError(f"The plugin file '{path}' is no plugin of any kind: {wants}.")

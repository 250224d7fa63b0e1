"""Plugins found by name, imported at first use, checked."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from medvqa_cli.errors import PluginError
from medvqa_cli.registry import Registry, add_file, load_file, normalize_name

GOOD = '''"""A good one.

More about it.
"""
class Card:
    aliases = ("nick_name",)
class Plugin:
    card = Card()
    read = None
PLUGIN = Plugin()
'''
BROKEN = '"""A broken one."""\nimport no_such_module_anywhere\n'
INCOMPLETE = "class Plugin:\n    card = None\nPLUGIN = Plugin()\n"
LACKS_A_PACKAGE = ("from medvqa_cli.errors import MissingDependencyError\n"
                   "raise MissingDependencyError('DICOM', 'pydicom', 'dicom')\n")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Make an importable package of built-in plugins; returns its name and a function that adds a file."""
    name = f"builtins_{tmp_path.name}".replace("-", "_")
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))

    def add(file: str, text: str) -> None:
        (folder / file).write_text(text)

    yield name, add
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]


@pytest.fixture
def make(package, monkeypatch):
    name, add = package

    def build(entries: dict[str, str] | None = None, **files: str) -> Registry:
        for file, text in files.items():
            add(f"{file}.py", text)
        found = [EntryPoint(key, value, "test.group") for key, value in (entries or {}).items()]
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: found if group == "test.group" else [])
        return Registry("data set", "test.group", name, ("card", "read"))

    return build


def refuse(call, *arguments) -> PluginError:
    with pytest.raises(PluginError) as caught:
        call(*arguments)
    assert caught.value.exit_code == 3
    return caught.value


def test_names_have_one_spelling():
    assert normalize_name(" LLaVA-Med ") == "llava_med"


def test_listing_imports_nothing(make, package):
    registry = make(good=GOOD, broken=BROKEN, _private=GOOD)
    assert registry.names() == ["broken", "good"]
    assert registry.summary("good") == "A good one."
    assert registry.summary("broken") == "A broken one."
    assert registry.origin("good") == "built-in"
    assert f"{package[0]}.good" not in sys.modules


def test_a_plugin_is_imported_once(make):
    registry = make(good=GOOD)
    assert registry.get("good") is registry.get("GOOD") is registry.get("nick-name")
    assert registry.resolve("Nick_Name") == "good"


def test_an_unknown_name_is_answered_with_the_closest_and_the_list(make):
    error = refuse(make(good=GOOD, broken=BROKEN).get, "godo")
    assert error.message == "Unknown data set 'godo'. Did you mean 'good'?"
    assert error.hint == "Known: broken, good."
    assert refuse(make().get, "zzz").message == "Unknown data set 'zzz'."


def test_a_broken_plugin_is_named_and_hides_no_other(make, package):
    registry = make(good=GOOD, broken=BROKEN, lacking=LACKS_A_PACKAGE, leaving="raise SystemExit(0)")
    assert list(registry.loadable()) == ["good"]
    assert registry.get("nick_name"), "aliases are found beside broken plugins"
    error = refuse(registry.get, "broken")
    assert error.message == (f"The data set plugin 'broken' ({package[0]}.broken:PLUGIN) cannot be loaded: "
                             "ModuleNotFoundError: No module named 'no_such_module_anywhere'")
    assert registry.failure("good") == ""
    assert "no_such_module_anywhere" in registry.failure("broken")
    assert registry.failure("lacking") == "DICOM needs the package 'pydicom', which is not installed."
    assert "SystemExit" in registry.failure("leaving")


def test_a_plugin_without_the_protocol_is_refused(make):
    error = refuse(make(incomplete=INCOMPLETE).get, "incomplete")
    assert error.message == "The data set plugin 'incomplete' lacks: read."
    assert error.hint == "A data set plugin needs: card, read."


def test_a_module_without_plugin_is_refused(make):
    assert "has no attribute 'PLUGIN'" in refuse(make(empty="").get, "empty").message


def test_entry_points_join_the_built_ins(make, package):
    registry = make({"My-Set": f"{package[0]}.good:PLUGIN"}, good=GOOD)
    assert registry.names() == ["good", "my_set"]
    assert registry.get("my-set").card.aliases == ("nick_name",)


def test_a_name_taken_twice_is_an_error(make, package):
    registry = make({"good": "elsewhere:PLUGIN"}, good=GOOD)
    error = refuse(registry.names)
    assert error.message == (f"The data set name 'good' is taken twice: by '{package[0]}.good:PLUGIN' and by "
                             "'elsewhere:PLUGIN'.")


def test_an_installed_package_seen_twice_is_one(make, package):
    assert make({"good": f"{package[0]}.good:PLUGIN"}, good=GOOD).names() == ["good"]


@pytest.fixture
def installed(monkeypatch):
    """Pretend that another distribution adds a plugin with the same alias as the built-in one."""
    def install(name: str, plugin: object) -> None:
        entry = SimpleNamespace(name=name, value="other:PLUGIN", load=lambda: plugin,
                                dist=SimpleNamespace(name="other-package", metadata={"Summary": "Other sets."}))
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry])

    return install


def test_an_installed_plugin_tells_its_distribution(make, installed):
    registry = make(good=GOOD)
    installed("other", Plugin())
    assert (registry.origin("other"), registry.summary("other")) == ("other-package", "Other sets.")


@pytest.mark.parametrize("name", ["aaa", "zzz"])
def test_of_two_plugins_with_one_alias_the_built_in_wins(make, installed, name):
    registry = make(good=GOOD)
    installed(name, Plugin(card=SimpleNamespace(aliases=("nick_name", "other_name"))))
    assert registry.resolve("nick_name") == "good"
    assert registry.resolve("other_name") == name


@dataclass
class Plugin:
    card: object = None
    read: object = None


def test_a_plugin_object_can_be_added(make):
    registry = make(good=GOOD)
    registry.add("My-One", Plugin())
    assert registry.names() == ["good", "my_one"]
    assert (registry.origin("my_one"), registry.summary("my_one")) == ("file", "added by the program")
    assert refuse(registry.add, "my_one", Plugin()).message == "The data set name 'my_one' is taken."
    assert refuse(registry.add, "good", Plugin()).message == "The data set name 'good' is taken."


def test_a_loose_file_may_hold_dataclasses(tmp_path):
    path = tmp_path / "my-set.py"
    path.write_text("from __future__ import annotations\nimport dataclasses\n"
                    "@dataclasses.dataclass\nclass Plugin:\n    card: str | None = None\n    read: int = 0\n"
                    "PLUGIN = Plugin()\n")
    assert load_file(path).read == 0


def test_a_loose_file_joins_the_registry_it_fits(make, tmp_path):
    path = tmp_path / "my-set.py"
    path.write_text(GOOD)
    first, second = make(), make()
    first.required = ("card", "layout")
    assert add_file(path, {"models": first, "datasets": second}) == "datasets"
    assert second.names() == ["my_set"]
    assert second.summary("my_set") == f"from {path}"
    assert add_file(path, {"datasets": second}) == "datasets", "the same file may be added again"


def test_two_loose_files_of_one_name_are_an_error(make, tmp_path):
    registry = make()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(GOOD)
    add_file(tmp_path / "a" / "mine.py", {"datasets": registry})
    error = refuse(add_file, tmp_path / "b" / "mine.py", {"datasets": registry})
    assert error.message == f"The data set name 'mine' is taken by {tmp_path}/a/mine.py."


@pytest.mark.parametrize(("name", "text", "message"), [
    ("none.py", None, "The plugin file '{path}' does not exist or is not a Python file."),
    ("x.txt", "PLUGIN = 1", "The plugin file '{path}' does not exist or is not a Python file."),
    ("x.py", "1 / 0", "The plugin file '{path}' cannot be loaded: ZeroDivisionError: division by zero"),
    ("x.py", "oops(", "The plugin file '{path}' cannot be loaded: SyntaxError: '(' was never closed"),
    ("x.py", "", "The plugin file '{path}' has no PLUGIN."),
    ("x.py", "PLUGIN = 1",
     "The plugin file '{path}' is no plugin of any kind: a data set needs card, read."),
])
def test_a_bad_loose_file_is_named(make, tmp_path, name, text, message):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    assert refuse(add_file, path, {"datasets": make()}).message.startswith(message.format(path=path))

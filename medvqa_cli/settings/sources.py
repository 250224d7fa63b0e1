"""Where settings come from: files, the environment, --set, flags. Read, but not yet checked.

Imports no pydantic, so that listings and completion can look up a folder quickly.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvqa_cli.errors import SettingsError
from medvqa_cli.settings.upgrading import upgrade_tree

PREFIX = "MEDVQA_"
RESERVED_VARIABLES = frozenset({"MEDVQA_CONFIG_HOME", "MEDVQA_TEST_DATA"})
OF_THE_MACHINE = ("paths", "aliases")


@dataclass(frozen=True, slots=True)
class Assignment:
    """One value that one source gives to one setting.

    Args:
        path: The setting's key in parts, such as ("train", "learning_rate").
        value: A plain JSON value, or text.
        origin: Where it stands, as a user would say it: a file's name, "--epochs", "MEDVQA_SEED".
        is_text: The value is text whose type the setting decides (`true` is a string for a name).
    """

    path: tuple[str, ...]
    value: Any
    origin: str
    is_text: bool = False

    @property
    def key(self) -> str:
        """The dotted key."""
        return ".".join(self.path)


def flatten(tree: Mapping[Any, Any], origin: str, path: tuple[str, ...] = ()) -> list[Assignment]:
    """Return one assignment for every leaf of nested mappings; an empty mapping is a leaf."""
    found: list[Assignment] = []
    for key, value in tree.items():
        here = (*path, str(key))
        nested = isinstance(value, Mapping) and value
        found += flatten(value, origin, here) if nested else [Assignment(here, value, origin)]
    return found


def user_config_path(environment: Mapping[str, str]) -> Path:
    """Return where the user file lies: $MEDVQA_CONFIG_HOME, $XDG_CONFIG_HOME/medvqa or ~/.config/medvqa."""
    if home := environment.get("MEDVQA_CONFIG_HOME"):
        return Path(home) / "config.toml"
    base = environment.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "medvqa" / "config.toml"


def read_user_file(environment: Mapping[str, str]) -> list[Assignment]:
    """Return the user file's assignments; none if there is no such file.

    Raises:
        SettingsError: If it cannot be read or parsed.
    """
    path = user_config_path(environment)
    return read_config(path) if path.exists() else []


def read_config(path: Path) -> list[Assignment]:
    """Return the assignments of a TOML, YAML or JSON file.

    Raises:
        SettingsError: If it is missing, of another kind, unreadable, not valid, or holds no settings.
    """
    content = read_document(path)
    if content is None:
        return []
    if not isinstance(content, Mapping):
        raise SettingsError(f"{path}: expected settings such as 'train: {{epochs: 3}}', found a "
                            f"{type(content).__name__}.", "`medvqa config init` writes an example.")
    return flatten(content, str(path))


def read_document(path: Path) -> Any:
    """Return what a TOML, YAML or JSON file holds.

    Raises:
        SettingsError: If it is missing, of another kind, unreadable or not valid.
    """
    return _parse(path, _read_text(path))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SettingsError(f"The configuration file '{path}' does not exist.",
                            "`medvqa config init` writes a commented one.") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from error
    except OSError as error:
        raise SettingsError(f"The configuration file '{path}' cannot be read: {error.strerror}.") from error


def _parse(path: Path, text: str) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".toml":
        return _parse_toml(path, text)
    if suffix in {".yaml", ".yml", ".json"}:
        from medvqa_cli.settings.yaml_reading import parse_yaml

        return parse_yaml(text, str(path))
    raise SettingsError(f"The configuration file '{path}' is of an unknown kind.", "Name it .toml, .yaml or .json.")


def _parse_toml(path: Path, text: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}.") from error


def read_environment(environment: Mapping[str, str]) -> list[Assignment]:
    """Return the assignments of MEDVQA_* variables: two underscores step into a section; an empty one is as unset."""
    return [Assignment(tuple(name.removeprefix(PREFIX).lower().split("__")), value, name, is_text=True)
            for name, value in sorted(environment.items())
            if name.startswith(PREFIX) and name not in RESERVED_VARIABLES and value]


def parse_set(text: str) -> Assignment:
    """Return the assignment of `--set key=value`.

    Raises:
        SettingsError: If there is no `=` or no key.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise SettingsError(f"--set '{text}' is not of the form key=value.", "For example: --set train.epochs=1")
    return Assignment(tuple(key.strip().split(".")), value.strip(), f"--set {key.strip()}", is_text=True)


def read_run(settings: Mapping[str, Any]) -> list[Assignment]:
    """Return the assignments of a run's settings.json, without what belongs to the machine it ran on."""
    kept = {key: value for key, value in upgrade_tree(settings).items() if key not in OF_THE_MACHINE}
    return flatten(kept, "settings.json of the run")


def collect(flags: Iterable[Assignment] = (), *, config: Path | None = None, sets: Iterable[str] = (),
            run_settings: Mapping[str, Any] | None = None, base: Iterable[Assignment] = (),
            environment: Mapping[str, str] | None = None) -> list[Assignment]:
    """Return all assignments; a later one wins.

    The order is: user file, `base`, the run's settings, `config`, environment, `sets`, `flags`. A file named on the
    command line stands above the run because it was asked for now.

    Raises:
        SettingsError: If a file or a `--set` cannot be read.
    """
    environment = os.environ if environment is None else environment
    return [*read_user_file(environment), *base, *read_run(run_settings or {}),
            *(read_config(config) if config else ()), *read_environment(environment), *map(parse_set, sets), *flags]


def find_path(assignments: Iterable[Assignment], key: str, default: str) -> Path:
    """Return a folder setting without checking any other, such as `paths.runs` for a listing."""
    value = default
    for assignment in assignments:
        if assignment.key == key:
            value = str(assignment.value)
    return Path(value).expanduser()


def find_plugin_files(assignments: Iterable[Assignment]) -> list[Path]:
    """Return the loose plugin files of all sources, each once.

    Raises:
        SettingsError: If `plugins` is no list of paths.
    """
    found: dict[Path, None] = {}
    for assignment in assignments:
        if assignment.path == ("plugins",):
            found |= dict.fromkeys(Path(name).expanduser() for name in as_list(assignment))
    return list(found)


def as_list(assignment: Assignment) -> list[str]:
    """Return a list setting's items; text is JSON, or items between commas.

    Raises:
        SettingsError: If it is no list of strings.
    """
    value = split_text(assignment.value) if assignment.is_text else assignment.value
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise SettingsError(f"{assignment.origin}: setting '{assignment.key}' is {json.dumps(value, default=str)}: "
                            "input should be a list of strings.")
    return list(value)


def split_text(text: Any) -> Any:
    """Return the items of a list given as text: JSON, or items between commas."""
    value = parse_json(text)
    return value if isinstance(value, list) else [part.strip() for part in str(text).split(",") if part.strip()]


def parse_json(text: str) -> Any:
    """Return what JSON text stands for, or the text itself; NaN and Infinity are no JSON."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError:
        return text


def _refuse(constant: str) -> None:
    raise ValueError(constant)

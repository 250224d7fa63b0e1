"""Layered settings: defaults, user file, a run, --config, environment, --set, flags; a later one wins."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from medvqa_cli.errors import SettingsError
from medvqa_cli.settings.schema import Settings, make_settings, to_tree
from medvqa_cli.settings.section import Section
from medvqa_cli.settings.sources import Assignment, collect, find_plugin_files, flatten, parse_json, split_text

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Resolved:
    """Checked settings, and for every dotted key where its value came from."""

    settings: Settings
    origins: Mapping[str, str]


def resolve_settings(flags: Iterable[Assignment] = (), *, config: Path | None = None, sets: Iterable[str] = (),
                     run_settings: Mapping[str, Any] | None = None, base: Iterable[Assignment] = (),
                     environment: Mapping[str, str] | None = None) -> Resolved:
    """Merge all sources and check the result.

    Args:
        flags: Values of command-line options.
        config: A TOML, YAML or JSON file.
        sets: `key=value` texts.
        run_settings: The settings.json of the run the command continues from; its `paths` and `aliases` are left out.
        base: What stands right above the user file.
        environment: Variables; the process's own if not given.

    Returns:
        Settings with their origins. Loose plugin files of all sources add up; every other value is replaced whole.

    Raises:
        SettingsError: If a source cannot be read, a key is unknown or a value is not allowed; the source is named.
    """
    return resolve_assignments(collect(flags, config=config, sets=sets, run_settings=run_settings, base=base,
                                       environment=environment))


def resolve_assignments(assignments: Sequence[Assignment]) -> Resolved:
    """Merge assignments, of which a later one wins, and check the result.

    Raises:
        SettingsError: If a key is unknown or a value is not allowed; the source is named.
    """
    tree: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for assignment in fit_all(assignments):
        _insert(tree, assignment)
        origins[assignment.key] = assignment.origin
    if plugins := find_plugin_files(assignments):
        tree["plugins"] = [str(path) for path in plugins]
    settings = make_settings(tree, origins)
    return Resolved(settings, _complete(settings, origins))


def fit_all(assignments: Iterable[Assignment]) -> Iterator[Assignment]:
    """Yield assignments whose keys exist and whose text has become the type its setting takes.

    Raises:
        SettingsError: If a key is unknown.
    """
    for assignment in assignments:
        annotation = find_type(assignment)
        value = _parse_text(assignment.value, annotation) if assignment.is_text else assignment.value
        if isinstance(value, Mapping):
            yield from fit_all(flatten(value, assignment.origin, assignment.path))
        elif _is_section(annotation) or get_origin(annotation) is dict:
            _require_nothing(assignment, value)
        else:
            yield Assignment(_join_name(assignment, annotation), _expand_home(value), assignment.origin)


def _require_nothing(assignment: Assignment, value: Any) -> None:
    """Let an empty section of a file pass; a section itself takes no value."""
    if value is not None:
        raise SettingsError(f"{assignment.origin}: '{assignment.key}' is a group of settings, not {json.dumps(value)}.",
                            f"Write a value for one of its keys: {assignment.key}.KEY.")


def find_type(assignment: Assignment) -> Any:
    """Return the annotation of the setting an assignment names, or the section's class.

    Raises:
        SettingsError: If there is no such setting; the closest one is suggested.
    """
    annotation: Any = Settings
    for depth, part in enumerate(assignment.path):
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
            if not _is_section(annotation):
                return annotation
        elif not _is_section(annotation):
            single = ".".join(assignment.path[:depth])
            raise SettingsError(f"{assignment.origin}: setting '{single}' is one value and has no '{assignment.key}'.",
                                f"Write {single}=VALUE. `medvqa config show` prints every key.")
        elif part not in annotation.model_fields:
            raise _unknown(assignment)
        else:
            annotation = annotation.model_fields[part].annotation
    return annotation


def _unknown(assignment: Assignment) -> SettingsError:
    known = list(list_keys())
    last = {key.rpartition(".")[2]: key for key in reversed(known)}
    named = last.get(assignment.path[-1])
    close = ([named] if named else difflib.get_close_matches(assignment.key, known, n=1)
             or [last[name] for name in difflib.get_close_matches(assignment.path[-1], last, n=1)])
    suggestion = f" Did you mean '{close[0]}'?" if close else ""
    return SettingsError(f"{assignment.origin}: unknown setting '{assignment.key}'.{suggestion}",
                         "See `medvqa config show` for every key.")


def list_keys(section: type[Section] = Settings, prefix: str = "") -> Iterator[str]:
    """Yield the dotted key of every setting."""
    for name, field in section.model_fields.items():
        if _is_section(field.annotation):
            yield from list_keys(field.annotation, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            yield prefix + name


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _join_name(assignment: Assignment, annotation: Any) -> tuple[str, ...]:
    """Return the path with everything behind a mapping of names as one name: "llava-1.5" is one alias."""
    path = assignment.path
    if path[0] == "aliases" and annotation in {str, Path} and len(path) > 3:
        return (*path[:2], ".".join(path[2:]))
    return path


def _parse_text(text: str, annotation: Any) -> Any:
    """Return what text means to a setting: JSON where its type takes that, else the text itself."""
    value = parse_json(text)
    if _is_section(annotation) or annotation is Any:
        return value
    if get_origin(annotation) is tuple:
        return split_text(text)
    adapter = TypeAdapter(annotation, config=ConfigDict(strict=True))
    return next((choice for choice in (value, text) if _takes(adapter, choice)), value)


def _takes(adapter: TypeAdapter[Any], value: Any) -> bool:
    try:
        adapter.validate_json(json.dumps(value))
    except ValidationError:
        return False
    return True


def _expand_home(value: Any) -> Any:
    return str(Path(value).expanduser()) if isinstance(value, str) and value.startswith("~/") else value


def _insert(tree: dict[str, Any], assignment: Assignment) -> None:
    for part in assignment.path[:-1]:
        inner = tree.get(part)
        if not isinstance(inner, dict):
            inner = tree[part] = {}
        tree = inner
    tree[assignment.path[-1]] = assignment.value


def _complete(settings: Settings, origins: Mapping[str, str]) -> dict[str, str]:
    leaves = [leaf.key for leaf in flatten(to_tree(settings), DEFAULT)]
    return {key: origins.get(key, DEFAULT) for key in leaves}

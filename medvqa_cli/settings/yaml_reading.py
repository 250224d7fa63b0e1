"""YAML as people expect it: the YAML 1.2 core schema, and a key given twice is an error.

PyYAML follows YAML 1.1, where `1e-4` is a string and `off` is false; both would change a setting without a word.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from medvqa_cli.errors import SettingsError


class CoreLoader(yaml.SafeLoader):
    """Reads null, true, false, whole and decimal numbers; everything else is a string."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; refuse a key given twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and str(key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' is given twice", key.start_mark)
            seen.add(str(key.value))
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def _resolve(tag: str, pattern: str) -> None:
    CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"), None)


CoreLoader.yaml_implicit_resolvers = {}
_resolve("null", r"~|null|Null|NULL|")
_resolve("bool", r"true|True|TRUE|false|False|FALSE")
_resolve("int", r"[-+]?[0-9]+")
_resolve("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_resolve("merge", r"<<")
CoreLoader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
CoreLoader.add_constructor("tag:yaml.org,2002:float", lambda _, node: float(node.value))


def parse_yaml(text: str, name: str) -> Any:
    """Return the content of a YAML document.

    Args:
        text: The document.
        name: What errors call it.

    Raises:
        SettingsError: If it is not valid; line and column are named.
    """
    try:
        return yaml.load(text, Loader=CoreLoader)  # noqa: S506 - a SafeLoader with fewer types
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SettingsError(f"{name}{where}: {error.problem or error.context}.") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{name} is not valid YAML: {error}.") from error

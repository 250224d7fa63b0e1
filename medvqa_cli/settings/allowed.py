"""What a setting takes, in words: for the hint of an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.settings.section import Section

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pydantic.fields import FieldInfo

KINDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text",
         "object": "names with values"}
BOUNDS = {"minimum": "of at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def describe_allowed(root: type[Section], path: Sequence[int | str]) -> str:
    """Return what the setting at a path takes, its default and what it is for, in one sentence.

    Args:
        root: The section that the path starts from.
        path: Keys, as pydantic locates a fault; what follows the setting, such as the place in a list, is not looked
            at.

    Returns:
        Such as "train.warmup takes a number of at least 0 and at most 1 (default 0.03): Share of the steps...";
        empty if there is no such setting.
    """
    section = root
    for depth, part in enumerate(path):
        field = section.model_fields.get(str(part))
        if field is None:
            return ""
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, Section)):
            return f"{'.'.join(map(str, path[: depth + 1]))} {_describe(section, str(part), field)}"
        section = field.annotation
    return ""


def _describe(section: type[Section], name: str, field: FieldInfo) -> str:
    schema = section.model_json_schema(mode="validation")
    takes = _say(schema["properties"][name], schema.get("$defs", {}))
    default = section.model_construct().model_dump(mode="json").get(name)
    shown = ", ".join(map(str, default)) if isinstance(default, list) else default
    return f"takes {takes}{'' if shown in (None, '', {}) else f' (default {shown})'}: {field.description or ''}"


def _say(schema: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return _say(known[schema["$ref"].rpartition("/")[2]], known)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_say(part, known) for part in schema["anyOf"] if part.get("type") != "null"))
    if choices := schema.get("enum") or ([schema["const"]] if "const" in schema else []):
        return _join(choices)
    if schema.get("type") == "array":
        return f"a list of {_say(schema['items'], known)}" if "items" in schema else "a list"
    bounds = [f"{word} {schema[key]:g}" for key, word in BOUNDS.items() if key in schema]
    return " ".join(filter(None, (KINDS.get(schema.get("type", ""), "a value"), " and ".join(bounds))))


def _join(words: Iterable[Any]) -> str:
    *rest, last = map(str, words)
    return f"{', '.join(rest)} or {last}" if rest else last

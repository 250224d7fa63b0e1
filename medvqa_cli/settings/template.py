"""A settings file with every key, commented out, under its one line of documentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.settings.schema import Settings
from medvqa_cli.settings.section import Section

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = """\
# Settings of medvqa. Every key stands here with its default; take away the "# " before those you change.
# Later wins: defaults, user file, --config FILE, MEDVQA_* variables, --set key=value, flags.
"""


def write_template() -> str:
    """Return the text of a TOML file."""
    return HEADER + "\n".join(_write_section(Settings, ""))


def _write_section(section: type[Section], prefix: str) -> Iterator[str]:
    nested = []
    for name, field in section.model_fields.items():
        annotation: Any = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            nested.append((annotation, f"{prefix}{name}", field.description))
            continue
        yield f"\n# {field.description}"
        yield f"# {name} = {_write_value(field.default)}" if field.default is not None else f"# {name} ="
    for annotation, path, description in nested:
        yield f"\n\n# {description}\n[{path}]"
        yield from _write_section(annotation, f"{path}.")


def _write_value(value: Any) -> str:
    if isinstance(value, Path):
        value = str(value)
    return json.dumps(list(value) if isinstance(value, tuple) else value)

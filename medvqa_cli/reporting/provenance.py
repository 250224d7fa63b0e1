"""The report's section on where its numbers come from: versions, seeds, settings, command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.blocks import Facts, Note, Section
from medvqa_cli.reporting.formatting import name_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from medvqa_cli.reporting.blocks import Block

LEAD = "Enough to run it again: what was run, with which settings, on what."


def build_provenance(manifest: Mapping[str, Any], settings: Mapping[str, Any], absent: Mapping[str, str]) -> Section:
    """Return the section. `absent` maps each part the run does not hold to what would make it."""
    blocks: list[Block] = []
    if manifest:
        plain = {key: value for key, value in manifest.items() if key != "packages"}
        blocks.append(Facts("Run", [(name_key(key), text) for key, text in flatten(plain)]))
        blocks.append(Facts("Packages", [(name, version or "not installed")
                                         for name, version in manifest.get("packages", {}).items()]))
    else:
        blocks.append(Note("The run holds no manifest.json: versions, seed and hardware are not known.", "warning"))
    if settings:
        blocks.append(Facts("Settings", list(flatten(settings)), folded=True))
    else:
        blocks.append(Note("The run holds no settings.json.", "warning"))
    if absent:
        blocks.append(Facts("Not in this run", list(absent.items())))
    return Section("provenance", "Provenance", LEAD, blocks)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted keys and values as text; null, empty lists and empty maps are said in words."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _say(value)


def _say(value: Any) -> str:
    if isinstance(value, str):
        return value or "(empty)"
    if value is None or value in ({}, []):
        return "none"
    return json.dumps(value, ensure_ascii=False)

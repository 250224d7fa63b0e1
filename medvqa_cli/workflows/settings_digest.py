"""Whether a run goes on with the settings it began with."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medvqa_cli.runs import Run

FREE = (("paths",), ("plugins",), ("aliases",), ("tracking",), ("data", "root"), ("model", "device"),
        ("train", "workers"), ("train", "image_cache_mb"))
"""Settings that say where and how watched a training runs, not what it does: these may change with the machine."""
KEY = "settings_digest"
"""Where the manifest has it."""


def digest_settings(tree: Mapping[str, Any]) -> str:
    """Return a digest of the settings that decide what a training does."""
    kept = copy.deepcopy(dict(tree))
    for *sections, name in FREE:
        section = kept
        for key in sections:
            section = section.get(key, {})
        section.pop(name, None)
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def check_settings(run: Run, manifest: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings than a run began with; older runs have no digest.

    Raises:
        RunError: If its settings.json was changed.
    """
    if manifest.get(KEY, digest := digest_settings(run.read_json("settings.json"))) != digest:
        raise RunError(f"The settings of run '{run.name}' have changed since it began: its checkpoints do not go with "
                       f"'{run.settings}'.", "Put the file back, or start a new run: --init-from goes on from the "
                       "weights of a finished one.")

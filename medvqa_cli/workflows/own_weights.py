"""Weights in a run's folder, told by where they lie in it: the folder may be moved, copied and renamed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medvqa_cli.runs import Run

INITIAL = "initial"
OWN = (INITIAL, "adapter", "model")
"""Folders of weights that a training makes in its run."""


def name_own_weights(facts: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Return what stands beside rows with the run's own weights as "./adapter" or "./model".

    Older versions wrote absolute paths; such a path counts as the run's own if it ends like one of its folders. Rows
    that were brought from elsewhere ("source") tell of other weights.
    """
    model = facts.get("model")
    if not isinstance(model, dict) or "source" in facts:
        return dict(facts)
    return {**facts, "model": model | {key: _shorten(str(model[key]), run) for key in ("checkpoint", "adapter")
                                       if model.get(key)}}


def place_own_weights(facts: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return what stands beside rows of a run in `folder` so that it is understood elsewhere: with absolute paths."""
    model = facts.get("model")
    if not isinstance(model, dict):
        return dict(facts)
    return {**facts, "model": {key: str(folder.resolve() / value) if value in {f"./{name}" for name in OWN} else value
                               for key, value in model.items()}}


def find_base(model: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Return the model of a run's manifest with the checkpoint where it lies now.

    What the run itself began with lies in it; what another run has made, beside that run if both were moved.
    """
    path = Path(str(model.get("checkpoint", "")))
    if not path.is_absolute() or path.name not in OWN:
        return dict(model)
    own, beside = run.path / path.name, run.path.parent / path.parent.name / path.name
    if path.name == INITIAL and own.is_dir():
        return {**model, "checkpoint": str(own)}
    return {**model, "checkpoint": str(beside)} if not path.exists() and beside.is_dir() else dict(model)


def _shorten(value: str, run: Run) -> str:
    path = Path(value)
    is_own = path.is_absolute() and path.name in OWN and (run.path / path.name).is_dir()
    return f"./{path.name}" if is_own else value

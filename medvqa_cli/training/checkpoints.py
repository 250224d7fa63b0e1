"""Resumable training states on disk."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from medvqa_cli.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from medvqa_cli.progress import Progress


def find_last_checkpoint(directory: Path, progress: Progress) -> Path | None:
    """Return the newest whole checkpoint; damaged ones are skipped with a message."""
    if not directory.is_dir():
        return None
    found = sorted((path for path in directory.glob("checkpoint-*") if path.name.split("-")[-1].isdigit()),
                   key=lambda path: int(path.name.split("-")[-1]), reverse=True)
    for path in found:
        if is_whole(path):
            progress.say(f"Resuming from {path.name}")
            return path
        progress.warn(f"Skipping {path.name}: it is damaged or was not written to the end.")
    return None


@contextmanager
def explained_full_disk(run: str) -> Iterator[None]:
    """Turn what torch and safetensors raise when the disk is full into one error that says how to go on."""
    from safetensors import SafetensorError

    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if not any(sign in str(error) for sign in ("No space left on device", "PytorchStreamWriter failed")):
            raise
        raise RunError(f"The disk is full: a checkpoint of run '{run}' could not be written.",
                       f"Free some space, then: medvqa train sft --resume {run}") from error


def is_whole(checkpoint: Path) -> bool:
    """Return whether weights, optimiser, schedule, random state and trainer state are all there and readable.

    The trainer state is written last: where it parses, the files before it were written.
    """
    needed = ("optimizer.pt", "scheduler.pt", "trainer_state.json")
    weights = list(checkpoint.glob("*.safetensors"))
    complete = all((checkpoint / name).is_file() for name in needed) and any(checkpoint.glob("rng_state*"))
    if not weights or not complete:
        return False
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        return all(_opens(path) for path in weights)
    except ValueError:
        return False


def _opens(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as tensors:
            return bool(list(tensors.keys()))
    except (SafetensorError, OSError):
        return False

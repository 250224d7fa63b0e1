"""Resumable training states on disk: written whole or not at all, checked before one is gone on from."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from medvqa_cli.errors import RunError
from medvqa_cli.records import read_jsonl, write_json, write_jsonl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from medvqa_cli.progress import Progress

PART = ".part"
"""Folder in which a checkpoint is written before it gets its name."""
LISTING = "files.json"
"""Names of a checkpoint's other files, their bytes and checksums, written last."""
DAMAGED = ".damaged"
NEEDED = ("scheduler.pt", "trainer_state.json")
OPTIMIZERS = ("optimizer.pt", "latest", "optimizer.bin")
"""The optimiser's states: of a plain training, of DeepSpeed (the name of a folder beside it), of FSDP."""
FULL = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed", "unexpected pos",
        "iostream error")
"""What operating systems and torch say when a file cannot grow."""


def name_checkpoint(step: int) -> str:
    """Return the folder name of the checkpoint after `step` optimiser steps."""
    return f"checkpoint-{step}"


def read_step(checkpoint: Path) -> int:
    """Return the optimiser steps done at a checkpoint."""
    return int(checkpoint.name.split("-")[-1])


def list_checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoints of a folder, the one of the most steps first."""
    found = (path for path in directory.glob("checkpoint-*") if path.name.split("-")[-1].isdigit())
    return sorted(found, key=read_step, reverse=True)


def find_last_checkpoint(directory: Path, progress: Progress) -> Path | None:
    """Return the newest whole checkpoint; a damaged one is put aside with a message."""
    for path in list_checkpoints(directory):
        damage = find_damage(path)
        if not damage:
            progress.say(f"Resuming from {path.name}")
            return path
        progress.warn(f"Skipping {path.name}: {damage}.")
        _put_aside(path)
    return None


def find_damage(checkpoint: Path) -> str:
    """Return what is wrong with a checkpoint, or "" if every file holds what was written."""
    try:
        listing = dict(json.loads((checkpoint / LISTING).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return f"it was not written to the end ({LISTING} is missing or damaged)"
    for name, written in listing.items():
        if change := _find_change(checkpoint / name, written):
            return f"{name} {change}"
    if not any(name in listing for name in OPTIMIZERS):
        return f"{OPTIMIZERS[0]} is missing"
    return next((f"{name} is missing" for name in NEEDED if name not in listing), "")


def _find_change(path: Path, written: list[int] | int) -> str:
    """Return how a file differs from what was written: its bytes and their checksum (older runs: bytes alone)."""
    size, checksum = written if isinstance(written, list) else (written, None)
    if not path.is_file():
        return "is missing"
    if (found := path.stat().st_size) != size:
        return f"has {found:,} bytes, {size:,} were written"
    return "" if checksum in {None, _sum_up(path)} else "holds something else than was written (its checksum differs)"


def publish_checkpoint(part: Path, target: Path) -> None:
    """List a written checkpoint's files, bring them to the disk, and give the folder its name."""
    write_json(part / LISTING, _list_files(part))
    publish_folder(part, target)


def publish_folder(part: Path, target: Path) -> None:
    """Bring a folder's files to the disk, then rename it: a kill or a power cut leaves a whole `target` or none."""
    for path in [*(path for path in part.rglob("*") if path.is_file()), part]:
        _sync(path)
    if target.exists():
        shutil.rmtree(target)
    part.rename(target)
    _sync(target.parent)


def rotate_checkpoints(directory: Path, keep: int, protected: int | None = None) -> None:
    """Delete all but the newest `keep` checkpoints and that of a protected step, and what was put aside as damaged."""
    old = [path for path in list_checkpoints(directory)[keep:] if read_step(path) != protected]
    for path in [*old, *directory.glob(f"checkpoint-*{DAMAGED}")]:
        _put_aside(path)  # a kill amid the deletion leaves nothing that looks like a checkpoint
        shutil.rmtree(path.with_suffix(DAMAGED))


def drop_events(events: Path, after: int) -> None:
    """Take the events of steps after `after` out of an event log: the run is about to do these steps again."""
    if not events.exists():
        return
    rows = list(read_jsonl(events))
    kept = [row for row in rows if row.get("step", 0) <= after]
    if len(kept) < len(rows):
        write_jsonl(events, kept)


@contextmanager
def explained_full_disk(run: str, resume: str) -> Iterator[None]:
    """Turn what is raised when the disk is full into one error that names the command to go on by."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not any(sign in str(error) for sign in FULL):
            raise
        raise RunError(f"The disk is full: run '{run}' could not be written on.",
                       f"Free some space, then: {resume}") from error


def _list_files(folder: Path) -> dict[str, tuple[int, int]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != LISTING)
    return {path.relative_to(folder).as_posix(): (path.stat().st_size, _sum_up(path)) for path in files}


def _sum_up(path: Path) -> int:
    """Return the CRC-32 of a file: a gigabyte takes a fraction of the time that writing it took."""
    checksum = 0
    with path.open("rb") as stream:
        while chunk := stream.read(2**20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def _put_aside(checkpoint: Path) -> None:
    aside = checkpoint.with_suffix(DAMAGED)
    if aside != checkpoint:
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)


def _sync(path: Path) -> None:
    """Have what was written to a file, or the names in a folder, brought to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""`medvqa convert`: a checkpoint of another layout to a folder that transformers loads."""

from __future__ import annotations

import re
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import ModelError, SettingsError
from medvqa_cli.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

GB = 10**9


def convert_checkpoint(source: str, destination: Path, *, vision_tower: str | None = None,
                       revision: str | None = None, allow_pickle: bool = False, overwrite: bool = False,
                       max_shard_size: str = "5GB", progress: Progress = SILENT) -> dict[str, Any]:
    """Write an original LLaVA-Med v1.5 checkpoint as an ordinary Hugging Face folder of the type `llava`.

    Weights are read tensor by tensor and written shard by shard: memory stays below one shard and one tensor. All is
    written beside the destination and moved there when it is whole.

    Args:
        source: Folder or hub id of the original checkpoint.
        destination: Folder to write.
        vision_tower: Folder or hub id of a CLIP checkpoint whose vision tower is taken; None takes the source's own.
        revision: Revision of a source on the hub.
        allow_pickle: Read weights in the old format (.bin) too.
        overwrite: Replace a checkpoint at the destination.
        max_shard_size: Largest weight file, such as "5GB".
        progress: Where to report.

    Returns:
        "checkpoint", "parameters", "tensors", "files", "added_tokens", "vision_tower" and "unused_tensors": the number
        of stored tensors that became nothing.

    Raises:
        SettingsError: If `max_shard_size` is no size.
        ModelError: If the source cannot be had, is of another kind, damaged or incomplete, or the destination is taken.
    """
    from medvqa_cli.models.hub import fetch_checkpoint
    from medvqa_cli.models.llava_mistral import plan_conversion, write_checkpoint
    from medvqa_cli.models.loading import explained_failures, silence_libraries

    if not re.fullmatch(r"[1-9]\d*\s?[KMGT]?B", max_shard_size, re.IGNORECASE):
        raise SettingsError(f"'{max_shard_size}' is no size of a file.", "Write --max-shard-size 5GB or 500MB.")
    silence_libraries()
    _check_destination(source, destination, overwrite=overwrite)
    folder, tower = (fetch_checkpoint(name, of, allow_pickle=allow_pickle, progress=progress).folder if name else None
                     for name, of in ((source, revision), (vision_tower, None)))
    with explained_failures(source):
        conversion = plan_conversion(Path(str(folder)), Path(tower) if tower else None, allow_pickle=allow_pickle)
    _check_space(conversion.num_bytes, destination)
    with _replaced(destination) as part:
        files = write_checkpoint(conversion, part, max_shard_size=max_shard_size, progress=progress)
    return {"checkpoint": str(destination), "parameters": conversion.num_values, "tensors": len(conversion.tensors),
            "files": files, "added_tokens": list(conversion.added), "vision_tower": vision_tower or source,
            "unused_tensors": len(conversion.unused)}


@contextmanager
def _replaced(destination: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the destination's place once it is filled, and vanishes if that fails."""
    part, old = (destination.with_name(f"{destination.name}.{ending}") for ending in ("part", "old"))
    for left in (part, old):
        shutil.rmtree(left, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        if destination.exists():
            destination.rename(old)
        part.rename(destination)
    finally:
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)


def _check_destination(source: str, destination: Path, *, overwrite: bool) -> None:
    """Refuse a place that holds something else than a checkpoint, or that the source lies in."""
    if destination.exists() and destination.resolve() in {place := Path(source).resolve(), *place.parents}:
        raise ModelError(f"'{destination}' holds the source itself.", "Name another folder.")
    if not destination.exists() or (destination.is_dir() and not any(destination.iterdir())):
        return
    if not (destination / "config.json").is_file():
        raise ModelError(f"'{destination}' exists and is no checkpoint.", "Name another folder.")
    if not overwrite:
        raise ModelError(f"There is a checkpoint in '{destination}' already.",
                         "Name another folder, or replace it with --overwrite.")


def _check_space(needed: int, destination: Path) -> None:
    place = next(folder for folder in destination.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise ModelError(f"The converted checkpoint needs {needed / GB:.1f} GB; '{place}' has {free / GB:.1f} GB left.",
                         "Free some space, or name a folder on another disk.")

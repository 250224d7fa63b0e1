"""Checkpoints of the hub: every file from one commit, taken from the cache or fetched.

No hub could be reached where this was written: it was run against one played below its HTTP client.
"""

from __future__ import annotations

import errno
import json
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medvqa_cli.errors import ModelError
from medvqa_cli.progress import SILENT, Progress, track

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DESCRIPTIONS = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
"""Everything but weights: configuration, tokenizer, templates."""
CODE = "*.py"
SAFE, PICKLE = "model.safetensors", "pytorch_model.bin"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a checkpoint's files lie, and the commit they are of (empty if it is not known)."""

    folder: str
    commit: str = ""


def fetch_checkpoint(checkpoint: str, revision: str | None = None, *, beside: Sequence[str] = (),
                     allow_pickle: bool = False, allow_code: bool = False, progress: Progress = SILENT) -> Source:
    """Return a checkpoint's folder: its own, or the hub's cache once every file of one commit lies there.

    Fetched are descriptions and the weights transformers would load, nothing else: no code unless allowed, no second
    copy of the weights in another format, no adapters but those named.

    Args:
        checkpoint: A folder or a hub id.
        revision: Branch, tag or commit; the main branch if None.
        beside: Further files to take (`ModelCard.files_beside`).
        allow_pickle: Whether to take weights in the old pickle format where there are no safetensors.
        allow_code: Whether to fetch the checkpoint's own Python code.
        progress: Counts the weight files that are fetched.

    Raises:
        ModelError: If the checkpoint is unknown, gated, neither cached nor to be fetched, or holds no weights that
            may be loaded.
    """
    if Path(checkpoint).is_dir():
        return Source(checkpoint, find_commit(Path(checkpoint)))
    with explained_hub_failures(checkpoint, revision):
        code = [CODE] if allow_code else []
        folder = _take_snapshot(checkpoint, revision, [*DESCRIPTIONS, *beside, *code])
        if not _fetch_weights(checkpoint, folder, SAFE, progress):
            _check_pickled(checkpoint, folder.name, allow_pickle=allow_pickle)
            _fetch_weights(checkpoint, folder, PICKLE, progress)
    return Source(str(folder), find_commit(folder))


def find_commit(folder: Path) -> str:
    """Return the commit that a folder of the hub's cache holds (`snapshots/COMMIT`), or nothing for another folder."""
    path = folder.absolute()
    return path.name if path.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", path.name) else ""


def _take_snapshot(checkpoint: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Return the snapshot's folder; without a network what there is of it, which is checked where it is loaded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError

    try:
        return Path(snapshot_download(checkpoint, revision=revision, allow_patterns=list(patterns)))
    except IncompleteSnapshotError as error:
        return Path(error.snapshot_path)


def _fetch_weights(checkpoint: str, folder: Path, name: str, progress: Progress) -> bool:
    """Fetch one file of weights, or the parts its index lists; return whether there are any."""
    index = folder / f"{name}.index.json"
    names = _read_index(index) if index.is_file() else [name]
    missing = [part for part in names if not (folder / part).is_file()]
    for part in track(missing, progress, f"Fetching {checkpoint}", len(missing), "file") if missing else ():
        _take_snapshot(checkpoint, folder.name, [part])
    return index.is_file() or (folder / name).is_file()


def _read_index(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"'{index}' is damaged: it is no index of weight files.",
                         "Delete it and download the checkpoint again.") from error


def _check_pickled(checkpoint: str, commit: str, *, allow_pickle: bool) -> None:
    from huggingface_hub import HfApi

    names = [name for name in HfApi().list_repo_files(checkpoint, revision=commit)
             if re.fullmatch(r"pytorch_model.*\.bin", name)]
    if not names:
        raise ModelError(f"'{checkpoint}' holds no weights: neither {SAFE} nor {PICKLE}, whole or in parts.",
                         "Name a checkpoint in Hugging Face's layout; GGUF and other formats are not loaded.")
    if not allow_pickle:
        raise ModelError(f"The weights of '{checkpoint}' are pickle files ('{names[0]}'), which can run code of "
                         "whoever wrote them.", "Use safetensors, or pass --allow-pickle if you trust the source.")


@contextmanager
def explained_hub_failures(checkpoint: str, revision: str | None = None) -> Iterator[None]:
    """Turn what the hub's client raises into one ModelError that says what to do."""
    from huggingface_hub.errors import HfHubHTTPError

    failures: tuple[type[Exception], ...] = (OSError, ValueError, *HfHubHTTPError.__bases__)  # and its HTTP library's
    try:
        yield
    except failures as error:
        raise explain_hub_failure(checkpoint, error, revision) or ModelError(
            f"The model '{checkpoint}' cannot be fetched: {first_line(error)}",
            "Check the network (and HF_ENDPOINT) and try again.") from error


def explain_hub_failure(checkpoint: str, error: BaseException | None,
                        revision: str | None = None) -> ModelError | None:
    """Return what a failure of the hub's client, or one caused by it, means; None if it is of another kind."""
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return ModelError(f"The disk is full: '{checkpoint}' could not be fetched.",
                              "Free some space, or let HF_HOME name a folder on a larger disk, and run the same "
                              "command again: what has been downloaded is kept.")
        for kinds, message, hint in _list_faults(checkpoint, revision):
            if isinstance(error, kinds):
                return ModelError(message, hint)
        error = error.__cause__
    return None


def _list_faults(checkpoint: str, revision: str | None) -> list[tuple[tuple[type[BaseException], ...], str, str]]:
    """Return (errors, what they mean, what to do), special errors before general ones."""
    from huggingface_hub import errors as hub

    return [
        ((hub.GatedRepoError,), f"The model '{checkpoint}' is gated: its licence must be accepted first.",
         (f"Accept it at https://huggingface.co/{checkpoint}, then log in to the same account: `hf auth login`, or "
          "HF_TOKEN with a token from https://huggingface.co/settings/tokens.")),
        ((hub.RevisionNotFoundError,), f"The model '{checkpoint}' has no revision '{revision or 'main'}' on the hub.",
         "Name a branch, tag or commit that it has with --model-revision, or leave it out: the main branch."),
        ((hub.RepositoryNotFoundError, hub.HFValidationError),
         f"There is no model '{checkpoint}' on the hub, nor a folder of that name.",
         "Check the spelling (`medvqa models list`); a private model needs `hf auth login`."),
        ((hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, ConnectionError), _say_unreachable(checkpoint),
         (f"Where there is a network, fetch it with `hf download {checkpoint}`; or name a local folder: --model PATH, "
          "or `aliases.models` in the configuration file.")),
        ((hub.EntryNotFoundError,), f"The repository of '{checkpoint}' lacks a file it lists.",
         "Run the same command again; it may just have been changed."),
    ]


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type if it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _say_unreachable(checkpoint: str) -> str:
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    reason = "offline mode is on (HF_HUB_OFFLINE)" if offline else "the hub cannot be reached"
    return f"The model '{checkpoint}' is not on this machine and {reason}."

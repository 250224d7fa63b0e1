"""Whether every weight of a model came from its checkpoint: what transformers only warns of is an error here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from medvqa_cli.models.protocol import ModelFamily
    from medvqa_cli.progress import Progress

SHOWN = 3
MISMATCH = re.compile("ignore_mismatched_sizes|size mismatch")


def check_loading_info(checkpoint: str, info: Mapping[str, Any], progress: Progress) -> None:
    """Check what `from_pretrained(..., output_loading_info=True)` says of a loaded model.

    Weights that transformers ties to others, or lists as not needed, are not among those it calls missing.

    Raises:
        ModelError: If a weight was not in the checkpoint, or was of another shape: it would be random.
    """
    if mismatched := sorted(info.get("mismatched_keys") or ()):
        raise _describe_mismatch(checkpoint, mismatched)
    if missing := sorted(info.get("missing_keys") or ()):
        raise ModelError(f"'{checkpoint}' lacks {_count(missing)} that its config.json asks for: {_list(missing)}.",
                         "The checkpoint is incomplete, or config.json is of another model; download it again.")
    if unexpected := sorted(info.get("unexpected_keys") or ()):
        progress.warn(f"'{checkpoint}' holds {_count(unexpected)} that the model has no place for: "
                      f"{_list(unexpected)}; left out.")


def find_mismatch(family: ModelFamily, checkpoint: str, folder: str, error: RuntimeError,
                  loading: Mapping[str, Any]) -> ModelError | None:
    """Return the error that names the tensor of a wrong shape, if that is why loading failed.

    transformers raises without naming it. So the checkpoint is loaded once more with such tensors passed over, only to
    ask which they are; that model is thrown away.
    """
    if not MISMATCH.search(str(error)):
        return None
    loaded: Any = family.load_model(folder, output_loading_info=True, ignore_mismatched_sizes=True, **loading)
    mismatched = sorted(loaded[1].get("mismatched_keys") or ()) if isinstance(loaded, tuple) else []
    return _describe_mismatch(checkpoint, mismatched) if mismatched else None


def _describe_mismatch(checkpoint: str, mismatched: Collection[Any]) -> ModelError:
    name, stored, wanted = next(iter(mismatched))
    others = f" ({_count(mismatched)} in all)" if len(mismatched) > 1 else ""
    return ModelError(f"'{checkpoint}' does not fit its config.json: '{name}' has the shape {list(stored)}, where the "
                      f"model has {list(wanted)}{others}.", "Take config.json and weights from the same checkpoint.")


def _list(names: Collection[str]) -> str:
    shown = ", ".join(repr(name) for name in list(names)[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _count(names: Collection[Any]) -> str:
    return "a tensor" if len(names) == 1 else f"{len(names)} tensors"

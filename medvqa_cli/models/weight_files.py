"""Tensors of a checkpoint's weight files, known by name and shape, read one at a time."""

from __future__ import annotations

import functools
import json
import math
import pickle
import re
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import torch

FORMS = (("model", ".safetensors"), ("pytorch_model", ".bin"))
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32"}
DAMAGED = "The download is incomplete or the file is damaged; download the checkpoint again."


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that stays in its file until it is read.

    `tensor[...]` reads it, as with a slice of safetensors: transformers' loader takes either.

    Attributes:
        name: Its name in the file.
        file: Where it lies.
        shape: Its shape.
        dtype: Its number format.
        read: Returns it, on the CPU.
    """

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]

    @property
    def num_bytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self.read()[index]

    def is_floating_point(self) -> bool:
        """Whether it holds real numbers."""
        return self.dtype.is_floating_point


def list_tensors(folder: Path, *, allow_pickle: bool = False) -> dict[str, StoredTensor]:
    """Return the tensors of a checkpoint by name; only the files' headers are read.

    Args:
        folder: Holds model.safetensors, numbered parts of it, or, in the old format, pytorch_model.bin.
        allow_pickle: Read the old format too, by torch's restricted reader (`weights_only`).

    Raises:
        ModelError: If there are no weights, a part is missing or damaged, or the format is not allowed.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in find_weight_files(folder, allow_pickle=allow_pickle):
        for tensor in _open_file(file):
            if tensor.name in tensors:
                raise ModelError(f"The tensor '{tensor.name}' lies in two files of '{folder}': "
                                 f"'{tensors[tensor.name].file.name}' and '{file.name}'.", DAMAGED)
            tensors[tensor.name] = tensor
    return tensors


def find_weight_files(folder: Path, *, allow_pickle: bool = False) -> list[Path]:
    """Return a checkpoint's weight files, safetensors before the old format.

    Raises:
        ModelError: As `list_tensors`.
    """
    for stem, suffix in FORMS:
        files = _find_parts(folder, stem, suffix)
        if files and suffix == ".bin" and not allow_pickle:
            raise ModelError(f"The weights in '{folder}' are pickle files ('{files[0].name}'), which can run code of "
                             "whoever wrote them.", "Use safetensors, or pass --allow-pickle if you trust the source.")
        if files:
            return files
    raise ModelError(f"'{folder}' holds no weights: neither model*.safetensors nor pytorch_model*.bin.",
                     f"{DAMAGED} Files of the old format (.bin) are fetched with --allow-pickle only.")


def _find_parts(folder: Path, stem: str, suffix: str) -> list[Path]:
    index = folder / f"{stem}{suffix}.index.json"
    single = folder / f"{stem}{suffix}"
    if index.is_file():
        names = sorted(set(_read_index(index).values()))
    elif single.is_file():
        names = [single.name]
    else:
        names = _count_parts([path.name for path in folder.glob(f"{stem}-*-of-*{suffix}")], stem, suffix)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"'{folder}' is incomplete: {len(missing)} of {len(names)} weight files are missing, the "
                         f"first is '{missing[0]}'.", DAMAGED)
    return [folder / name for name in names]


def _read_index(index: Path) -> dict[str, str]:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"'{index}' is damaged: it is no index of weight files.", DAMAGED) from error
    if not isinstance(places, dict) or not all(re.fullmatch(r"[\w.-]+", str(name)) for name in places.values()):
        raise ModelError(f"'{index}' is damaged: it names something that is no file beside it.", DAMAGED)
    return places


def _count_parts(found: list[str], stem: str, suffix: str) -> list[str]:
    """Return the names of all parts, those that are missing too, told by the number of parts in a name found."""
    totals = {match[1] for name in found if (match := re.search(r"-of-(\d+)\.", name))}
    if not totals:
        return []
    total = max(totals, key=int)
    return [f"{stem}-{part:0{len(total)}d}-of-{total}{suffix}" for part in range(1, int(total) + 1)]


def _open_file(file: Path) -> Iterator[StoredTensor]:
    yield from _open_safetensors(file) if file.suffix == ".safetensors" else _open_pickle(file)


def _open_safetensors(file: Path) -> Iterator[StoredTensor]:
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt", device="cpu") as stored:
            facts = {name: (part.get_dtype(), tuple(part.get_shape()))
                     for name in stored.keys() for part in [stored.get_slice(name)]}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise ModelError(f"'{file}' cannot be read: {error}.", DAMAGED) from error
    for name, (kind, shape) in facts.items():
        if kind not in DTYPES:
            raise ModelError(f"The tensor '{name}' of '{file}' has the number format '{kind}', which is not supported.",
                             "Take a checkpoint in float32, float16 or bfloat16.")
        yield StoredTensor(name, file, shape, getattr(torch, DTYPES[kind]), functools.partial(_take_stored, file, name))


def _open_pickle(file: Path) -> Iterator[StoredTensor]:
    import torch

    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"'{file}' cannot be read as plain tensors: {reason}", DAMAGED) from error
    if not isinstance(tensors, dict):
        raise ModelError(f"'{file}' holds no named tensors.", DAMAGED)
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise ModelError(f"'{file}' holds '{name}', which is no tensor.", DAMAGED)
        yield StoredTensor(str(name), file, tuple(tensor.shape), tensor.dtype, tensor.clone)


def _take_stored(file: Path, name: str) -> torch.Tensor:
    """Return a tensor; the file is opened for it alone, as pages of an open file stay in memory."""
    from safetensors import safe_open

    with safe_open(file, framework="pt", device="cpu") as stored:
        tensor: torch.Tensor = stored.get_tensor(name)
    return tensor

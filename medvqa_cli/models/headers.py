"""What a checkpoint's weight files hold, from their headers alone: tensors, parameters, bytes once loaded."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import ModelError
from medvqa_cli.models.weight_files import find_weight_files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from medvqa_cli.models.protocol import ModelLayout

LENGTH_BYTES = 8
LARGEST_HEADER = 100_000_000
PICKLED_BYTES = 2
"""Bytes a parameter that a pickled checkpoint is taken to have: nearly all are in float16 or bfloat16."""
KEPT = frozenset({"embed_tokens", "shared", "wte", "lm_head", "embed_positions", "relative_attention_bias", "wo"})
"""Names of matrices that are never quantised: embeddings, head, and the layer of T5 that transformers leaves alone."""
FOUR_BITS = 0.5 + 0.127 / 8
"""Bytes a weight in NF4 with double quantisation takes (Dettmers et al. 2023, arXiv:2305.14314, section 3)."""
LFS_POINTER = b"version https://git-lfs"
AGAIN = "Download it again: `hf download` goes on where it stopped."


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """The tensors of weight files.

    Attributes:
        tensors: Name -> (number format as safetensors writes it, such as "BF16"; shape).
        pickled_bytes: Size of weight files in the old format, whose tensors are not known.
    """

    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    pickled_bytes: int = 0

    @property
    def parameters(self) -> int:
        """Number of weights; of pickled files their bytes divided by 2."""
        return sum(math.prod(shape) for _, shape in self.tensors.values()) + self.pickled_bytes // PICKLED_BYTES


def read_weights(folder: Path, *, allow_pickle: bool) -> StoredWeights | None:
    """Return what the weight files of a checkpoint hold; None if there are none in a form that transformers knows.

    Raises:
        ModelError: If a file is missing, cut off or damaged, or pickled and that is not allowed.
    """
    if not any(True for pattern in ("model*.safetensors*", "pytorch_model*.bin*") for _ in folder.glob(pattern)):
        return None
    try:
        files = find_weight_files(folder, allow_pickle=allow_pickle)
    except ModelError as error:
        raise _mention_interruption(error, folder) from error
    pickled = sum(file.stat().st_size for file in files if file.suffix != ".safetensors")
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in files:
        if file.suffix == ".safetensors":
            tensors |= read_header(file)
    return StoredWeights(tensors, pickled)


def read_header(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return a safetensors file's tensors: name -> (number format, shape).

    The file begins with the header's length (8 bytes, little-endian) and the header in JSON; it ends where the last
    tensor does (https://github.com/huggingface/safetensors, "Format").

    Raises:
        ModelError: If it is cut off, a git-lfs pointer, or no safetensors file.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(LENGTH_BYTES)
        if LFS_POINTER.startswith(start) and start:
            raise ModelError(f"'{file}' is only a pointer: git has not fetched the file itself.",
                             f"Run `git lfs pull` in '{file.parent}'.")
        length = int.from_bytes(start, "little")
        if len(start) < LENGTH_BYTES or LENGTH_BYTES + length > size:
            raise ModelError(f"'{file}' is cut off: it has {size:,} bytes and ends within its header.", AGAIN)
        header = _parse_header(file, stream.read(length) if length <= LARGEST_HEADER else b"")
    whole = LENGTH_BYTES + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size < whole:
        raise ModelError(f"'{file}' is cut off: it has {size:,} of {whole:,} bytes.", AGAIN)
    return {name: (str(entry["dtype"]), tuple(entry["shape"])) for name, entry in header.items()}


def estimate_bytes(stored: StoredWeights, number_bytes: int, quantization: str, layout: ModelLayout) -> int:
    """Return how many bytes the weights take once loaded.

    Every real number takes `number_bytes`; with "8bit" or "4bit" a weight of the language model's linear layers takes
    1 or 0.516 bytes. These are told by the tensors' names, as nothing is built yet: matrices, but not those of
    embeddings, head, vision tower and projector, nor what lies outside the language model where names show that.
    """
    inside = layout.language_model.rpartition(".")[2]
    is_named = any(inside in name.split(".") for name in stored.tensors)
    kept = KEPT | {path.rpartition(".")[2] for path in (layout.vision_tower, *layout.projectors)}
    quantised = {"8bit": 1.0, "4bit": FOUR_BITS}.get(quantization, number_bytes)
    total = stored.pickled_bytes // PICKLED_BYTES * quantised
    for name, (kind, shape) in stored.tensors.items():
        is_real = kind.startswith(("F", "BF")) and not kind.startswith("F8")
        path = name.split(".")
        shrinks = is_real and len(shape) == 2 and kept.isdisjoint(path) and (inside in path or not is_named)
        total += math.prod(shape) * (quantised if shrinks else number_bytes if is_real else _count_bytes(kind))
    return math.ceil(total)


def _count_bytes(kind: str) -> int:
    digits = "".join(filter(str.isdigit, kind.partition("_")[0]))
    return max(1, int(digits or 8) // 8)


def _parse_header(file: Path, content: bytes) -> dict[str, Any]:
    try:
        header: dict[str, Any] = json.loads(content)
        header.pop("__metadata__", None)
        for entry in header.values():
            math.prod(entry["shape"]), entry["dtype"], entry["data_offsets"][1] + 0
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise ModelError(f"'{file}' is damaged: its header is not that of a safetensors file.", AGAIN) from error
    return header


def _mention_interruption(error: ModelError, folder: Path) -> ModelError:
    """Return the error with a word on downloads that were broken off, where traces of one are found."""
    places = [folder, folder / ".cache" / "huggingface" / "download"]
    if folder.parent.name == "snapshots":
        places.append(folder.parents[1] / "blobs")
    left = next((file for place in places for file in place.glob("*.incomplete")), None)
    if left is None:
        return error
    return ModelError(error.message, f"A download was broken off ('{left.name}'). {AGAIN}")

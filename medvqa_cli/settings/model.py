"""Settings of a model: which one, in which number format, where, and what may run while it is loaded."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from medvqa_cli.settings.section import Section

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_size(text: str) -> int:
    """Return the bytes of a size such as "40GiB" (2^30 bytes each) or "40 GB" (10^9 bytes each).

    Raises:
        ValueError: If it is none, or less than a byte.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B)\s*", text, re.ASCII | re.IGNORECASE)
    size = int(float(match[1]) * UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise ValueError("should be a size above zero with its unit, such as 40GiB, 40GB or 800MiB")
    return size


def _check_size(value: Any) -> Any:
    parse_size(str(value))
    return value


class ModelSettings(Section):
    """Which model is used."""

    name: str | None = None
    """Alias, family, hub id or path of a checkpoint (`medvqa models list`)."""
    family: str | None = None
    """Model family; detected from the checkpoint when not given."""
    scratch: bool = False
    """Train a small model of this family from random weights; model.options sets its size."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format; auto is bfloat16 on a GPU that has it, float16 to answer on one that has not, else float32."""
    quantization: Literal["auto", "none", "8bit", "4bit"] = "auto"
    """Weights of the language model in few bits; auto is 4bit on CUDA above 3 billion parameters, else none."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where it runs; auto takes a GPU if there is one."""
    max_memory_per_gpu: Annotated[str, BeforeValidator(_check_size)] | None = None
    """Most memory the weights take of a GPU, such as 40GiB; what does not fit one GPU is spread over all visible."""
    attention: Literal["auto", "sdpa", "eager", "flash"] = "auto"
    """Attention implementation; auto is SDPA where images are shared, else flash-attn if usable, else SDPA."""
    too_long: Literal["error", "skip"] = "error"
    """What to do with a question that is longer than the model reads: stop, or leave it out and count it."""
    revision: str | None = None
    """Branch, tag or commit of a hub checkpoint; the main branch if not given."""
    trust_remote_code: str | None = None
    """Checkpoint whose own Python code may run: exactly the one that is loaded, by name; none if not given."""
    allow_pickle: bool = False
    """Also load weights in the old pickle format (pytorch_model.bin), where there are no safetensors."""
    options: dict[str, Any] = Field(default={})
    """The family's own options (`medvqa models info NAME`)."""

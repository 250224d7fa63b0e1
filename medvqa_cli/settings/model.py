"""Settings of a model: which one, in which number format, where."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from medvqa_cli.settings.section import Section


class ModelSettings(Section):
    """Which model is used."""

    name: str | None = None
    """Alias, family, hub id or path of a checkpoint (`medvqa models list`)."""
    family: str | None = None
    """Model family; detected from the checkpoint when not given."""
    scratch: bool = False
    """Train a small model of this family from random weights; model.options sets its size."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format; auto is bfloat16 on a GPU that has it, else float32."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where it runs; auto takes a GPU if there is one."""
    attention: Literal["auto", "sdpa", "eager", "flash"] = "auto"
    """Attention implementation; auto is SDPA, which packing and sample trees need."""
    revision: str | None = None
    """Revision of a hub checkpoint."""
    options: dict[str, Any] = Field(default={})
    """The family's own options (`medvqa models info NAME`)."""

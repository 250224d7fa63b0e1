"""The base of every settings section: strict, frozen, unknown keys refused, one line of documentation a field."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
"""A share between 0 and 1."""
PositiveFloat = Annotated[float, Field(gt=0.0)]
"""A number above 0."""


class Section(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True,
                              protected_namespaces=(), allow_inf_nan=False)

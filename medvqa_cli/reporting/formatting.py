"""How numbers are written, in the terminal and in the report: one place, one look."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

MISSING = "-"


def format_value(value: float | None, low: float | None = None, high: float | None = None, *, digits: int = 3,
                 signed: bool = False, unit: str = "") -> str:
    """Return a number, with its interval where there is one: "0.912 [0.880, 0.940]"; a dash if it is undefined.

    `signed` is for differences ("+0.012"); `unit` stands behind the number alone.
    """
    if value is None or not math.isfinite(value):
        return MISSING
    style = f"{'+' if signed else ''}.{digits}f"
    text = f"{value:{style}}{unit}"
    return text if low is None or high is None else f"{text} [{low:{style}}, {high:{style}}]"


def format_share(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """Return a share (0-1) as percent, with its interval where there is one: "94 % [91, 98]".

    Alone, one that is not quite nothing or all is "<1 %" or ">99 %".
    """
    if value is not None and low is None and (0 < value < 0.005 or 0.995 < value < 1):
        return "<1 %" if value < 0.5 else ">99 %"
    value, low, high = (None if number is None else 100 * number for number in (value, low, high))
    return format_value(value, low, high, digits=0, unit=" %")


def format_entry(entry: Mapping[str, Any], *, as_share: bool = False) -> str:
    """Return a number as `metrics.json` holds it: {"value"[, "low", "high"]}."""
    write = format_share if as_share else format_value
    return write(entry["value"], entry.get("low"), entry.get("high"))


def format_probability(value: float) -> str:
    """Return a p-value: four decimals, or that it is smaller than these can say."""
    return f"{value:.4f}" if value >= 0.0001 else "<0.0001"


def format_interval(low: float | None, high: float | None, *, digits: int = 3) -> str:
    """Return an interval that stands apart from its number: "0.880 to 0.940"; says so where there is none."""
    return "no interval" if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"


def format_count(count: float | None) -> str:
    """Return a count with thousands separators; a dash if it is unknown."""
    return MISSING if count is None else f"{count:,.0f}"


def format_seconds(seconds: float) -> str:
    """Return a duration as a reader says it: "42 s", "3 min 05 s", "2 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def name_key(key: str) -> str:
    """Return a JSON key as words: "answer_type" -> "Answer type", "model.dtype" -> "Model: dtype"."""
    words = key.replace("_", " ").replace(".", ": ").strip()
    return words[:1].upper() + words[1:]

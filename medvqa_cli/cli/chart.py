"""A curve as a few lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def draw_chart(curves: Sequence[tuple[str, Sequence[tuple[float, float]]]], width: int, height: int) -> list[str]:
    """Return a chart of curves as lines of at most `width` characters: values upwards, scaled to their range.

    Args:
        curves: The sign of each curve and its (x, y) points; a later one is drawn over an earlier one. Several points
            in one column are drawn as their mean.
        width: Characters of a line, with the labels of the axis.
        height: Lines.

    Returns:
        The lines; none without a point.
    """
    points = [point for _, curve in curves for point in curve]
    if not points:
        return []
    low, high = min(y for _, y in points), max(y for _, y in points)
    labels = [f"{high:.4g}", f"{low:.4g}"]
    margin = max(map(len, labels)) + 2
    columns = max(1, width - margin)
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    rows = [[" "] * columns for _ in range(height)]
    for sign, curve in curves:
        for column, value in _average(curve, first, last, columns).items():
            share = (value - low) / (high - low) if high > low else 0.0
            rows[round((1 - share) * (height - 1))][column] = sign
    marks = [labels[0], *[""] * (height - 2), labels[1]][:height]
    return [f"{mark.rjust(margin - 2)} │{''.join(row)}".rstrip() for mark, row in zip(marks, rows, strict=True)]


def _average(curve: Sequence[tuple[float, float]], first: float, last: float, columns: int) -> dict[int, float]:
    """Return the mean value of the points in each column that has some."""
    found: dict[int, list[float]] = {}
    for x, y in curve:
        column = round((x - first) / (last - first) * (columns - 1)) if last > first else 0
        found.setdefault(column, []).append(y)
    return {column: sum(values) / len(values) for column, values in found.items()}

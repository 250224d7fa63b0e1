"""What a report holds besides its run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


MAX_QUESTIONS = 5000


@dataclass(frozen=True, slots=True)
class Extras:
    """What stands in a report besides its run, and which files are written besides the page.

    Args:
        others: Systems to compare with: runs, "RUN:TAG", or files of predictions.
        slices: Groups to compare by as well (`evaluation.comparison.SLICES`).
        published: A YAML file of results published elsewhere.
        markdown: Where to write tables and figures as Markdown.
        latex: Where to write them as LaTeX.
        output: Where to write the page; None: `report.html` of the run.
        max_questions: Most questions in the gallery; wrong answers come first.
    """

    others: Sequence[str] = ()
    slices: Sequence[str] = ()
    published: Path | None = None
    markdown: Path | None = None
    latex: Path | None = None
    output: Path | None = None
    max_questions: int = MAX_QUESTIONS


NOTHING = Extras()

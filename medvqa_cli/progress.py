"""How long work reports how far it is, without knowing who watches.

The command line hands in a Rich display, a notebook or a test hands in nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")


class Progress(Protocol):
    """Receives stages of counted work and one-line messages."""

    def start(self, stage: str, total: int | None, unit: str = "it") -> None:
        """Begin a stage of `total` steps (None: unknown); ends the stage before it."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count finished steps; `note` is a short text shown beside the bar, such as a loss."""

    def finish(self) -> None:
        """End the current stage."""

    def say(self, message: str) -> None:
        """Show one line of information."""

    def warn(self, message: str) -> None:
        """Show one line that the user should not miss."""


class SilentProgress:
    """Shows nothing."""

    def start(self, stage: str, total: int | None, unit: str = "it") -> None:
        """Do nothing."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""

    def say(self, message: str) -> None:
        """Do nothing."""

    def warn(self, message: str) -> None:
        """Do nothing."""


SILENT: Progress = SilentProgress()


def track(items: Iterable[T], progress: Progress, stage: str, total: int | None = None,
          unit: str = "it") -> Iterator[T]:
    """Yield every item and count it on `progress` once it has been used."""
    progress.start(stage, total, unit)
    for item in items:
        yield item
        progress.advance()
    progress.finish()

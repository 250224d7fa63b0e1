"""Says once that a model gives one answer to nearly every closed question, and what helps."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from medvqa_cli.progress import Progress
    from medvqa_cli.scoring.collapse import TopAnswer

REMEDY = ("What helps: more epochs (--epochs) or more questions, a balance of answers in them (`medvqa data analyze` "
          "shows it, --balance answer makes up for it), or a lower rate (--learning-rate 3e-5).")


class CollapseWatch:
    """Judges each probe; warns at the first collapse of a training, and says so if it passes.

    Args:
        progress: Shows the warning.
        keep: Keeps the warning with the run's results.
        write: Writes an event.
    """

    def __init__(self, progress: Progress, keep: Callable[[str], None], write: Callable[..., None]) -> None:
        self._progress = progress
        self._keep = keep
        self._write = write
        self._since: int | None = None

    def judge(self, top: TopAnswer | None, step: int, steps: int) -> None:
        """Look at the most frequent answer to closed probes at a step of so many."""
        if top is not None and top.is_collapse and self._since is None:
            self._since = step
            self._warn(top, step, steps)
        elif top is not None and not top.is_collapse and self._since is not None and step >= steps:
            message = (f"The collapse of step {self._since} has passed: at the end the most frequent answer to closed "
                       f"probes is '{top.answer}', {top.share:.0%} of them.")
            self._write("note", step=step, kind="collapse", message=message)
            self._keep(message)
            self._progress.say(message)

    def _warn(self, top: TopAnswer, step: int, steps: int) -> None:
        message = (f"The model has collapsed at step {step} of {steps}: {top.share:.0%} of {top.total} closed probes "
                   f"are answered '{top.answer}', where the most frequent gold answer makes up {top.gold_share:.0%}. "
                   f"{REMEDY}")
        self._write("warning", step=step, kind="collapse", message=message)
        self._keep(message)
        self._progress.warn(message)

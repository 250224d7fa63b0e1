"""Says once that a model gives one answer to nearly every closed question, and what helps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.scoring.collapse import advise_on_collapse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from medvqa_cli.progress import Progress
    from medvqa_cli.scoring.collapse import TopAnswer

FALLEN = 0.9
"""Share of the first logged loss below which a model has begun to learn."""


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
        self._is_silent = False

    def judge(self, top: TopAnswer | None, step: int, steps: int, *, learning_rate: float, has_learned: bool) -> None:
        """Look at the most frequent answer to closed probes at a step of so many.

        Args:
            top: That answer.
            step: Optimiser steps done.
            steps: Those of the whole training.
            learning_rate: The peak rate.
            has_learned: Whether the loss has fallen: a model that has learned nothing yet and writes nothing has not
                collapsed.
        """
        if top is not None and top.is_collapse and not top.answer and not has_learned:
            self._tell_silence(top, step, steps)
        elif top is not None and top.is_collapse and self._since is None:
            self._since = step
            self._warn(top, step, steps, learning_rate)
        elif top is not None and not top.is_collapse and self._since is not None and step >= steps:
            message = (f"The collapse of step {self._since} has passed: at the end the most frequent answer to closed "
                       f"probes is '{top.answer}', {top.share:.0%} of them.")
            self._write("note", step=step, kind="collapse", message=message)
            self._keep(message)
            self._progress.say(message)

    def _tell_silence(self, top: TopAnswer, step: int, steps: int) -> None:
        if self._is_silent:
            return
        self._is_silent = True
        message = (f"The model has not learned to answer yet: at step {step} of {steps}, {top.share:.0%} of "
                   f"{top.total} closed probes get an empty answer, and the loss has hardly fallen.")
        self._write("note", step=step, kind="collapse", message=message)
        self._progress.say(message)

    def _warn(self, top: TopAnswer, step: int, steps: int, learning_rate: float) -> None:
        message = (f"The model has collapsed at step {step} of {steps}: {top.share:.0%} of {top.total} closed probes "
                   f"are answered '{top.answer}', where the most frequent gold answer makes up {top.gold_share:.0%}. "
                   f"{advise_on_collapse(learning_rate)}")
        self._write("warning", step=step, kind="collapse", message=message)
        self._keep(message)
        self._progress.warn(message)


def has_learned(history: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether what a training has logged shows that it learns: its loss has fallen by a tenth.

    That of GRPO, whose logs hold a reward, says nothing: its model could answer before.
    """
    losses = [row["loss"] for row in history if "loss" in row]
    return any("reward" in row for row in history) or (bool(losses) and losses[-1] < FALLEN * losses[0])

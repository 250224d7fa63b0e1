"""Which weights of a training are the best, and when it stops because they get no better."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.records import write_json
from medvqa_cli.training.callbacks import LastingCallback
from medvqa_cli.training.processes import tell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import TrainerControl, TrainerState, TrainingArguments

    from medvqa_cli.settings.train import TrainSettings

FILE = "best.json"


@dataclass(slots=True)
class Standing:
    """What has been measured so far.

    Attributes:
        step: Optimiser steps at the best value; 0 before the first one.
        value: The best value.
        waited: Measurements since then.
        stopped: Whether that were too many.
    """

    step: int = 0
    value: float = 0.0
    waited: int = 0
    stopped: bool = False


class BestWatch(LastingCallback):
    """Has a checkpoint written at each gain, and stops the training after too many measurements without one.

    A gain is more than `min_delta` better than the last gain, as in Keras's EarlyStopping; Prechelt 1998, "Early
    Stopping - But When?", compares such rules.

    Args:
        settings: `best_metric`, `min_delta`, `early_stopping` and what is kept.
        read_accuracy: Returns the share of probes answered rightly at a step, or None if none were asked; called in the
            main process alone.
        note: Told of a step and what is to be said about it.
    """

    def __init__(self, settings: TrainSettings, read_accuracy: Callable[[int], float | None],
                 note: Callable[[int, str], None]) -> None:
        self.standing = Standing()
        self._settings = settings
        self._read_accuracy = read_accuracy
        self._note = note

    @property
    def keeps(self) -> bool:
        """Whether the best weights become the run's."""
        return self._settings.keeps_best

    @property
    def protected(self) -> int | None:
        """Step whose checkpoint must not be deleted."""
        return self.standing.step if self.keeps and self.standing.step else None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
                       **kwargs: Any) -> None:
        """End a training at once that had stopped before its weights were written."""
        control.should_training_stop = self.standing.stopped

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
                    **kwargs: Any) -> None:
        """Judge the probes, if some were asked after this step."""
        if self._settings.best_metric == "eval_loss":
            return
        accuracy = tell(self._read_accuracy(state.global_step))
        if accuracy is not None:
            self._judge(accuracy, accuracy - self.standing.value, state, control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
                    metrics: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Judge the validation loss."""
        if self._settings.best_metric == "eval_loss" and metrics:
            loss = tell(metrics["eval_loss"])
            self._judge(loss, self.standing.value - loss, state, control)

    def _judge(self, value: float, gain: float, state: TrainerState, control: TrainerControl) -> None:
        best, settings = self.standing, self._settings
        if not math.isnan(value) and (not best.step or gain > settings.min_delta):
            best.step, best.value, best.waited = state.global_step, value, 0
            control.should_save = control.should_save or self.keeps
            return
        best.waited += 1
        if settings.early_stopping and best.waited >= settings.early_stopping and state.global_step < state.max_steps:
            best.stopped = control.should_training_stop = control.should_save = True
            self._note(state.global_step, self._describe_stop(state.global_step))

    def _describe_stop(self, step: int) -> str:
        best = self.standing
        return (f"Stopped early at step {step}: {self._settings.best_metric} has not gained for {best.waited} "
                f"measurements; its best is {best.value:.4g} at step {best.step}.")

    def save(self, checkpoint: Path) -> None:
        """Write what has been measured into a checkpoint."""
        write_json(checkpoint / FILE, asdict(self.standing))

    def load(self, checkpoint: Path) -> None:
        """Go on from what had been measured at a checkpoint."""
        self.standing = Standing(**json.loads((checkpoint / FILE).read_text(encoding="utf-8")))

"""What watches a training run: the event log, the progress display, and Ctrl-C."""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from medvqa_cli.training.processes import agree

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

    import torch
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from medvqa_cli.progress import Progress
    from medvqa_cli.records import JsonlWriter


class BatchWatcher(TrainerCallback):
    """A callback that also sees every training batch."""

    def on_batch(self, inputs: dict[str, Any], loss: torch.Tensor, tokens: torch.Tensor) -> None:
        """See one forward pass: its inputs, the sum of its losses in nats, and its supervised tokens."""


class LastingCallback(TrainerCallback):
    """A callback that every checkpoint holds the state of."""

    def save(self, checkpoint: Path) -> None:
        """Write its state into a checkpoint that is being made; only the main process does."""
        raise NotImplementedError

    def load(self, checkpoint: Path) -> None:
        """Take its state from a checkpoint, before the training goes on."""
        raise NotImplementedError


class EventLog(TrainerCallback):
    """Writes what the trainer logs to events.jsonl, readable while it runs.

    A "start" says in which process on which machine it runs, so that an observer can tell whether it still does.
    """

    def __init__(self, events: JsonlWriter, epochs_per_step: float) -> None:
        self._events = events
        self._epochs_per_step = epochs_per_step
        self._start = time.perf_counter()

    def write(self, event: str, **facts: Any) -> None:
        """Append one event with the seconds since this log began."""
        seconds = round(time.perf_counter() - self._start, 3)
        if "step" in facts:
            facts["epoch"] = round(facts["step"] * self._epochs_per_step, 4)
        self._events.write({"event": event, "seconds": seconds, **facts})

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
                       **kwargs: Any) -> None:
        """Record the steps done and to do, the time, the process and the machine."""
        self.write("start", step=state.global_step, steps=state.max_steps, pid=os.getpid(), host=platform.node(),
                   time=datetime.now(UTC).isoformat())

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
                     **kwargs: Any) -> None:
        """Record that training has ended or was stopped; the weights are still to be written."""
        self.write("end", step=state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
               logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Record a training step's loss, or a validation loss."""
        logs = logs or {}
        if "loss" in logs:
            self.write("log", step=state.global_step, loss=logs["loss"],
                       learning_rate=logs.get("learning_rate"), grad_norm=logs.get("grad_norm"))
        if "eval_loss" in logs:
            self.write("eval", step=state.global_step, eval_loss=logs["eval_loss"])

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
                **kwargs: Any) -> None:
        """Record a checkpoint."""
        self.write("checkpoint", step=state.global_step)


class ProgressDisplay(TrainerCallback):
    """Counts optimiser steps on a progress display."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._note = ""
        self._shown = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
                       **kwargs: Any) -> None:
        """Show the steps to do; those of a resumed run are counted as done."""
        self._progress.start("Training", state.max_steps, "step")
        if state.global_step:
            self._progress.advance(state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
               logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Keep the latest loss for the display."""
        if logs and "loss" in logs:
            self._note = f"loss {logs['loss']:.3f}"

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
                    **kwargs: Any) -> None:
        """Count one step."""
        self._progress.advance(1, self._note)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
                     **kwargs: Any) -> None:
        """End the stage."""
        self._progress.finish()


class GracefulStop(TrainerCallback):
    """On the first Ctrl-C or SIGTERM ends the step, writes a checkpoint and stops; the second one stops at once."""

    def __init__(self, progress: Progress) -> None:
        self.requested = False
        self._progress = progress
        self._previous: dict[int, Any] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
                       **kwargs: Any) -> None:
        """Take over the signals; only the main thread may."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._request)
                              for number in (signal.SIGINT, signal.SIGTERM)}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
                    **kwargs: Any) -> None:
        """Stop after this step if any process was asked to."""
        self.requested = agree(self.requested)
        if self.requested:
            control.should_save = True
            control.should_training_stop = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
                     **kwargs: Any) -> None:
        """Give the signals back."""
        self.release()

    def release(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self.release()
        self._progress.warn("Stopping after this step; a checkpoint is written. Press Ctrl-C again to stop at once.")

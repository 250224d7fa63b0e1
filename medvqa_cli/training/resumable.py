"""A Trainer that can be killed at any moment and goes on exactly as if it had not been."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import Trainer

from medvqa_cli.records import write_json
from medvqa_cli.training.average import WeightAverage
from medvqa_cli.training.best import BestWatch
from medvqa_cli.training.callbacks import LastingCallback
from medvqa_cli.training.checkpoints import (
    PART,
    list_checkpoints,
    name_checkpoint,
    publish_checkpoint,
    rotate_checkpoints,
)
from medvqa_cli.training.divergence import are_finite, explain_divergence, is_finite, scales_losses
from medvqa_cli.training.processes import agree, is_main

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


class ResumableTrainer(Trainer):
    """A Trainer whose checkpoints are whole or not there, and hold everything that the next step depends on.

    It stops at the first loss or gradient that is not finite, before the weights are changed by it.

    Differs: transformers' Trainer writes into the folder that a resumed run reads, deletes older checkpoints before the
    new one is on the disk, forgets the losses since the last log line, and trains on with weights that are NaN.
    """

    _writes_to: Path | None = None
    _step_loss: torch.Tensor | float = 0.0

    @property
    def lasting(self) -> list[LastingCallback]:
        """The callbacks whose state checkpoints hold."""
        return [callback for callback in self.callback_handler.callbacks if isinstance(callback, LastingCallback)]

    @property
    def average(self) -> WeightAverage | None:
        """What averages the weights, if anything does: what is validated and kept."""
        return next((callback for callback in self.lasting if isinstance(callback, WeightAverage)), None)

    @property
    def best(self) -> BestWatch | None:
        """What looks for the best weights, if anything does."""
        return next((callback for callback in self.lasting if isinstance(callback, BestWatch)), None)

    @property
    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint, if there is one."""
        return next(iter(list_checkpoints(Path(self.args.output_dir))), None)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the loss of one forward pass, and keep the sum of an optimiser step's."""
        loss = super().training_step(*args, **kwargs)
        self._step_loss = self._step_loss + loss.detach()
        return loss

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        """Return the norm of an optimiser step's gradients, after a look at it and at the step's loss."""
        norm, loss = super()._get_grad_norm(*args, **kwargs), self._step_loss
        self._step_loss = 0.0
        looked_at = {"loss": loss} | ({} if scales_losses(self.args, self.accelerator) else {"gradient norm": norm})
        self._refuse(self.state.global_step + 1, [f"the {name} is {float(number)}" for name, number in looked_at.items()
                                                  if not is_finite(number)])
        return norm

    def check_weights(self) -> None:
        """Refuse to keep weights that are not numbers; every process must call it.

        Raises:
            ModelError: If some are not finite.
        """
        trained = (weight for weight in self.model.parameters() if weight.requires_grad)
        self._refuse(self.state.global_step, [] if are_finite(trained) else ["the trained weights are not finite"])

    def _refuse(self, step: int, faults: Sequence[str]) -> None:
        """End a training, in all processes, if there is a fault in one; the main one says so."""
        if not agree(bool(faults)):
            return
        if is_main():
            raise explain_divergence(self, step, next(iter(faults), "what another process computes is not finite"))
        raise SystemExit(0)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._writes_to or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint in a folder beside the others; it gets its name once it is whole and on the disk."""
        self.check_weights()
        directory = Path(self.args.output_dir)
        part, name = directory / PART, name_checkpoint(self.state.global_step)
        if self.args.should_save:
            shutil.rmtree(part, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._writes_to = part
        super()._save_checkpoint(model, trial)
        self._writes_to = None
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            for callback in self.lasting:
                callback.save(part / name)
            publish_checkpoint(part / name, directory / name)
            rotate_checkpoints(directory, self.args.save_total_limit, self.best.protected if self.best else None)
        self.accelerator.wait_for_everyone()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load the optimiser, the schedule and the callbacks' states."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            for callback in self.lasting:
                callback.load(Path(checkpoint))

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Train, unless a callback knows that the training had been stopped before it was resumed."""
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def load_weights(self, checkpoint: Path) -> None:
        """Take the weights of a checkpoint, and the callbacks' states that belong to them."""
        self._load_from_checkpoint(str(checkpoint), self.model)
        for callback in self.lasting:
            callback.load(checkpoint)

    def _save_rng_state(self, output_dir: str) -> None:
        """Save this process's random states, and its losses since the last log line."""
        super()._save_rng_state(output_dir)
        write_json(self._losses_file(output_dir), {"sum": self._tr_loss.item(), "since": self._globalstep_last_logged})

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is None:
            return
        losses = json.loads(self._losses_file(checkpoint).read_text(encoding="utf-8"))
        self._tr_loss += losses["sum"]
        self._globalstep_last_logged = losses["since"]

    def _losses_file(self, checkpoint: str) -> Path:
        return Path(checkpoint) / f"losses_{self.args.process_index}.json"

    @property
    def is_sharded(self) -> bool:
        """Whether no process holds all weights: FSDP, or DeepSpeed's ZeRO-3."""
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
        return self.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3)

    def gather_weights(self) -> dict[str, Any] | None:
        """Return all weights in the main process where they are spread, else None; every process must call it."""
        return self.accelerator.get_state_dict(self.model_wrapped) if self.is_sharded else None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load a full model's weights by the model's own loader.

        The Trainer's reads the file's raw keys, without strictness: it passes over those that `save_pretrained` writes
        under another name (LLaVA's), and training would go on from the wrong weights in silence.
        """
        target = model or self.model
        if self.is_fsdp_enabled or hasattr(target, "peft_config"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        dtype = max((weight.dtype for weight in target.parameters()), key=lambda dtype: dtype.itemsize)
        saved = type(target).from_pretrained(resume_from_checkpoint, dtype=dtype)
        target.load_state_dict(saved.state_dict())

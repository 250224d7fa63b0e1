"""A Trainer that can be killed at any moment and goes on exactly as if it had not been."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import Trainer

from medvqa_cli.records import write_json
from medvqa_cli.training.checkpoints import PART, name_checkpoint, publish_checkpoint, rotate_checkpoints


class ResumableTrainer(Trainer):
    """A Trainer whose checkpoints are whole or not there, and hold everything that the next step depends on.

    Differs: transformers' Trainer writes into the folder that a resumed run reads, deletes older checkpoints before the
    new one is on the disk, and forgets the losses since the last log line.
    """

    _writes_to: Path | None = None

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._writes_to or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint in a folder beside the others; it gets its name once it is whole and on the disk."""
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
            publish_checkpoint(part / name, directory / name)
            rotate_checkpoints(directory, self.args.save_total_limit)
        self.accelerator.wait_for_everyone()

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

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load a full model's weights by the model's own loader.

        The Trainer's reads the file's raw keys, without strictness: it passes over those that `save_pretrained` writes
        under another name (LLaVA's), and training would go on from the wrong weights in silence.
        """
        target = model or self.model
        if hasattr(target, "peft_config"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = type(target).from_pretrained(resume_from_checkpoint, dtype=next(target.parameters()).dtype)
        target.load_state_dict(saved.state_dict())

"""Supervised fine-tuning with transformers' Trainer: answer-only loss, shared-image packing."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Subset
from transformers import TrainingArguments

from medvqa_cli.models.batches import find_token_losses, sum_answer_loss, to_device
from medvqa_cli.models.packing import IGNORE
from medvqa_cli.models.placement import count_processes
from medvqa_cli.training.arguments import keep_to_one_gpu, list_arguments
from medvqa_cli.training.callbacks import BatchWatcher, EventLog, GracefulStop, ProgressDisplay
from medvqa_cli.training.collation import WEIGHTS, Collator, list_parts
from medvqa_cli.training.order import SampleBlocks, TrainingOrder, group_by_image
from medvqa_cli.training.resumable import ResumableTrainer
from medvqa_cli.training.visits import VisitCollator, Visits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import Trainer, TrainerCallback

    from medvqa_cli.data.balance import LossWeights
    from medvqa_cli.models.encoding import SampleEncoder
    from medvqa_cli.models.features import FeatureCache
    from medvqa_cli.progress import Progress
    from medvqa_cli.records import JsonlWriter, VQASample
    from medvqa_cli.settings.train import TrainSettings
    from medvqa_cli.training.objectives import ClosedObjective


class SFTTrainer(ResumableTrainer):
    """A Trainer whose loss is the mean cross-entropy over the supervised tokens of a whole optimiser step.

    With weights it is their weighted mean. What is validated is never weighted, and is the average if there is one.
    """

    def __init__(self, *args: Any, validation_collator: Collator, features: FeatureCache | None = None,
                 **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True
        self._features = features
        self._validation_collator = validation_collator

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return the loss of a batch, after a forward and a backward pass for each of its parts.

        Processes add their gradients after the last part, so each may have another number of parts.
        """
        *parts, last = list_parts(inputs)
        losses = []
        for part in parts:
            with self.accelerator.no_sync(model):
                losses.append(super().training_step(model, part, *args, **kwargs))
        return sum(losses) + super().training_step(model, last, *args, **kwargs)

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False,
                     num_items_in_batch: torch.Tensor | int | None = None) -> Any:
        """Return the loss of one forward pass, in nats a token of the optimiser step."""
        if return_outputs:
            raise NotImplementedError("the validation loss is computed by evaluate()")
        weights = inputs.pop(WEIGHTS, None)
        losses, targets = find_token_losses(model, self._feed(inputs))
        total, tokens = losses.sum(), (targets != IGNORE).sum()
        self._tell_watchers(inputs, total.detach(), tokens)
        if weights is not None:  # row by row, the supervised tokens are the same ones whatever columns were left out
            total = losses[targets != IGNORE] @ weights[inputs["labels"] != IGNORE].to(losses.device)
            tokens = weights.sum()
        if num_items_in_batch is None:
            return total / tokens
        return total / num_items_in_batch * self.accelerator.num_processes

    def _tell_watchers(self, inputs: dict[str, Any], total: torch.Tensor, tokens: torch.Tensor) -> None:
        for watcher in self.callback_handler.callbacks:
            if isinstance(watcher, BatchWatcher):
                watcher.on_batch(inputs, total, tokens)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Any:
        """Return what the losses of an optimiser step are divided by: its supervised tokens, or their weights' sum."""
        batches = [part for batch in batch_samples for part in list_parts(batch)]
        if not batches or WEIGHTS not in batches[0]:
            return super()._get_num_items_in_batch(batches, device)
        total = torch.stack([batch[WEIGHTS].sum() for batch in batches]).sum().to(device)
        return self.accelerator.gather(total).sum()

    @torch.no_grad()
    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:  # noqa: ARG002
        """Return {"eval_loss"}: the mean over all supervised tokens of the validation questions, in nats."""
        self.model.eval()
        with self.average.applied() if self.average else nullcontext():
            total, tokens = self._sum_validation_losses()
        self.model.train()
        if self.accelerator.num_processes > 1:
            sums = torch.tensor([total, tokens], dtype=torch.float64, device=self.args.device)
            total, tokens = self.accelerator.reduce(sums).tolist()
        metrics = {"eval_loss": total / max(tokens, 1)}
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _sum_validation_losses(self) -> tuple[float, int]:
        total, tokens = 0.0, 0
        for batch in self._validation_batches():
            loss, count = sum_answer_loss(self.model, self._feed(batch))
            total, tokens = total + loss.item(), tokens + int(count)
        for batch in self._idle_batches():
            sum_answer_loss(self.model, self._feed(batch))
        return total, tokens

    def _feed(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return a batch on the model's device, kept features in the place of its pictures if there are any."""
        return to_device(batch, self.model) if self._features is None else self._features.fill(batch)

    def _validation_batches(self) -> DataLoader[Any]:
        """Return this process's share of the validation questions."""
        return self._load_validation(range(self.args.process_index, len(self.eval_dataset), self.args.world_size))

    def _load_validation(self, share: Sequence[int]) -> DataLoader[Any]:
        return DataLoader(Subset(self.eval_dataset, share), batch_size=self.args.per_device_eval_batch_size,
                          collate_fn=self._validation_collator)

    def _idle_batches(self) -> DataLoader[Any]:
        """Return batches that are not counted: where weights are spread, all processes go through as many."""
        size, number = self.args.per_device_eval_batch_size, len(self.eval_dataset)
        share = len(range(self.args.process_index, number, self.args.world_size))
        most = math.ceil(math.ceil(number / self.args.world_size) / size)
        missing = most - math.ceil(share / size) if self.is_sharded else 0
        return self._load_validation([0] * (missing * size))


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What one training run feeds on and writes to.

    `callbacks` watch it beside the event log and the progress display. With `block`, so many training samples that
    follow one another make up a batch, whatever `batch_size` says. With `weights` some questions count more. `engine`
    holds arguments of TrainingArguments that name DeepSpeed or FSDP and their settings.
    """

    model: Any
    encoder: SampleEncoder
    train_samples: Sequence[VQASample]
    validation_samples: Sequence[VQASample]
    packed: bool
    settings: TrainSettings
    seed: int
    directory: Path
    block: int | None = None
    callbacks: tuple[TrainerCallback, ...] = ()
    weights: LossWeights | None = None
    features: FeatureCache | None = None
    objective: ClosedObjective | None = None
    engine: dict[str, Any] = field(default_factory=dict)

    @property
    def max_questions(self) -> int:
        """Most questions of an image that go through the model together, as one row or several."""
        together = self.packed if self.settings.grouping == "auto" else self.settings.grouping == "image"
        return self.settings.pack_questions if together else 1

    @property
    def batch_size(self) -> int:
        """Blocks in a forward pass."""
        return 1 if self.block else self.settings.batch_size


def build_trainer(plan: TrainingPlan, events: JsonlWriter | None,
                  progress: Progress) -> tuple[SFTTrainer, GracefulStop]:
    """Return a trainer ready to train, and the callback that knows whether it was stopped.

    Of several processes only the main one has `events`.
    """
    from medvqa_cli.training.choices import choose_trainer

    stop = GracefulStop(progress)
    order = TrainingOrder(plan.train_samples, plan.max_questions, seed=plan.seed, block=plan.block,
                          closed_share=plan.settings.closed_share)
    per_step = plan.batch_size * plan.settings.gradient_accumulation * count_processes()
    steps = count_steps(plan.settings, order.count_blocks(plan.settings.epochs), per_step)
    order.length = steps * per_step
    validation = [(group,) for group in group_by_image(plan.validation_samples, plan.max_questions)]
    collator = Collator(plan.encoder, plan.packed, plan.settings.pack_length, plan.weights,
                        apart=plan.features is not None, divides=not (plan.engine or plan.objective))
    kind, collate = choose_trainer(plan.objective, collator)
    trainer = kind(
        model=plan.model,
        args=keep_to_one_gpu(TrainingArguments(**list_arguments(plan, steps)), plan.model, progress),
        data_collator=VisitCollator(collate) if plan.encoder.augments else collate,
        validation_collator=replace(collator, weights=None, divides=False),
        features=plan.features,
        train_dataset=Visits(order) if plan.encoder.augments else order,
        eval_dataset=SampleBlocks(validation),
        callbacks=[*([EventLog(events, per_step / order.per_epoch)] if events else []), ProgressDisplay(progress), stop,
                   *plan.callbacks],
    )
    _remove_default_printers(trainer)
    return trainer, stop


def count_steps(settings: TrainSettings, blocks: float, per_step: int) -> int:
    """Return the optimiser steps of a whole training: every block of all epochs is seen.

    Args:
        settings: `max_steps` counts.
        blocks: Blocks of all epochs.
        per_step: Blocks in an optimiser step, of all its forward passes and processes.
    """
    return settings.max_steps or max(1, math.ceil(blocks / per_step))


def _remove_default_printers(trainer: Trainer) -> None:
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)

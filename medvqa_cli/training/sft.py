"""Supervised fine-tuning with transformers' Trainer: answer-only loss, shared-image packing."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Subset
from transformers import TrainingArguments

from medvqa_cli.models.adapters import count_parameters
from medvqa_cli.models.batches import PACK_LENGTH, find_token_losses, sum_answer_loss, to_device
from medvqa_cli.models.loading_plan import has_bfloat16
from medvqa_cli.models.packing import IGNORE
from medvqa_cli.models.placement import count_processes
from medvqa_cli.models.quantization import find_quantization
from medvqa_cli.training.callbacks import BatchWatcher, EventLog, GracefulStop, ProgressDisplay
from medvqa_cli.training.collation import WEIGHTS, Collator
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
        if not batch_samples or WEIGHTS not in batch_samples[0]:
            return super()._get_num_items_in_batch(batch_samples, device)
        total = torch.stack([batch[WEIGHTS].sum() for batch in batch_samples]).sum().to(device)
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
    collator = Collator(plan.encoder, plan.packed, plan.settings.pack_length or PACK_LENGTH, plan.weights,
                        apart=plan.features is not None)
    kind, collate = choose_trainer(plan.objective, collator)
    trainer = kind(
        model=plan.model,
        args=TrainingArguments(**list_arguments(plan, steps)),
        data_collator=VisitCollator(collate) if plan.encoder.augments else collate,
        validation_collator=replace(collator, weights=None),
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


def list_arguments(plan: TrainingPlan, steps: int) -> dict[str, Any]:
    """Return the arguments of a Trainer for so many optimiser steps."""
    settings = plan.settings
    parameter = next(plan.model.parameters())
    evaluates = bool(settings.eval_fraction and plan.validation_samples)
    return dict(
        output_dir=str(plan.directory),
        max_steps=steps,
        per_device_train_batch_size=plan.batch_size,
        train_sampling_strategy="sequential",
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        warmup_steps=round(settings.warmup * steps),
        lr_scheduler_type=settings.scheduler,
        activation_checkpointing=settings.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        logging_steps=min(settings.log_steps, steps),
        eval_strategy="steps" if evaluates else "no",
        eval_steps=_interval(settings.eval_fraction, steps),
        save_strategy="steps" if settings.save_fraction else "no",
        save_steps=_interval(settings.save_fraction, steps),
        save_total_limit=settings.save_total_limit,
        dataloader_num_workers=settings.workers,
        dataloader_pin_memory=parameter.is_cuda,
        remove_unused_columns=False,
        ddp_find_unused_parameters=_may_skip_parameters(plan),
        label_names=["labels"],
        use_cpu=parameter.device.type == "cpu",
        bf16=parameter.is_cuda and (_multiplies_in_bfloat16(plan, parameter.device) or _computes_in_bfloat16(plan)),
        report_to="none",
        log_level_replica="error",
        disable_tqdm=True,
        seed=plan.seed,
        data_seed=plan.seed,
        **plan.engine,
    )


def _multiplies_in_bfloat16(plan: TrainingPlan, device: torch.device) -> bool:
    """Return whether quantised weights are multiplied in bfloat16: not where a GPU would only emulate it."""
    return find_quantization(plan.model) != "none" and has_bfloat16(device)


def _computes_in_bfloat16(plan: TrainingPlan) -> bool:
    """Return whether DeepSpeed is to keep weights in bfloat16, with a float32 copy for the optimiser."""
    return "deepspeed" in plan.engine and any(weight.dtype == torch.bfloat16 for weight in plan.model.parameters())


def _may_skip_parameters(plan: TrainingPlan) -> bool:
    """Return whether a step may leave trained parameters without a gradient.

    The last layers of a vision tower whose features are taken before them always are; without an image all of it is.
    """
    parts = count_parameters(plan.model, plan.encoder.family.layout)
    return any(trained for part, (trained, _) in parts.items() if part in {"vision tower", "projector"})


def _interval(fraction: float, steps: int) -> int:
    return max(1, round(fraction * steps)) if fraction else steps


def _remove_default_printers(trainer: Trainer) -> None:
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)

"""From a plan of training to the arguments of a Trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
from transformers import TrainingArguments

from medvqa_cli.models.adapters import count_parameters
from medvqa_cli.models.loading_plan import has_bfloat16
from medvqa_cli.models.quantization import find_quantization

if TYPE_CHECKING:
    from medvqa_cli.progress import Progress
    from medvqa_cli.training.sft import TrainingPlan

Arguments = TypeVar("Arguments", bound=TrainingArguments)


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
        lr_scheduler_type=settings.schedule,
        activation_checkpointing=settings.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        logging_steps=min(settings.log_steps, steps),
        logging_nan_inf_filter=False,
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
        bf16=_has_engine_masters(plan) or (parameter.is_cuda and _multiplies_in_bfloat16(plan, parameter.device)),
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


def _has_engine_masters(plan: TrainingPlan) -> bool:
    """Return whether DeepSpeed or FSDP is to keep float32 masters of bfloat16 weights for the optimiser.

    DeepSpeed is told the format of the whole model, FSDP that of trained weights: a frozen one it leaves alone.
    """
    weights = plan.model.parameters()
    if "fsdp" in plan.engine:
        return any(weight.dtype == torch.bfloat16 and weight.requires_grad for weight in weights)
    return "deepspeed" in plan.engine and any(weight.dtype == torch.bfloat16 and weight.is_cuda for weight in weights)


def _may_skip_parameters(plan: TrainingPlan) -> bool:
    """Return whether a step may leave trained parameters without a gradient.

    The last layers of a vision tower whose features are taken before them always are; without an image all of it is.
    """
    parts = count_parameters(plan.model, plan.encoder.family.layout)
    return any(trained for part, (trained, _) in parts.items() if part in {"vision tower", "projector"})


def _interval(fraction: float, steps: int) -> int:
    return max(1, round(fraction * steps)) if fraction else steps


def keep_to_one_gpu(arguments: Arguments, model: Any, progress: Progress) -> Arguments:
    """Return arguments by which one process trains on one GPU, or on those that a model is spread over.

    Differs: transformers' Trainer feeds every visible GPU by DataParallel, and so multiplies the batch and the rate at
    which questions are used up.
    """
    if arguments.n_gpu > 1:
        places = getattr(model, "hf_device_map", None) or {}
        if len(set(places.values())) <= 1:
            progress.say(f"One of {arguments.n_gpu} visible GPUs is used, the others idle; --num-processes "
                         f"{arguments.n_gpu} trains on all of them.")
        arguments._n_gpu = 1  # noqa: SLF001 - transformers offers no other way to say so
    return arguments

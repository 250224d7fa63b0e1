"""From a plan of training to a GRPO trainer: its order of questions, its arguments, its policy."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from trl import GRPOConfig

from medvqa_cli.errors import ModelError, SettingsError
from medvqa_cli.inference.protocol import Decoding
from medvqa_cli.inference.transformers_engine import find_end_ids
from medvqa_cli.models.placement import count_processes
from medvqa_cli.training.arguments import keep_to_one_gpu, list_arguments
from medvqa_cli.training.callbacks import EventLog, GracefulStop, ProgressDisplay
from medvqa_cli.training.grpo import GroupTrainer
from medvqa_cli.training.order import TrainingOrder
from medvqa_cli.training.policy import Policy, find_strange
from medvqa_cli.training.rating import Examiner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from PIL import Image

    from medvqa_cli.models.protocol import LoadedModel
    from medvqa_cli.progress import Progress
    from medvqa_cli.records import JsonlWriter, VQASample
    from medvqa_cli.settings.grpo import GRPOSettings
    from medvqa_cli.training.attempts import Reward
    from medvqa_cli.training.sft import TrainingPlan

OWN = frozenset((
    "output_dir", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation",
    "generation_batch_size", "num_generations", "learning_rate", "temperature", "top_k", "top_p", "beta", "epsilon",
    "loss_type", "scale_rewards", "reward_weights", "max_completion_length", "mask_truncated_completions", "use_vllm",
    "shuffle_dataset", "disable_dropout", "log_completions", "seed", "data_seed", "num_iterations", "eval_strategy",
    "remove_unused_columns", "report_to", "bf16", "use_transformers_continuous_batching"))
"""Arguments of GRPOConfig that have a setting of their own, or that this trainer depends on."""
DRAWING = frozenset(("min_p", "repetition_penalty", "generation_kwargs", "cache_implementation"))
"""Arguments that change how completions are drawn, which trees do not know."""


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """What a GRPO training has besides a plan of training."""

    settings: GRPOSettings
    rewards: Mapping[str, Reward]
    loaded: LoadedModel
    read_image: Callable[[str], Image.Image]
    run: str


def build_group_trainer(plan: TrainingPlan, group: GroupPlan, events: JsonlWriter | None,
                        progress: Progress) -> tuple[GroupTrainer, GracefulStop]:
    """Return a trainer ready to train, and the callback that knows whether it was stopped.

    Of several processes only the main one has `events`.

    Raises:
        SettingsError: If arguments of `grpo.options` are unknown, or stand elsewhere.
        ModelError: If TRL cannot train the model, or it cannot end an answer.
    """
    settings, stop = group.settings, GracefulStop(progress)
    check_options(settings.options)
    per_step = count_questions(settings, count_processes())
    steps = plan.settings.max_steps or max(1, math.ceil(plan.settings.epochs * len(plan.train_samples) / per_step))
    policy = _make_policy(plan, group, events, progress)
    trainer = GroupTrainer(
        policy=policy,
        model=plan.model,
        reward_funcs=policy.examiner.list_functions(),
        args=keep_to_one_gpu(_make_arguments(plan, settings, policy, steps), plan.model, progress),
        train_dataset=_order_questions(plan, settings, steps * per_step),
        processing_class=group.loaded.processor if settings.use_vllm else group.loaded.tokenizer,
        callbacks=[*([EventLog(events, per_step / len(plan.train_samples))] if events else []),
                   ProgressDisplay(progress), stop, *plan.callbacks])
    for name in ("PrinterCallback", "ProgressCallback"):
        found = next((one for one in trainer.callback_handler.callbacks if type(one).__name__ == name), None)
        if found:
            trainer.remove_callback(found)
    if not policy.shared:
        _try_plain_path(trainer, group.loaded)
    return trainer, stop


def count_questions(settings: GRPOSettings, processes: int) -> int:
    """Return the questions of an optimiser step.

    Raises:
        SettingsError: If its completions are not whole groups.
    """
    completions = settings.batch_size * settings.gradient_accumulation * processes
    if completions % settings.num_generations:
        raise SettingsError(
            f"A step has {completions} completions (grpo.batch_size {settings.batch_size} x gradient_accumulation "
            f"{settings.gradient_accumulation} x {processes} process(es)), which are not whole groups of "
            f"{settings.num_generations} (grpo.num_generations).",
            f"Use a batch size such as {math.ceil(completions / settings.num_generations) * settings.num_generations}.")
    return completions // settings.num_generations


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse arguments that TRL does not have, or that have a setting of their own.

    Raises:
        SettingsError: Naming the first one.
    """
    known = {field.name for field in dataclasses.fields(GRPOConfig)}
    for name in options:
        if name in OWN or name not in known:
            reason = "is set by medvqa" if name in OWN else "is no argument of trl.GRPOConfig"
            raise SettingsError(f"Setting 'grpo.options' names '{name}', which {reason}.",
                                "See `medvqa config show` for the settings of grpo and train.")


def _order_questions(plan: TrainingPlan, settings: GRPOSettings, count: int) -> Dataset:
    """Return the questions of the whole training in order, those of an image together."""
    numbers = {id(sample): number for number, sample in enumerate(plan.train_samples)}
    order = TrainingOrder(plan.train_samples, settings.image_questions, seed=plan.seed)
    order.length = order.per_epoch * (count // len(plan.train_samples) + 1)
    found: list[VQASample] = []
    for place in range(order.length):
        if len(found) >= count:
            break
        found += [sample for group in order[place] for sample in group]
    return Dataset.from_dict({"prompt": [sample.question for sample in found[:count]],
                              "sample": [numbers[id(sample)] for sample in found[:count]]})


def _make_policy(plan: TrainingPlan, group: GroupPlan, events: JsonlWriter | None, progress: Progress) -> Policy:
    settings, loaded = group.settings, group.loaded
    ends = find_end_ids(loaded)
    size = loaded.model.get_output_embeddings().weight.shape[0]
    if not any(0 <= token < size for token in ends):
        raise ModelError(f"The model cannot end an answer: its end tokens {sorted(ends)} are none of the {size} that "
                         "it writes.", "Its tokenizer belongs to another model, or lacks eos_token.")
    shared = plan.packed and settings.shared_prefix != "off" and not settings.use_vllm
    if shared and (named := sorted(DRAWING & set(settings.options))):
        progress.say(f"grpo.options sets {', '.join(named)}: completions are drawn by TRL, without shared prefixes.")
        shared = False
    examiner = Examiner(plan.train_samples, group.rewards, plan.encoder.prompt,
                        lambda tokens: loaded.tokenizer.decode(tokens, skip_special_tokens=True), ends,
                        settings.max_completion_length)
    decoding = Decoding(settings.max_completion_length, settings.temperature, plan.seed, settings.top_k, settings.top_p)
    banned = loaded.family.find_image_token(loaded.processor)
    return Policy(plan.encoder, plan.train_samples, examiner, decoding, banned, progress, shared=shared,
                  pack_length=plan.settings.pack_length, read_image=group.read_image, events=events,
                  logged=settings.log_completions, run=group.run)


def _try_plain_path(trainer: GroupTrainer, loaded: LoadedModel) -> None:
    """Score one gold answer as TRL does, so that a family it cannot train is refused before the first step."""
    policy = trainer.policy
    obstacle = f"it passes on no {', '.join(strange)}" if (strange := find_strange(policy)) else ""
    if loaded.family.layout.task_type == "SEQ_2_SEQ_LM":
        obstacle = "it is an encoder-decoder"
    if not obstacle:
        sample = policy.samples[0]
        answer = policy.encoder.encode_text(sample, policy.encoder.encode_images(sample)).answer
        try:
            trainer.score_plainly([(0, answer)])
        except (AttributeError, TypeError, ValueError) as error:
            obstacle = str(error)
    if obstacle:
        raise ModelError(f"TRL cannot train the family '{loaded.family_name}' by GRPO: {obstacle}.",
                         "Take another family, such as llava or qwen2_5_vl (`medvqa models list`).")


def _make_arguments(plan: TrainingPlan, settings: GRPOSettings, policy: Policy, steps: int) -> GRPOConfig:
    stepped = plan.settings.model_copy(update={
        "batch_size": settings.batch_size, "gradient_accumulation": settings.gradient_accumulation,
        "learning_rate": settings.learning_rate, "eval_fraction": 0.0})
    arguments = list_arguments(dataclasses.replace(plan, settings=stepped, validation_samples=(), block=None), steps)
    del arguments["train_sampling_strategy"]
    return GRPOConfig(**arguments | {
        "num_generations": settings.num_generations,
        "max_completion_length": settings.max_completion_length,
        "temperature": settings.temperature,
        "top_k": settings.top_k,
        "top_p": settings.top_p,
        "beta": settings.beta,
        "epsilon": settings.epsilon,
        "loss_type": settings.loss_type,
        "scale_rewards": settings.scale_rewards,
        "mask_truncated_completions": settings.mask_truncated_completions,
        "reward_weights": [settings.weights[name] for name in policy.examiner.rewards],
        "generation_kwargs": {"suppress_tokens": [policy.banned], "eos_token_id": sorted(policy.examiner.end_ids)},
        "use_vllm": settings.use_vllm,
        "disable_dropout": True,
        "shuffle_dataset": False,
        "gradient_checkpointing": plan.settings.gradient_checkpointing,
        **settings.options,
    })

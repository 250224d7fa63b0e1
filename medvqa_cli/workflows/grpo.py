"""`medvqa train grpo`: a model, questions and rewards to a run with trained weights."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from typing import TYPE_CHECKING, Any

from medvqa_cli import plugins
from medvqa_cli.errors import MissingDependencyError, SettingsError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.settings.train import TrainSettings
from medvqa_cli.workflows.fitting import Method
from medvqa_cli.workflows.train import train

if TYPE_CHECKING:
    from medvqa_cli.records import JsonlWriter
    from medvqa_cli.runs import Run
    from medvqa_cli.settings.schema import Settings
    from medvqa_cli.training.attempts import Reward
    from medvqa_cli.training.callbacks import GracefulStop
    from medvqa_cli.training.sft import TrainingPlan
    from medvqa_cli.workflows.fitting import Job
    from medvqa_cli.workflows.training_data import TrainingData
    from medvqa_cli.workflows.weights import Kind

TRL = ((1, 16), (2,))
"""Versions of TRL that this was built on: from the first, below the second; as in pyproject.toml."""
UNHEEDED = ("vision_cache", "augment", "balance", "loss_weights", "closed_share", "closed_objective")
"""Settings of train that change what supervised fine-tuning learns from, or how, and would do nothing here."""


def train_grpo(settings: Settings, *, name: str | None = None, resume: str | None = None,
               init_from: str | None = None, init_weights: Kind = "kept", dry_run: bool = False,
               progress: Progress = SILENT) -> Run:
    """Train a model by GRPO and return its run.

    Arguments and errors are those of `medvqa_cli.workflows.train.train`, and:

    Raises:
        MissingDependencyError: If TRL is not installed, or not in the version this was built on.
        PluginError: If a reward is unknown or does not work.
    """
    check_trl()
    return train(GRPO, settings, name=name, resume=resume, init_from=init_from, init_weights=init_weights,
                 dry_run=dry_run, progress=progress)


def check_trl() -> None:
    """Refuse to begin without TRL, or with a version that may call other functions.

    Raises:
        MissingDependencyError: Naming the extra.
    """
    if importlib.util.find_spec("trl") is None:
        raise MissingDependencyError("`medvqa train grpo`", "trl", "grpo")
    version = importlib.metadata.version("trl")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if not TRL[0] <= numbers < TRL[1]:
        raise MissingDependencyError("`medvqa train grpo`", f"trl>=1.16,<2 (found: {version})", "grpo")


def check_grpo(settings: Settings, data: TrainingData) -> None:
    """Refuse what GRPO cannot work with, before a model is loaded.

    Raises:
        SettingsError: If settings of supervised fine-tuning would not be heeded, or a step is not whole groups.
        PluginError: If a reward is unknown, or fails on a gold answer.
        DataError: If the questions lack what a reward needs.
    """
    from medvqa_cli.models.placement import count_processes
    from medvqa_cli.training.group_plan import check_options, count_questions
    from medvqa_cli.training.rating import try_rewards

    _refuse_unheeded(settings)
    check_options(settings.grpo.options)
    count_questions(settings.grpo, count_processes())
    try_rewards(find_rewards(settings), data.train, settings.prompt)


def _refuse_unheeded(settings: Settings) -> None:
    plain, train_settings = TrainSettings(), settings.train
    changed = [f"train.{name}" for name in UNHEEDED if getattr(train_settings, name) != getattr(plain, name)]
    if changed:
        raise SettingsError(f"GRPO does not heed {', '.join(changed)}.",
                            "Leave them out: they belong to supervised fine-tuning.")
    if train_settings.seeks_best and train_settings.best_metric == "eval_loss":
        raise SettingsError("GRPO has no validation loss that could choose the best weights.",
                            "Use --best-metric probe_accuracy with --probe-questions.")
    if settings.grpo.shared_prefix == "on" and settings.train.packing == "off":
        raise SettingsError("grpo.shared_prefix is 'on', but train.packing is 'off'.", "Use --packing auto.")


def find_rewards(settings: Settings) -> dict[str, Reward]:
    """Return the rewards that the settings name.

    Raises:
        PluginError: If one is unknown, cannot be loaded, or is named twice.
    """
    return {name: plugins.rewards.get(name) for name in settings.grpo.weights}


def _build(job: Job, plan: TrainingPlan, events: JsonlWriter | None,
           progress: Progress) -> tuple[Any, GracefulStop]:
    from medvqa_cli.data.images import read_image
    from medvqa_cli.training.group_plan import GroupPlan, build_group_trainer

    reader: Any = functools.partial(read_image, max_pixels=job.settings.data.max_pixels)
    group = GroupPlan(job.settings.grpo, find_rewards(job.settings), job.loaded, reader, job.run.name)
    return build_group_trainer(plan, group, events, progress)


GRPO = Method("grpo", check_grpo, _build)

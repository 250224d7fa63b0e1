"""What a training aims at: how often and how much questions count, and what its best weights are best in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.data.balance import check_share, describe_weights, weigh_questions
from medvqa_cli.errors import DataError, SettingsError

if TYPE_CHECKING:
    from medvqa_cli.data.balance import LossWeights
    from medvqa_cli.settings.schema import Settings
    from medvqa_cli.workflows.training_data import TrainingData


def check_objective(settings: Settings, data: TrainingData) -> None:
    """Refuse what cannot be aimed at with these questions, before a model is loaded.

    Raises:
        SettingsError: If settings contradict each other.
        DataError: If there are no questions to balance, to draw, or to measure with.
    """
    train = settings.train
    if train.closed_share is not None and data.block:
        raise SettingsError("train.closed_share does not go with a mixture that has mandatory groups: its batches are "
                            "drawn by the mixture.", "Set the weights of its groups instead.")
    check_share(train, data.train)
    weigh_questions(train, data.train)
    if not train.seeks_best:
        return
    if train.best_metric == "probe_accuracy" and not settings.tracking.probe_questions:
        raise SettingsError("train.best_metric is 'probe_accuracy', but tracking.probe_questions is 0.",
                            "Ask some probes, such as --probe-questions 64, or use --best-metric eval_loss.")
    if not data.validation:
        raise DataError(f"train.best_metric is '{train.best_metric}', but there are no validation questions (split "
                        f"'{settings.data.validation_split}').",
                        "Name a split with --set data.validation_split=NAME, or leave --early-stopping and --keep out.")


def describe_objective(settings: Settings, data: TrainingData, weights: LossWeights | None) -> dict[str, Any]:
    """Return what the manifest says of the questions' weights and shares; nothing where all count as they come."""
    facts: dict[str, Any] = {}
    if weights:
        facts["loss_weights"] = describe_weights(weights, data.train)
    if settings.train.closed_share is not None:
        closed = sum(sample.answer_type == "closed" for sample in data.train)
        facts["closed_share"] = {"wanted": settings.train.closed_share, "in_data": round(closed / len(data.train), 4)}
    return facts

"""The questions of a training: from one data set or a mixture, checked, and described for the manifest."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medvqa_cli.progress import SILENT
from medvqa_cli.workflows.analysis import DataCheck, check_data
from medvqa_cli.workflows.data import load_presented, load_samples, open_data
from medvqa_cli.workflows.mixtures import check_mixture, fingerprint_mixture, load_mixed_validation, load_mixture
from medvqa_cli.workflows.tracking import wants_validation

if TYPE_CHECKING:
    from medvqa_cli.progress import Progress
    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.schema import Settings


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Samples to learn from and to watch.

    `notes` says what was done to images and questions, `warnings` what belongs beside every later number. With `block`,
    so many training samples that follow one another make up a batch.
    """

    train: list[VQASample]
    validation: list[VQASample]
    notes: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    block: int | None = None


def fix_mixture(settings: Settings) -> Settings:
    """Return settings whose mixture file is found from any folder: a run may be resumed from another one."""
    if settings.data.mixture is None:
        return settings
    path = settings.data.mixture.expanduser().absolute()
    return settings.model_copy(update={"data": settings.data.model_copy(update={"mixture": path})})


def check_training_data(settings: Settings, progress: Progress) -> DataCheck:
    """Return what the gate says of the data set, or of those of the mixture."""
    return check_mixture(settings, progress) if settings.data.mixture else check_data(settings, progress)


def load_training_data(settings: Settings, progress: Progress) -> TrainingData:
    """Return the training samples, and the validation samples if the data set has such a split.

    With `data.mixture` they come from several data sets.
    """
    if settings.data.mixture:
        return _load_mixed(settings, progress)
    train = load_presented(settings, settings.data.train_split, progress, require_hits=True)
    validation = _load_validation(settings, progress) if wants_validation(settings) else []
    return TrainingData(train.samples, validation[: settings.train.eval_questions], train.notes, train.warnings)


def _load_mixed(settings: Settings, progress: Progress) -> TrainingData:
    mixed = load_mixture(settings, progress, block=settings.train.batch_size)
    validation = load_mixed_validation(settings, progress) if wants_validation(settings) else []
    return TrainingData(mixed.samples, validation[: settings.train.eval_questions], {"mixture": mixed.report},
                        mixed.warnings, settings.train.batch_size if mixed.has_mandatory else None)


def _load_validation(settings: Settings, progress: Progress) -> list[VQASample]:
    if settings.data.validation_split in open_data(settings, progress).counts:
        return load_samples(settings, settings.data.validation_split, progress=progress)
    progress.say(f"The data set has no split '{settings.data.validation_split}': no validation loss, no probes.")
    return []


def describe_data(settings: Settings, data: TrainingData) -> dict[str, Any]:
    """Return what the manifest says of the data: their name, fingerprint and numbers."""
    images = {path for sample in data.train for path in sample.images}
    numbers = {"train_questions": len(data.train), "train_images": len(images),
               "validation_questions": len(data.validation)}
    if mixture := data.notes.get("mixture"):
        return {"dataset": "a mixture", "fingerprint": fingerprint_mixture(mixture), **numbers}
    prepared = open_data(settings, SILENT)
    return {"dataset": prepared.name, "fingerprint": prepared.fingerprint, "counts": prepared.counts,
            "skipped": json.loads(json.dumps(prepared.skipped, default=str)), **numbers}


def describe_check(check: DataCheck, data: TrainingData) -> dict[str, Any]:
    """Return what the manifest says of the gate and of what was done to images and questions."""
    return {"check": check.state, "warnings": [*check.warnings, *data.warnings], **data.notes}

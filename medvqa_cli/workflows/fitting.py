"""From a run made ready to its trained weights: one process does it, or several together."""

from __future__ import annotations

import shutil
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.balance import weigh_questions
from medvqa_cli.errors import MedVQAError, RunError, SettingsError
from medvqa_cli.records import JsonlWriter
from medvqa_cli.runs import now
from medvqa_cli.workflows.augmentation import build_augmentation, describe_augmentation
from medvqa_cli.workflows.closed_questions import build_closed_objective, describe_closed_objective
from medvqa_cli.workflows.lengths import keep_trainable
from medvqa_cli.workflows.models import build_encoder, describe_model
from medvqa_cli.workflows.objective import check_objective, describe_objective
from medvqa_cli.workflows.tracking import build_diagnostics
from medvqa_cli.workflows.vision_cache import describe_vision_cache, open_vision_cache
from medvqa_cli.workflows.weights import keep_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from medvqa_cli.models.encoding import SampleEncoder
    from medvqa_cli.models.features import FeatureCache
    from medvqa_cli.models.protocol import LoadedModel
    from medvqa_cli.progress import Progress
    from medvqa_cli.records import VQASample
    from medvqa_cli.runs import Run
    from medvqa_cli.settings.schema import Settings
    from medvqa_cli.training.callbacks import GracefulStop
    from medvqa_cli.training.diagnostics import Diagnostics
    from medvqa_cli.training.sft import TrainingPlan
    from medvqa_cli.workflows.training_data import TrainingData


@dataclass(frozen=True, slots=True)
class Method:
    """A way to train: `medvqa train NAME`.

    `check` refuses settings and data that it cannot work with, before a model is loaded; `build` returns its trainer
    and the callback that knows whether it was stopped.
    """

    name: str
    check: Callable[[Settings, TrainingData], None]
    build: Callable[[Job, TrainingPlan, JsonlWriter | None, Progress], tuple[Any, GracefulStop]]


def _build_sft(job: Job, plan: TrainingPlan, events: JsonlWriter | None,  # noqa: ARG001 - a method's arguments
               progress: Progress) -> tuple[Any, GracefulStop]:
    from medvqa_cli.training.sft import build_trainer

    return build_trainer(plan, events, progress)


SFT = Method("sft", check_objective, _build_sft)


@dataclass(frozen=True, slots=True)
class Job:
    """A run ready to be trained."""

    run: Run
    settings: Settings
    data: TrainingData
    loaded: LoadedModel
    engine: dict[str, Any] = field(default_factory=dict)
    method: Method = SFT
    is_new: bool = False


def check_method(method: Method, run: Run, wanted: str) -> None:
    """Refuse to go on by another method than a run was begun by."""
    if method.name != wanted:
        raise RunError(f"Run '{run.name}' was begun by `medvqa train {wanted}`, and this is `medvqa train "
                       f"{method.name}`.", run.name_resume())


def check_processes(run: Run, wanted: int) -> None:
    """Refuse another number of processes: a step would see other questions than before."""
    from medvqa_cli.models.placement import count_processes

    if count_processes() != wanted:
        number = "1 process" if wanted == 1 else f"{wanted} processes"
        raise RunError(f"Run '{run.name}' was begun with {number}, and this is {count_processes()}.",
                       run.name_resume())


def fit(job: Job, progress: Progress) -> Run:
    """Train a job's model from its last checkpoint, or from the start, and write the weights.

    Of several processes only the main one writes and speaks.

    Raises:
        MedVQAError: If it is refused; a new run is removed then, unless it has made a step.
        KeyboardInterrupt: After Ctrl-C, once a checkpoint is written.
    """
    from medvqa_cli.training.checkpoints import explained_full_disk
    from medvqa_cli.training.processes import explained_loss, is_main, together

    run, loaded, resume = job.run, job.loaded, job.run.name_resume()
    with explained_loss(resume), explained_full_disk(run.name, resume), _removed_if_refused(job) as trainers:
        job, encoder, packed = _prepare(job, progress)
        start = time.perf_counter()
        features = together(lambda: open_vision_cache(job.settings, loaded, encoder, job.data.train, progress))
        trainer = _run_trainer(job, encoder, features, progress, trainers, packed=packed)
        trainer.check_weights()
        weights = trainer.gather_weights()
        if is_main():
            keep_weights(run, trainer, loaded, job.settings.train, progress, gathered=weights)
            run.update_manifest(finished=now(), train_seconds=round(time.perf_counter() - start, 1),
                                steps=trainer.state.global_step, **describe_vision_cache(job.settings, features))
    return run


@contextmanager
def _removed_if_refused(job: Job) -> Iterator[list[Any]]:
    """Remove a new run that is refused before its first step: it would only be in the way.

    Yields:
        Where to put its trainer, which counts the steps.
    """
    from medvqa_cli.training.processes import is_main

    trainers: list[Any] = []
    try:
        yield trainers
    except (MedVQAError, SystemExit):  # the latter if another process alone was refused
        if job.is_new and is_main() and not any(trainer.state.global_step for trainer in trainers):
            shutil.rmtree(job.run.path)
        raise


def _prepare(job: Job, progress: Progress) -> tuple[Job, SampleEncoder, bool]:
    """Return the job with the questions that its model reads, their encoder, and whether they are packed."""
    from medvqa_cli.models.adapters import count_parameters, describe_parameters
    from medvqa_cli.training.processes import follow, is_main, together

    settings, loaded = job.settings, job.loaded
    parts = count_parameters(loaded.model, loaded.family.layout)
    progress.say(describe_parameters(parts))
    augmentation = build_augmentation(settings, job.data.train)
    encoder = build_encoder(loaded, settings, cache_mb=settings.train.image_cache_mb, augmentation=augmentation)
    data, too_long = together(lambda: keep_trainable(settings, loaded, job.data, encoder, progress))
    packed = follow(lambda: _recall_packing(job, lambda: decide_packing(settings, loaded, encoder, data.train,
                                                                        progress)))
    if is_main():
        job.run.update_manifest(started=now(), packed=packed, parameters=parts, too_long=too_long,
                                augmentation=describe_augmentation(augmentation, data.train))
    return replace(job, data=data), encoder, packed


def _run_trainer(job: Job, encoder: SampleEncoder, features: FeatureCache | None, progress: Progress,
                 trainers: list[Any], *, packed: bool) -> Any:
    from medvqa_cli.training.processes import follow, is_main, together

    run = job.run
    checkpoint = follow(lambda: _find_start(run, progress))
    with JsonlWriter(run.events) if is_main() else nullcontext() as events:
        plan, diagnostics = _make_plan(job, encoder, events, progress, packed=packed)
        plan = replace(plan, features=features, engine=job.engine)
        trainer, stop = together(lambda: job.method.build(job, plan, events, progress))
        trainers.append(trainer)
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        finally:
            stop.release()
            if diagnostics:
                diagnostics.close()
    if stop.requested:
        progress.warn(f"Stopped. Continue with: {run.name_resume()}")
        raise KeyboardInterrupt
    return trainer


def _make_plan(job: Job, encoder: SampleEncoder, events: JsonlWriter | None, progress: Progress, *,
               packed: bool) -> tuple[TrainingPlan, Diagnostics | None]:
    """Return what is trained on what, watched by what; of several processes only the main one has diagnostics."""
    from medvqa_cli.training.average import WeightAverage
    from medvqa_cli.training.best import BestWatch
    from medvqa_cli.training.processes import follow
    from medvqa_cli.training.sft import TrainingPlan

    run, settings, data, model = job.run, job.settings, job.data, job.loaded.model
    train = settings.train
    average = WeightAverage(model, train.ema) if train.ema else None
    diagnostics = build_diagnostics(run, settings, job.loaded, data, events=events, progress=progress,
                                    judged=average.applied if average else nullcontext) if events else None
    best = BestWatch(train, diagnostics.read_accuracy if diagnostics else _measure_nothing,
                     partial(_tell_stop, events, progress)) if train.seeks_best else None
    weights = weigh_questions(train, data.train)
    objective = follow(lambda: build_closed_objective(settings, run, data.train, progress))
    if events and (facts := describe_objective(settings, data, weights)
                   | describe_closed_objective(objective, data.train)):
        run.update_manifest(**facts)
    callbacks = (average, diagnostics, best)
    plan = TrainingPlan(model, encoder, data.train, data.validation, packed, train, settings.seed, run.checkpoints,
                        data.block, tuple(callback for callback in callbacks if callback), weights,
                        objective=objective)
    return plan, diagnostics


def _measure_nothing(step: int) -> float | None:
    """Return what a process without probes knows of their accuracy: the main one tells it."""


def _tell_stop(events: JsonlWriter | None, progress: Progress, step: int, message: str) -> None:
    progress.say(message)
    if events:
        events.write({"event": "note", "step": step, "kind": "early_stopping", "message": message})


def _find_start(run: Run, progress: Progress) -> str | None:
    """Return the checkpoint to go on from; what was logged after it is taken back."""
    from medvqa_cli.training.checkpoints import drop_events, find_last_checkpoint, read_step

    checkpoint = find_last_checkpoint(run.checkpoints, progress)
    drop_events(run.events, after=read_step(checkpoint) if checkpoint else 0)
    return str(checkpoint) if checkpoint else None


def _recall_packing(job: Job, decide: Callable[[], bool]) -> bool:
    """Return whether a run packs: one that goes on does what it did before, whatever a first batch shows now."""
    known = None if job.is_new else job.run.read_json("manifest.json").get("packed")
    return decide() if known is None else bool(known)


def decide_packing(settings: Settings, loaded: LoadedModel, encoder: SampleEncoder, samples: Sequence[VQASample],
                   progress: Progress) -> bool:
    """Return whether to pack: as set, as the family allows, and only if a first batch gives the plain loss.

    Raises:
        SettingsError: If packing is `on` and the family does not allow it.
    """
    from medvqa_cli.models.batches import compare_packed_loss
    from medvqa_cli.training.order import group_by_image

    if settings.train.packing == "off" or settings.model.attention == "flash":
        return False
    if not loaded.family.capabilities.packs:
        if settings.train.packing == "on":
            raise SettingsError(f"train.packing is 'on', but the family '{loaded.family_name}' cannot share an image "
                                "between questions.", "Use packing 'auto' or 'off'.")
        progress.say(f"The family '{loaded.family_name}' cannot share an image between questions: plain batches.")
        return False
    group = max(group_by_image(samples, 4), key=lambda group: (bool(group[0].images), len(group)))
    plain, packed = compare_packed_loss(loaded.model, encoder, group)
    facts = describe_model(loaded)
    tolerance = 1e-3 if facts["dtype"] == "float32" and "quantization" not in facts else 3e-2
    if not abs(plain - packed) <= tolerance * max(abs(plain), 1e-6):
        progress.warn(f"Packing is off: on a first batch the packed loss {packed:.6f} differs from the plain loss "
                      f"{plain:.6f}. Please report this model.")
        return False
    _warn_of_short_packs(settings.train.pack_length, encoder, group, progress)
    return True


def _warn_of_short_packs(most: int | None, encoder: SampleEncoder, group: Sequence[VQASample],
                         progress: Progress) -> None:
    """Say that packs of at most so many tokens hold one question each, if they do: nothing is shared then."""
    from medvqa_cli.models.batches import list_packs
    from medvqa_cli.models.packing import find_common_prefix

    if most is None:
        return
    bounded, free = (list_packs(encoder, [group], packed=True, max_tokens=bound) for bound in (most, None))
    if len(bounded) == len(group) > len(free):
        shared = find_common_prefix([sample.prompt for sample in free[0][0]])
        progress.warn(f"Packs of {most:,} tokens (train.pack_length) hold one question each, since an image with what "
                      f"stands before its question takes {shared:,}: no image is shared. Raise --pack-length, or leave "
                      "it out.")

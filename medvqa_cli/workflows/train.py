"""`medvqa train sft`: data and a model to a run with trained weights."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import DataError, RunError, SettingsError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import JsonlWriter, write_json
from medvqa_cli.runs import Run, create_run, now, open_run
from medvqa_cli.settings.schema import Settings, make_settings, to_tree
from medvqa_cli.workflows.analysis import DataCheck, check_data
from medvqa_cli.workflows.data import load_presented, load_samples, open_data
from medvqa_cli.workflows.mixtures import check_mixture, fingerprint_mixture, load_mixed_validation, load_mixture
from medvqa_cli.workflows.models import (
    ModelChoice,
    build_encoder,
    build_scratch,
    choose_model,
    describe_model,
    load_choice,
    recall_choice,
)
from medvqa_cli.workflows.tracking import build_diagnostics, check_tracking, wants_validation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.models.encoding import SampleEncoder
    from medvqa_cli.models.protocol import LoadedModel
    from medvqa_cli.records import VQASample
    from medvqa_cli.training.sft import SFTTrainer


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


def train_sft(settings: Settings, *, name: str | None = None, resume: str | None = None,
              init_from: str | None = None, dry_run: bool = False, progress: Progress = SILENT) -> Run:
    """Fine-tune a model by supervised learning and return its run.

    Args:
        settings: What to train on what. With `resume` the run's own settings are used instead.
        name: Name of the run's folder; made from data set and model when not given.
        resume: A run to continue from its last checkpoint.
        init_from: A finished run whose weights to start from.
        dry_run: Check everything that can be checked without loading a model; write nothing.
        progress: Where to report.

    Raises:
        MedVQAError: On bad settings, data or model.
        KeyboardInterrupt: After Ctrl-C, once a checkpoint is written.
    """
    if resume:
        return _resume_run(open_run(settings.paths.runs, resume), settings, progress)
    source = open_run(settings.paths.runs, init_from) if init_from else None
    if source and source.weights is None:
        raise RunError(f"Run '{source.name}' has no trained weights to start from.", "Name a finished run.")
    _check_tuning(settings)
    check_tracking(settings)
    settings = _fix_mixture(settings)
    check = DataCheck("dry run", ()) if dry_run else _check(settings, progress)
    data = load_training_data(settings, progress)
    if source is None and not settings.model.scratch:
        choose_model(settings)
    if dry_run:
        return Run(settings.paths.runs / (name or _name_run(settings)))
    run = create_run(settings.paths.runs, name or _name_run(settings))
    progress.say(f"Run: {run.path}")
    write_json(run.settings, to_tree(settings))
    run.update_manifest(data=_describe_data(settings, data) | describe_check(check, data))
    if check.analysis:
        write_json(run.path / "analysis.json", check.analysis)
    try:
        choice = _start_from(source) if source else _prepare_choice(settings, data.train, run)
        loaded = load_choice(choice, settings, progress, trainable=True)
        loaded.model = _adapt(loaded, settings)
    except BaseException:
        shutil.rmtree(run.path)  # nothing has been trained: an empty run would only be in the way
        raise
    run.update_manifest(model=describe_model(loaded), init_from=source.name if source else None)
    return _train(run, settings, data, loaded, progress)


def _fix_mixture(settings: Settings) -> Settings:
    """Return settings whose mixture file is found from any folder: a run may be resumed from another one."""
    if settings.data.mixture is None:
        return settings
    path = settings.data.mixture.expanduser().absolute()
    return settings.model_copy(update={"data": settings.data.model_copy(update={"mixture": path})})


def _check(settings: Settings, progress: Progress) -> DataCheck:
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


def _resume_run(run: Run, settings: Settings, progress: Progress) -> Run:
    stored = make_settings({**run.read_json("settings.json"), "paths": to_tree(settings.paths)})
    if run.weights:
        progress.say(f"Run '{run.name}' is finished; there is nothing to resume.")
        return run
    manifest = run.read_json("manifest.json")
    if "model" not in manifest:
        raise RunError(f"Run '{run.name}' stopped before its model was loaded.", "Start it again without --resume.")
    check_tracking(stored)
    data = load_training_data(stored, progress)
    found, wanted = _describe_data(stored, data), manifest["data"]
    if found["fingerprint"] != wanted["fingerprint"]:
        raise DataError(f"The data of run '{run.name}' have changed since it began (fingerprint "
                        f"{wanted['fingerprint']} then, {found['fingerprint']} now).", "Start a new run.")
    source = open_run(stored.paths.runs, manifest["init_from"]) if manifest.get("init_from") else None
    choice = _start_from(source) if source else recall_choice(manifest["model"])
    loaded = load_choice(choice, stored, progress, trainable=True)
    loaded.model = _adapt(loaded, stored)
    return _train(run, stored, data, loaded, progress)


def _start_from(source: Run) -> ModelChoice:
    return recall_choice(source.read_json("manifest.json")["model"], source.weights)


def _prepare_choice(settings: Settings, samples: Sequence[VQASample], run: Run) -> ModelChoice:
    if settings.model.scratch:
        return build_scratch(settings, samples, run.path / "initial")
    return choose_model(settings)


def _train(run: Run, settings: Settings, data: TrainingData, loaded: LoadedModel, progress: Progress) -> Run:
    from medvqa_cli.models.adapters import count_parameters, describe_parameters
    from medvqa_cli.training.checkpoints import drop_events, explained_full_disk, find_last_checkpoint, read_step
    from medvqa_cli.training.sft import TrainingPlan, build_trainer

    model = loaded.model
    parts = count_parameters(model, loaded.family.layout)
    progress.say(describe_parameters(parts))
    encoder = build_encoder(loaded, settings, cache_mb=settings.train.image_cache_mb)
    packed = decide_packing(settings, loaded, encoder, data.train, progress)
    checkpoint = find_last_checkpoint(run.checkpoints, progress)
    drop_events(run.events, after=read_step(checkpoint) if checkpoint else 0)
    with JsonlWriter(run.events) as events:
        diagnostics = build_diagnostics(run, settings, loaded, data, events=events, progress=progress)
        plan = TrainingPlan(model, encoder, data.train, data.validation, packed, settings.train, settings.seed,
                            run.checkpoints, data.block, (diagnostics,))
        trainer, stop = build_trainer(plan, events, progress)
        run.update_manifest(started=now(), packed=packed, parameters=parts)
        start = time.perf_counter()
        try:
            with explained_full_disk(run.name):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            stop.release()
            diagnostics.close()
    if stop.requested:
        progress.warn(f"Stopped. Continue with: medvqa train sft --resume {run.name}")
        raise KeyboardInterrupt
    with explained_full_disk(run.name):
        _save(run, trainer, loaded, is_adapter=hasattr(model, "peft_config"))
    run.update_manifest(finished=now(), train_seconds=round(time.perf_counter() - start, 1),
                        steps=trainer.state.global_step)
    return run


def _check_tuning(settings: Settings) -> None:
    """Refuse contradictory settings before anything is loaded."""
    from medvqa_cli.models.adapters import check_tuning

    check_tuning(settings.train, lora=_trains_adapters(settings))


def _trains_adapters(settings: Settings) -> bool:
    return settings.train.tuning == "lora" or (settings.train.tuning == "auto" and not settings.model.scratch)


def _adapt(loaded: LoadedModel, settings: Settings) -> Any:
    """Return the model with what is to be trained set free; an adapter to start from stays the adapter."""
    import torch

    from medvqa_cli.models.adapters import check_continuation, prepare_training

    torch.manual_seed(settings.seed)  # a run killed before its first checkpoint begins again with the same adapters
    layout = loaded.family.layout
    if loaded.adapter:
        check_continuation(loaded.model, layout, settings.train)
        return loaded.model
    return prepare_training(loaded.model, layout, settings.train, lora=_trains_adapters(settings))


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
    group = max(group_by_image(samples, 4), key=len)
    plain, packed = compare_packed_loss(loaded.model, encoder, group)
    facts = describe_model(loaded)
    tolerance = 1e-3 if facts["dtype"] == "float32" and "quantization" not in facts else 3e-2
    if abs(plain - packed) > tolerance * max(abs(plain), 1e-6):
        progress.warn(f"Packing is off: on a first batch the packed loss {packed:.6f} differs from the plain loss "
                      f"{plain:.6f}. Please report this model.")
        return False
    return True


def _save(run: Run, trainer: SFTTrainer, loaded: LoadedModel, *, is_adapter: bool) -> None:
    """Write the weights beside the processor in one step, so that a kill leaves no half model."""
    from medvqa_cli.training.checkpoints import publish_folder

    target = run.path / ("adapter" if is_adapter else "model")
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    trainer.model.save_pretrained(part)
    loaded.processor.save_pretrained(part)
    publish_folder(part, target)


def describe_check(check: DataCheck, data: TrainingData) -> dict[str, Any]:
    """Return what the manifest says of the gate and of what was done to images and questions."""
    return {"check": check.state, "warnings": [*check.warnings, *data.warnings], **data.notes}


def _name_run(settings: Settings) -> str:
    model = Path(str(settings.model.name or settings.model.family or "model")).name
    data = settings.data.mixture.stem if settings.data.mixture else settings.data.dataset
    text = f"{data}-{model}".lower()
    return "".join(character if character.isalnum() or character in "._-" else "-" for character in text).strip("-._")


def _describe_data(settings: Settings, data: TrainingData) -> dict[str, Any]:
    images = {path for sample in data.train for path in sample.images}
    numbers = {"train_questions": len(data.train), "train_images": len(images),
               "validation_questions": len(data.validation)}
    if mixture := data.notes.get("mixture"):
        return {"dataset": "a mixture", "fingerprint": fingerprint_mixture(mixture), **numbers}
    prepared = open_data(settings, SILENT)
    return {"dataset": prepared.name, "fingerprint": prepared.fingerprint, "counts": prepared.counts,
            "skipped": json.loads(json.dumps(prepared.skipped, default=str)), **numbers}

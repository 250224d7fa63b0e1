"""`medvqa train sft`: data and a model to a run with trained weights."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import DataError, RunError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import write_json
from medvqa_cli.runs import Run, check_name, create_run, make_runs_folder, open_run
from medvqa_cli.settings.schema import Settings, make_settings, to_tree
from medvqa_cli.workflows.fitting import SFT, Job, Method, check_method, check_processes, fit
from medvqa_cli.workflows.locks import hold_run
from medvqa_cli.workflows.models import (
    ModelChoice,
    choose_model,
    describe_model,
    load_choice,
    recall_choice,
)
from medvqa_cli.workflows.own_weights import find_base
from medvqa_cli.workflows.scratch import build_scratch, choose_scratch
from medvqa_cli.workflows.settings_digest import KEY, check_settings, digest_settings
from medvqa_cli.workflows.sharding import keep_engine, leave_out_probes, read_engine, recall_engine
from medvqa_cli.workflows.tracking import check_tracking
from medvqa_cli.workflows.training_data import (
    check_training_data,
    describe_check,
    describe_data,
    fix_mixture,
    load_training_data,
)
from medvqa_cli.workflows.tuning import check_adapters, freezes_base, list_idle
from medvqa_cli.workflows.vision_cache import check_vision_cache
from medvqa_cli.workflows.weights import Kind, check_kind, find_weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medvqa_cli.models.protocol import LoadedModel
    from medvqa_cli.records import VQASample


@dataclass(frozen=True, slots=True)
class Start:
    """A finished run to start from, if any, and which of its weights."""

    run: str | None
    kind: Kind


def train_sft(settings: Settings, *, name: str | None = None, resume: str | None = None,
              init_from: str | None = None, init_weights: Kind = "kept", dry_run: bool = False,
              progress: Progress = SILENT) -> Run:
    """Fine-tune a model by supervised learning and return its run.

    Arguments and errors are those of `train`.
    """
    return train(SFT, settings, name=name, resume=resume, init_from=init_from, init_weights=init_weights,
                 dry_run=dry_run, progress=progress)


def train(method: Method, settings: Settings, *, name: str | None = None, resume: str | None = None,
          init_from: str | None = None, init_weights: Kind = "kept", dry_run: bool = False,
          progress: Progress = SILENT) -> Run:
    """Train a model by some method and return its run.

    Args:
        method: How.
        settings: What to train on what. With `resume` the run's own settings are used instead.
        name: Name of the run's folder; made from data set and model when not given.
        resume: A run to continue from its last checkpoint.
        init_from: A finished run whose weights to start from.
        init_weights: Which of its weights: those it keeps, their moving average, or the weights themselves.
        dry_run: Check everything that can be checked without loading a model; write nothing.
        progress: Where to report.

    Raises:
        MedVQAError: On bad settings, data or model.
        KeyboardInterrupt: After Ctrl-C, once a checkpoint is written.
    """
    from medvqa_cli.training.processes import follow, join, leave

    start = Start(init_from, init_weights)
    if dry_run:
        return _check_start(method, settings, name, start, progress)
    jobs: list[Job] = []

    def begin() -> Path:
        old = open_run(settings.paths.runs, resume) if resume else None
        if old is None:
            jobs.append(_begin_run(method, settings, name, start, progress, held=held))
        elif old.weights:
            progress.say(f"Run '{old.name}' is finished; there is nothing to resume.")
            return old.path
        else:
            held.enter_context(hold_run(old))
            jobs.append(_reopen_run(method, old, settings, progress))
        return jobs[0].run.path

    join()
    try:
        with ExitStack() as held:
            run = Run(follow(begin))
            if run.weights:
                return run
            return fit(jobs[0] if jobs else _reopen_run(method, run, settings, progress), progress)
    finally:
        leave()


def _check_start(method: Method, settings: Settings, name: str | None, start: Start, progress: Progress) -> Run:
    """Check everything that can be checked without loading a model; return the run that would be made."""
    _find_source(settings, start, name)
    settings = fix_mixture(settings)
    _say_idle(settings, progress)
    method.check(settings, load_training_data(settings, progress))
    return Run(settings.paths.runs / (name or _name_run(settings)))


def _find_source(settings: Settings, start: Start, name: str | None) -> Run | None:
    """Return the run to start from; what costs nothing to check is checked here, before data are read."""
    if name:
        check_name(settings.paths.runs, name)
    check_kind(start.kind, named=start.run is not None)
    source = open_run(settings.paths.runs, start.run) if start.run else None
    if source:
        find_weights(source, start.kind)
    _check_tuning(settings)
    check_tracking(settings)
    check_vision_cache(settings)
    read_engine(settings)
    if source is None and settings.model.scratch:
        choose_scratch(settings)
    elif source is None:
        choose_model(settings)
    return source


def _begin_run(method: Method, settings: Settings, name: str | None, start: Start, progress: Progress,
               *, held: ExitStack) -> Job:
    """Make a new run, to be `held` from now on: its folder, its data, its model."""
    from medvqa_cli.models.placement import count_processes

    source = _find_source(settings, start, name)
    make_runs_folder(settings.paths.runs)
    engine = read_engine(settings)
    _say_idle(settings, progress)
    settings = leave_out_probes(fix_mixture(settings), engine, progress)
    check = check_training_data(settings, progress)
    data = load_training_data(settings, progress)
    method.check(settings, data)
    run = create_run(settings.paths.runs, name or _name_run(settings), counts_up=name is None)
    try:
        held.enter_context(hold_run(run))
        progress.say(f"Run: {run.path}")
        write_json(run.settings, tree := to_tree(settings))
        keep_engine(run, engine)
        run.update_manifest(method=method.name, data=describe_data(settings, data) | describe_check(check, data),
                            processes=count_processes(), schedule=settings.train.schedule,
                            **{KEY: digest_settings(tree)})
        if check.analysis:
            write_json(run.path / "analysis.json", check.analysis)
        choice = _start_from(source, start.kind) if source else _prepare_choice(settings, data.train, run)
        loaded = load_choice(choice, settings, progress, trainable=True)
        loaded.model = _adapt(loaded, settings)
        run.update_manifest(model=describe_model(loaded), init_from=source.name if source else None,
                            init_weights=start.kind)
    except BaseException:
        shutil.rmtree(run.path)  # nothing has been trained: an empty run would only be in the way
        raise
    return Job(run, settings, data, loaded, engine, method, is_new=True)


def _reopen_run(method: Method, run: Run, settings: Settings, progress: Progress) -> Job:
    """Load what an unfinished run began with."""
    stored = make_settings({**run.read_json("settings.json"), "paths": to_tree(settings.paths)})
    manifest = run.read_json("manifest.json")
    if "model" not in manifest:
        raise RunError(f"Run '{run.name}' stopped before its model was loaded.", "Start it again without --resume.")
    stored = _keep_course(stored, manifest)
    check_settings(run, manifest)
    check_method(method, run, manifest.get("method", SFT.name))
    check_processes(run, manifest.get("processes", 1))
    engine = recall_engine(run, stored)
    check_tracking(stored)
    data = load_training_data(stored, progress)
    found, wanted = describe_data(stored, data), manifest["data"]
    if found["fingerprint"] != wanted["fingerprint"]:
        raise DataError(f"The data of run '{run.name}' have changed since it began (fingerprint "
                        f"{wanted['fingerprint']} then, {found['fingerprint']} now).", "Start a new run.")
    source = open_run(stored.paths.runs, manifest["init_from"]) if manifest.get("init_from") else None
    choice = (_start_from(source, manifest.get("init_weights", "kept")) if source
              else recall_choice(find_base(manifest["model"], run)))
    loaded = load_choice(choice, stored, progress, trainable=True)
    loaded.model = _adapt(loaded, stored)
    return Job(run, stored, data, loaded, engine, method)


def _keep_course(stored: Settings, manifest: Mapping[str, Any]) -> Settings:
    """Return a run's settings as they were meant when it began: `constant` had no warm-up before it was recorded."""
    if "schedule" in manifest or stored.train.scheduler != "constant":
        return stored
    return stored.model_copy(update={"train": stored.train.model_copy(update={"warmup": 0.0})})


def _start_from(source: Run, kind: Kind) -> ModelChoice:
    return recall_choice(find_base(source.read_json("manifest.json")["model"], source), find_weights(source, kind))


def _prepare_choice(settings: Settings, samples: Sequence[VQASample], run: Run) -> ModelChoice:
    if settings.model.scratch:
        return build_scratch(settings, samples, run.path / "initial")
    return choose_model(settings)


def _say_idle(settings: Settings, progress: Progress) -> None:
    if idle := list_idle(settings):
        progress.say(f"Everything is trained (train.tuning '{settings.train.tuning}'), so {', '.join(idle)} idles.")


def _check_tuning(settings: Settings) -> None:
    """Refuse contradictory settings before anything is loaded."""
    from medvqa_cli.models.adapters import check_tuning

    check_adapters(settings)
    check_tuning(settings.train, lora=freezes_base(settings))


def _adapt(loaded: LoadedModel, settings: Settings) -> Any:
    """Return the model with what is to be trained set free, in float32; an adapter to start from stays the adapter.

    DeepSpeed and FSDP keep float32 masters themselves.
    """
    import torch

    from medvqa_cli.models.adapters import check_continuation, prepare_training
    from medvqa_cli.models.precision import raise_masters

    torch.manual_seed(settings.seed)  # a run killed before its first checkpoint begins again with the same adapters
    layout, train = loaded.family.layout, settings.train
    if loaded.adapter:
        check_continuation(loaded.model, layout, train)
        model = loaded.model
    else:
        model = prepare_training(loaded.model, layout, train, lora=freezes_base(settings))
    return model if train.deepspeed or train.fsdp else raise_masters(model)


def _name_run(settings: Settings) -> str:
    model = Path(str(settings.model.name or settings.model.family or "model")).name
    data = settings.data.mixture.stem if settings.data.mixture else settings.data.dataset
    text = f"{data}-{model}".lower()
    return "".join(character if character.isalnum() or character in "._-" else "-" for character in text).strip("-._")

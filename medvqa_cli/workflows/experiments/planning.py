"""Everything that can be wrong with a grid is found here, before its first job starts."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli import plugins
from medvqa_cli.errors import MedVQAError, RunError, SettingsError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import write_json
from medvqa_cli.settings.options import read_options
from medvqa_cli.settings.schema import Settings, make_settings, to_tree
from medvqa_cli.settings.sources import OF_THE_MACHINE, flatten
from medvqa_cli.workflows.experiments.grid import METHOD, SEED, SFT, Combination, Grid, Stage, expand_grid
from medvqa_cli.workflows.experiments.jobs import Job, check_inputs, find_pending, is_done, make_job

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from medvqa_cli.workflows.sources import DataSource

FOLDER = "experiments"
NOT_COMPARED = (*OF_THE_MACHINE, "plugins")
LATE: dict[str, tuple[Stage, ...]] = {"evaluation": ("evaluate", "calibrate"), "calibration": ("calibrate",)}
"""Sections of the settings that act on some stages alone: until one of these is done, they may be changed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked experiment: its folder, and each combination with its job and the stages still to be done."""

    name: str
    folder: Path
    stages: tuple[Stage, ...]
    combinations: tuple[Combination, ...]
    jobs: tuple[Job, ...]
    pending: tuple[tuple[Stage, ...], ...]


def plan_experiment(grid: Grid, base: Settings) -> Plan:
    """Resolve and check every combination, and find what its run still lacks. Writes nothing.

    Raises:
        SettingsError: If a key, value or name is wrong, or combinations are the same.
        RunError: If the experiment's runs were made with other settings.
        MedVQAError: If a data set or model is unknown.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", grid.name):
        raise SettingsError(f"'{grid.name}' is no name for an experiment.", "Use letters, digits, '.', '_' and '-'.")
    folder = find_folder(base.paths.runs, grid.name)
    combinations = tuple(expand_grid(base, grid.axes))
    check_combinations(combinations)
    jobs = tuple(make_job(combination, folder, grid.stages) for combination in combinations)
    for job, combination in zip(jobs, combinations, strict=True):
        check_unchanged(job, combination.settings)
        check_inputs(job)
    return Plan(grid.name, folder, grid.stages, combinations, jobs, tuple(map(find_pending, jobs)))


def find_folder(runs: Path, name: str) -> Path:
    """Return the folder of an experiment, absolute."""
    return runs.expanduser().absolute() / FOLDER / name


def check_combinations(combinations: tuple[Combination, ...]) -> None:
    """Look up every name, and refuse two combinations that mean the same or need one store for two data sets.

    Raises:
        MedVQAError: Naming the combination.
    """
    seen: dict[str, str] = {}
    stores: dict[Path, tuple[str, DataSource]] = {}
    for combination in combinations:
        try:
            source, meaning = _check(combination)
        except MedVQAError as error:
            error.message = f"Combination '{combination.name}': {error.message}"
            raise
        if (known := seen.setdefault(meaning, combination.name)) != combination.name:
            raise SettingsError(f"The combinations '{known}' and '{combination.name}' are the same: they come to "
                                "the same settings, data and model.", "Name each value once.")
        other, before = stores.setdefault(source.folder, (combination.name, source))
        if (before.reader, before.origin) != (source.reader, source.origin):
            raise SettingsError(
                f"The combinations '{other}' and '{combination.name}' read the data set '{source.name}' in two ways, "
                "but it is prepared once.", "Declare two data sets of your own under 'datasets' and vary data.dataset.")


def _check(combination: Combination) -> tuple[DataSource, str]:
    """Return a combination's data set, and everything that decides its outcome as one text."""
    from medvqa_cli.models.adapters import check_tuning
    from medvqa_cli.workflows.models import choose_model
    from medvqa_cli.workflows.sources import find_source
    from medvqa_cli.workflows.tuning import check_adapters, freezes_base

    settings = combination.settings
    source = find_source(settings)
    check_adapters(settings)
    check_tuning(settings.train, lora=freezes_base(settings))
    model = _check_family(settings) if settings.model.scratch else str(choose_model(settings))
    tree = to_tree(settings)
    tree["data"] |= {"dataset": source.name}
    tree["model"] |= {"name": model, "family": None}
    return source, json.dumps({**tree, METHOD: combination.method}, sort_keys=True)


def _check_family(settings: Settings) -> str:
    """Return the family of a model from scratch."""
    name = settings.model.family or settings.model.name
    if not name:
        raise SettingsError("model.scratch needs a family.", "Name one with --models, such as --models llava.")
    family = plugins.models.resolve(name)
    read_options(plugins.models.get(family).Options, settings.model.options, "model.options")
    return family


def check_unchanged(job: Job, settings: Settings) -> None:
    """Refuse to go on with a run that was made with other settings.

    Raises:
        RunError: Naming what differs.
    """
    if not job.run.path.is_dir() or not job.settings.is_file():
        return
    before, now = (_flat(to_tree(part)) for part in (make_settings(_read_settings(job)), settings))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key) and _has_acted(job, key)]
    if changed:
        key = changed[0]
        raise RunError(f"Run '{job.name}' of this experiment was made with {key} = {before.get(key)}, now it is "
                       f"{now.get(key)}.", f"Give the experiment another --name, or remove '{job.run.path}'.")


def _has_acted(job: Job, key: str) -> bool:
    """Return whether a setting may have shaped what a run holds: some act on its last stages alone."""
    stages = LATE.get(key.partition(".")[0])
    return stages is None or any(is_done(job, stage) for stage in stages)


def _read_settings(job: Job) -> Mapping[str, Any]:
    try:
        content: Mapping[str, Any] = json.loads(job.settings.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{job.settings} is damaged: {error}.", f"Remove it and '{job.run.path}'.") from error
    return content


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {leaf.key: leaf.value for leaf in flatten(tree, "") if leaf.path[0] not in NOT_COMPARED}


def prepare_experiment(plan: Plan, progress: Progress = SILENT) -> None:
    """Prepare and check the data that jobs will read side by side, and write each job's settings.

    Raises:
        DataError: If data cannot be prepared, have no passing analysis, or a selection is empty.
        MedVQAError: On bad data or model.
    """
    waiting = [(combination, job) for combination, job, pending
               in zip(plan.combinations, plan.jobs, plan.pending, strict=True) if pending]
    if "train" in plan.stages:
        _check_data([combination for combination, _ in waiting], progress)
    for combination, job in waiting:
        tree = to_tree(combination.settings)
        tree["paths"] = {"prepared": str(job.prepared), "runs": str(job.run.path.parent)}
        write_json(job.settings, tree)


def _check_data(combinations: list[Combination], progress: Progress) -> None:
    from medvqa_cli.workflows.grpo import train_grpo
    from medvqa_cli.workflows.train import train_sft

    checked: set[str] = set()
    for combination in combinations:
        settings = combination.settings
        _analyze_whole(settings, checked, progress)
        tree = {**to_tree(settings), SEED: None, METHOD: combination.method}
        if (text := json.dumps(tree, sort_keys=True)) in checked:
            continue
        checked.add(text)
        try:
            train = train_sft if combination.method == SFT else train_grpo
            train(settings, dry_run=True, progress=SILENT)
        except MedVQAError as error:
            error.message = f"Combination '{combination.name}': {error.message}"
            raise


def _analyze_whole(settings: Settings, checked: set[str], progress: Progress) -> None:
    """Check the whole data set once: an analysis of all its questions serves every selection of them."""
    from medvqa_cli.workflows.analysis import check_data
    from medvqa_cli.workflows.mixtures import check_mixture

    whole = settings.data.model_copy(update={"question_type": "all", "limit": None, "subsample": None})
    text = whole.model_dump_json()
    if text not in checked:
        checked.add(text)
        everything = settings.model_copy(update={"data": whole})
        (check_mixture if settings.data.mixture else check_data)(everything, progress)

"""From a combination to commands: what its run folder already holds, and what is still to be done."""

from __future__ import annotations

import functools
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import RunError, SettingsError
from medvqa_cli.records import read_jsonl
from medvqa_cli.runs import Run
from medvqa_cli.workflows.experiments.executors import Step, Task
from medvqa_cli.workflows.experiments.grid import SFT
from medvqa_cli.workflows.scopes import make_scope

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from medvqa_cli.settings.schema import Settings
    from medvqa_cli.workflows.experiments.grid import Combination, Stage

NEEDS: dict[str, tuple[str, ...]] = {"train": (), "infer": ("train",), "evaluate": ("infer",), "calibrate": ("train",),
                                     "report": ("evaluate", "calibrate")}
"""Stages whose being done anew makes a stage's files old."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is run for one combination, and where its files lie.

    Attributes:
        name: The combination's, and that of its run folder.
        folder: The experiment's folder, absolute.
        stages: In the order in which they are done.
        prepared: Folder of prepared data, absolute.
        plugins: Loose plugin files.
        tag: Of its answers: those to blank images have one.
        method: How it is trained: "sft" or "grpo".
        confidence: Where `metrics.json` holds what `calibrate` makes.
    """

    name: str
    folder: Path
    stages: tuple[Stage, ...]
    prepared: Path
    plugins: tuple[Path, ...] = ()
    tag: str = ""
    method: str = SFT
    confidence: str = "calibration"

    @property
    def run(self) -> Run:
        """Its run, which need not be there yet."""
        return Run(self.folder / "runs" / self.name)

    @property
    def settings(self) -> Path:
        """The settings it is run with, JSON."""
        return self.folder / "settings" / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """What its processes say."""
        return self.folder / "logs" / f"{self.name}.log"

    @property
    def suffix(self) -> str:
        """What stands behind `predictions` and `scores` in the names of its files."""
        return f"-{self.tag}" if self.tag else ""


def make_job(combination: Combination, folder: Path, stages: Sequence[Stage]) -> Job:
    """Return the job of a combination."""
    settings = combination.settings
    return Job(combination.name, folder, tuple(stages), settings.paths.prepared.absolute(), settings.plugins,
               settings.infer.shown.replace("off", ""), combination.method, _name_confidence(settings))


def _name_confidence(settings: Settings) -> str:
    split, method = settings.data.test_split, settings.calibration.method
    if method == "all":
        return "confidence_methods" + make_scope(settings, split, "sampling").tag
    return make_scope(settings, split).folder


def find_pending(job: Job) -> tuple[Stage, ...]:
    """Return the stages that are not done, and those whose input will be made anew.

    Raises:
        RunError: If a file of the run is damaged.
    """
    pending: list[Stage] = []
    for stage in job.stages:
        if any(need in pending for need in NEEDS[stage]) or not is_done(job, stage):
            pending.append(stage)
    return tuple(pending)


def check_inputs(job: Job) -> None:
    """Refuse stages whose input no stage makes.

    Raises:
        SettingsError: If a stage's input is neither there nor made by a stage before it.
    """
    for stage in job.stages:
        for need in () if stage == "report" else NEEDS[stage]:
            if need not in job.stages and not is_done(job, need):
                raise SettingsError(f"The stage '{stage}' needs the stage '{need}', which is not named and which "
                                    f"run '{job.name}' has not gone through.", f"Add {need} to the stages.")


def is_done(job: Job, stage: str) -> bool:
    """Return whether a run holds all that a stage makes."""
    run = job.run
    if stage == "train":
        return run.weights is not None
    if stage == "report":
        return run.report.is_file()
    if stage == "infer":
        return _is_answered(run, f"predictions{job.suffix}")
    if stage == "calibrate":
        blocks = [*read_confidence(job).values()]
    else:
        found = _read_metrics(run).get("answers", {}).get(job.tag or "main")
        blocks = [] if found is None else [found]
    return bool(blocks) and not any(block.get("incomplete", False) for block in blocks)


def _read_metrics(run: Run) -> Mapping[str, Any]:
    return run.read_json("metrics.json") if (run.path / "metrics.json").is_file() else {}


def read_confidence(job: Job) -> dict[str, Mapping[str, Any]]:
    """Return, by folder, the metrics of each way in which a run was asked how sure it is; none if it was not.

    Raises:
        RunError: If the file is damaged.
    """
    metrics = _read_metrics(job.run)
    found = metrics.get(job.confidence)
    folders = () if found is None else found["folders"].values() if "folders" in found else (job.confidence,)
    return {folder: metrics[folder] for folder in folders}


def _is_answered(run: Run, name: str) -> bool:
    rows, side = run.path / f"{name}.jsonl", run.path / f"{name}.meta.json"
    if not rows.is_file() or not side.is_file():
        return False
    return sum(1 for _ in read_jsonl(rows)) == run.read_json(side.name).get("expected")


def make_task(job: Job, pending: Sequence[Stage]) -> Task:
    """Return what an executor runs: each command is made when its turn comes, by what the run folder holds then."""
    return Task(job.name, job.log, tuple(Step(stage, functools.partial(start_stage, job, stage)) for stage in pending))


def start_stage(job: Job, stage: Stage) -> list[str]:
    """Return a stage's command, and remove what a training left that was killed before its model was loaded."""
    if stage == "train" and _has_no_model(job.run):
        shutil.rmtree(job.run.path)
    return build_command(job, stage)


def _has_no_model(run: Run) -> bool:
    """Return whether a run folder was begun but holds no model, checkpoint or weights to go on from."""
    if not run.path.is_dir() or run.weights or run.checkpoints.exists():
        return False
    return not run.manifest.is_file() or "model" not in _read_manifest(run)


def _read_manifest(run: Run) -> Mapping[str, Any]:
    try:
        return run.read_json("manifest.json")
    except RunError:
        return {}


def build_command(job: Job, stage: Stage) -> list[str]:
    """Return the command line of a stage; a half-finished training is resumed."""
    medvqa = [sys.executable, "-m", "medvqa_cli"]
    if stage == "train" and job.run.path.is_dir() and not _has_no_model(job.run):
        return [*medvqa, "train", job.method, "--resume", job.name, "--runs-dir", str(job.run.path.parent),
                "--prepared-dir", str(job.prepared),
                *(word for plugin in job.plugins for word in ("--plugin", str(plugin)))]
    tag = ["--tag", job.tag] if job.tag else []
    words = {"train": ["train", job.method, "--name", job.name], "infer": ["infer", "--run", job.name, *tag],
             "evaluate": ["eval", "answers", "--run", job.name, *tag],
             "calibrate": ["eval", "calibration", "--run", job.name], "report": ["report", job.name]}
    return [*medvqa, *words[stage], "--config", str(job.settings)]

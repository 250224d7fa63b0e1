"""`medvqa experiments`: a grid of settings to runs, one table and paired comparisons."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli import __version__
from medvqa_cli.errors import RunError, SettingsError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import write_atomically, write_json
from medvqa_cli.reporting.formatting import format_seconds
from medvqa_cli.runs import Run, now
from medvqa_cli.settings.schema import EvaluationSettings, to_tree
from medvqa_cli.workflows.experiments.executors import LocalExecutor, Outcome, Slot
from medvqa_cli.workflows.experiments.jobs import Job, make_task
from medvqa_cli.workflows.experiments.planning import FOLDER, Plan, find_folder, plan_experiment, prepare_experiment
from medvqa_cli.workflows.experiments.results import MEASURES, read_result
from medvqa_cli.workflows.experiments.summary import summarize, tabulate
from medvqa_cli.workflows.machine.findings import count

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from medvqa_cli.settings.schema import Settings
    from medvqa_cli.workflows.experiments.executors import Executor
    from medvqa_cli.workflows.experiments.grid import Grid

RECORD = "experiment.json"


@dataclass(frozen=True, slots=True)
class ExperimentResult:
    """What an experiment made: its folder, its summary (see `summarize`), and how its jobs of this call ended."""

    folder: Path
    summary: dict[str, Any]
    outcomes: tuple[Outcome, ...]

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The jobs that failed."""
        return tuple(outcome for outcome in self.outcomes if outcome.failed)


def run_experiment(grid: Grid, base: Settings, *, slots: Sequence[Slot] = (Slot("slot 1"),), submit: str | None = None,
                   submit_options: Mapping[str, Any] | None = None, progress: Progress = SILENT) -> ExperimentResult:
    """Run what is not done yet of every combination, and summarize all of them.

    Args:
        grid: What varies, and which stages are done.
        base: Settings that all combinations share.
        slots: Where jobs run on this machine, one process each.
        submit: "slurm" or "ray" submits each job to the cluster instead.
        submit_options: submitit's parameters, or options of a Ray task.
        progress: Where to report.

    Raises:
        MedVQAError: If anything about a combination is wrong; nothing has been started then.
        RunError: If the experiment is running already.
        KeyboardInterrupt: After Ctrl-C, once all children have ended.
    """
    plan = plan_experiment(grid, base)
    with lock_experiment(plan.folder) as lock:
        executor = _make_executor(plan.folder, slots, submit, submit_options or {}, lock)
        prepare_experiment(plan, progress)
        _name_others(plan, progress)
        _write_record(plan, base.evaluation)
        outcomes = _run(plan, executor, progress)
        return ExperimentResult(plan.folder, _write_summary(plan.folder), outcomes)


def _make_executor(folder: Path, slots: Sequence[Slot], submit: str | None, options: Mapping[str, Any],
                   lock: int | None) -> Executor:
    if submit == "ray":
        from medvqa_cli.workflows.experiments.ray_cluster import RayExecutor

        return RayExecutor(options)
    if submit:
        from medvqa_cli.workflows.experiments.cluster import SubmititExecutor

        return SubmititExecutor(folder / "submitted", options, submit)
    check_gpus(slots)
    return LocalExecutor(slots, keep_open=() if lock is None else (lock,))


def check_gpus(slots: Sequence[Slot]) -> None:
    """Refuse GPUs that are not there: their jobs would run on the CPU without a word.

    Raises:
        SettingsError: If torch sees fewer.
    """
    wanted = [slot.name for slot in slots if "CUDA_VISIBLE_DEVICES" in slot.variables]
    if not wanted:
        return
    import torch

    count = torch.cuda.device_count()
    absent = [name for name in wanted if int(name.rpartition(" ")[2]) >= count]
    if absent:
        raise SettingsError(f"--gpus names {', '.join(absent)}, but torch sees {count or 'no'} "
                            f"GPU{'s' if count != 1 else ''} here.", "See `medvqa doctor`; --jobs N runs on the CPU.")


@contextlib.contextmanager
def lock_experiment(folder: Path) -> Iterator[int | None]:
    """Let one process at a time run an experiment. Children inherit the lock: it outlives a killed parent with them.

    It has no effect on Windows, which has no flock.

    Raises:
        RunError: If the experiment is running already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield None
        return
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"The experiment '{folder.name}' is running already, or jobs of it still are.",
                           f"Wait for it, or see what runs in '{folder / 'logs'}'.") from error
        yield stream.fileno()


def _name_others(plan: Plan, progress: Progress) -> None:
    """Say which runs of an earlier grid are not in this one."""
    runs = plan.folder / "runs"
    others = sorted({path.name for path in runs.iterdir()} - {job.name for job in plan.jobs}) if runs.is_dir() else []
    if others:
        progress.warn(f"{count(len(others), 'run')} of an earlier grid will not be in the table, as this grid does not "
                      f"name {'them' if len(others) > 1 else 'it'}: {', '.join(others)}.")


def _run(plan: Plan, executor: Executor, progress: Progress) -> tuple[Outcome, ...]:
    tasks = [make_task(job, pending) for job, pending in zip(plan.jobs, plan.pending, strict=True) if pending]
    progress.say(f"Experiment: {plan.folder}")
    if trained := next((job for job, pending in zip(plan.jobs, plan.pending, strict=True) if "train" in pending), None):
        progress.say(f"To watch a training: medvqa train watch {trained.name} --runs-dir {trained.run.path.parent}")
    if len(tasks) < len(plan.jobs):
        progress.say(f"{len(plan.jobs) - len(tasks)} of {count(len(plan.jobs), 'job')} are done already.")
    if not tasks:
        return ()
    progress.start("Jobs", len(tasks), "job")
    jobs = {job.name: job for job in plan.jobs}
    failed: list[str] = []

    def report(outcome: Outcome) -> None:
        if not outcome.failed:
            progress.say(f"{outcome.name}: done in {format_seconds(outcome.seconds)}{_describe(jobs[outcome.name])}")
        else:
            failed.append(outcome.name)
            log = plan.folder / "logs" / f"{outcome.name}.log"
            lines = "".join(f"\n  | {line}" for line in outcome.tail)
            progress.warn(f"{outcome.name} failed at '{outcome.failed}' ({outcome.ending}); the end of {log}:{lines}")
        progress.advance(note=f"{len(failed)} failed" if failed else "")

    try:
        outcomes = executor.run(tasks, report, progress)
    except KeyboardInterrupt:
        progress.finish()
        progress.warn("Stopped. Run the same command again to go on: what is finished is kept, a training resumes from "
                      "its last checkpoint.")
        raise
    progress.finish()
    return tuple(outcomes)


def _describe(job: Job) -> str:
    """Return what a job's run found about its answers, as the end of a line."""
    try:
        metrics = read_result(job, {}).metrics
    except RunError:  # the summary will say it: here it would stop the jobs that still run
        return ""
    found = ", ".join(f"{name.replace('_', ' ')} {metrics[name]:.3f}" for name in MEASURES if name in metrics)
    return f": {found}" if found else ""


def _write_record(plan: Plan, evaluation: EvaluationSettings) -> None:
    rows = [{"name": job.name, "values": combination.values, "stages": job.stages, "tag": job.tag,
             "confidence": job.confidence}
            for combination, job in zip(plan.combinations, plan.jobs, strict=True)]
    write_json(plan.folder / RECORD, {"experiment": plan.name, "medvqa": __version__, "started": now(),
                                      "stages": plan.stages, "evaluation": to_tree(evaluation), "jobs": rows})


def show_experiment(runs: Path, name: str) -> ExperimentResult:
    """Summarize what an experiment's runs hold now.

    Raises:
        RunError: If there is no such experiment, or a file is damaged.
    """
    folder = find_folder(runs, name)
    if not (folder / RECORD).is_file():
        known = sorted(path.parent.name for path in folder.parent.glob(f"*/{RECORD}"))
        raise RunError(f"There is no experiment '{name}' in '{folder.parent}'.",
                       f"Known: {', '.join(known)}." if known else "Start one with `medvqa experiments run FILE`.")
    return ExperimentResult(folder, _write_summary(folder), ())


def _write_summary(folder: Path) -> dict[str, Any]:
    """Summarize all runs of an experiment, write `summary.json` and the tables as CSV, and return the summary."""
    record = Run(folder).read_json(RECORD)
    try:
        jobs = [(Job(row["name"], folder, tuple(row["stages"]), folder, tag=row["tag"],
                     confidence=row.get("confidence", "calibration")), row["values"]) for row in record["jobs"]]
        evaluation = EvaluationSettings.model_validate_json(json.dumps(record["evaluation"]))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{folder / RECORD} is damaged, or of another version: {error}.",
                       "Run `medvqa experiments run` again: it writes it anew.") from error
    results = [read_result(job, values) for job, values in jobs]
    summary = {"experiment": folder.name, "folder": str(folder), "written": now(), **summarize(results, evaluation)}
    write_json(folder / "summary.json", summary)
    for name, text in tabulate(summary).items():
        write_atomically(folder / name, text)
    return summary


def list_experiments(runs: Path) -> list[str]:
    """Return the names of the experiments in a runs folder, the latest first."""
    found = (runs / FOLDER).glob(f"*/{RECORD}")
    return [path.parent.name for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]

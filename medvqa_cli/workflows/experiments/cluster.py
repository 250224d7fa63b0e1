"""Tasks on a cluster: each is one SLURM job, submitted with submitit (an extra)."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import MissingDependencyError, SettingsError
from medvqa_cli.workflows.experiments.executors import (
    Outcome,
    Task,
    clean_environment,
    open_log,
    read_tail,
    write_header,
)
from medvqa_cli.workflows.machine.findings import count

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from medvqa_cli.progress import Progress

POLL_SECONDS = 0.5


class RemoteTask:
    """A task as it runs on a node; after a time limit or preemption it is queued again and goes on."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __call__(self) -> Outcome:
        """Run the steps one after another and return how they ended."""
        began = time.monotonic()
        for step in self.task.steps:
            command = list(step.command())
            with open_log(self.task.log) as log:
                write_header(log, command)
                done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log,  # noqa: S603 - our own command
                                      stderr=subprocess.STDOUT, env=clean_environment({}), check=False)
            if done.returncode:
                return Outcome(self.task.name, round(time.monotonic() - began, 1), step.label, done.returncode,
                               read_tail(self.task.log))
        return Outcome(self.task.name, round(time.monotonic() - began, 1))

    def checkpoint(self) -> Any:
        """Ask submitit to queue the same task again; its commands look at the run folder anew."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class SubmititExecutor:
    """Submits every task as one job and waits for all; after Ctrl-C the jobs are cancelled.

    Args:
        folder: Where submitit keeps what it writes.
        parameters: submitit's own, such as slurm_partition or timeout_min.
        cluster: "slurm"; submitit's "local" runs all jobs on this machine at once.

    Raises:
        MissingDependencyError: If submitit is not installed.
        SettingsError: If it refuses a parameter, or there is no such cluster here.
    """

    def __init__(self, folder: Path, parameters: Mapping[str, Any], cluster: str = "slurm") -> None:
        try:
            import submitit
        except ImportError as error:
            raise MissingDependencyError("Submitting jobs", "submitit", "slurm") from error
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self._executor.update_parameters(name="medvqa", **parameters)
        except (RuntimeError, NameError, TypeError, ValueError) as error:
            raise SettingsError(f"submitit cannot submit to '{cluster}': {error}.",
                                "Run it where `sbatch` is installed, and see --submit-option.") from error

    def run(self, tasks: Sequence[Task], report: Callable[[Outcome], None], progress: Progress) -> list[Outcome]:
        """Submit all tasks and wait for them."""
        jobs = {task.name: self._executor.submit(RemoteTask(task)) for task in tasks}
        progress.say(f"Submitted {count(len(jobs), 'job')}: {', '.join(str(job.job_id) for job in jobs.values())}.")
        outcomes: list[Outcome] = []
        try:
            while jobs:
                for name in [name for name, job in jobs.items() if job.done()]:
                    outcomes.append(_collect(name, jobs.pop(name)))
                    report(outcomes[-1])
                time.sleep(POLL_SECONDS)
        except BaseException:
            progress.warn(f"Cancelling {count(len(jobs), 'job')}.")
            for job in jobs.values():
                job.cancel()
            raise
        return outcomes


def _collect(name: str, job: Any) -> Outcome:
    """Return how a job ended; one that the cluster ended has no outcome of its own."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        outcome: Outcome = job.result()
    except (FailedJobError, UncompletedJobError) as error:
        return Outcome(name, 0.0, f"job {job.job_id}", 1, tuple(str(error).strip().splitlines()[-4:]))
    return outcome

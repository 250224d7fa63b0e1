"""Tasks on a Ray cluster: each is one Ray task (an extra). All nodes see the same runs folder and environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import MissingDependencyError, SettingsError
from medvqa_cli.workflows.experiments.cluster import POLL_SECONDS, RemoteTask
from medvqa_cli.workflows.experiments.executors import Outcome, Task
from medvqa_cli.workflows.machine.findings import count

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from medvqa_cli.progress import Progress

STOP_SECONDS = 30.0
"""How long cancelled tasks may take to end their processes."""


def run_remotely(task: RemoteTask) -> Outcome:
    """Run a task where Ray has put it; after a node is lost Ray runs it again, and it goes on from the run folder."""
    return task()


class RayExecutor:
    """Hands every task to Ray and waits for all; after Ctrl-C they are cancelled.

    Args:
        options: "address" of a cluster (else RAY_ADDRESS, a cluster that runs here, or a new one on this machine); the
            others are those of a Ray task, such as num_gpus, num_cpus or max_retries.

    Raises:
        MissingDependencyError: If Ray is not installed.
        SettingsError: If there is no such cluster, or it refuses an option.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingDependencyError("Submitting jobs to Ray", "ray", "ray") from error
        self._ray: Any = ray
        rest = {key: value for key, value in options.items() if key != "address"}
        try:
            self._run = ray.remote(run_remotely).options(**rest)
            if not ray.is_initialized():
                ray.init(address=options.get("address"), log_to_driver=False, configure_logging=False)
        except (RuntimeError, ConnectionError, TypeError, ValueError) as error:
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise SettingsError(f"Ray cannot be submitted to: {text}",
                                "Check --submit-option (address, num_gpus, num_cpus, ...) and `ray status`.") from error

    def run(self, tasks: Sequence[Task], report: Callable[[Outcome], None], progress: Progress) -> list[Outcome]:
        """Submit all tasks and wait for them."""
        waiting = {self._run.remote(RemoteTask(task)): task.name for task in tasks}
        progress.say(f"Submitted {count(len(waiting), 'job')} to Ray.")
        outcomes: list[Outcome] = []
        try:
            while waiting:
                ready, _ = self._ray.wait(list(waiting), num_returns=1, timeout=POLL_SECONDS)
                for reference in ready:
                    outcomes.append(self._collect(waiting.pop(reference), reference))
                    report(outcomes[-1])
        except BaseException:
            self._cancel(list(waiting), progress)
            raise
        finally:
            self._ray.shutdown()
        return outcomes

    def _collect(self, name: str, reference: Any) -> Outcome:
        """Return how a task ended; one that Ray ended has no outcome of its own."""
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return Outcome(name, 0.0, "its Ray task", 1, tuple(str(error).strip().splitlines()[-4:]))
        return outcome

    def _cancel(self, references: list[Any], progress: Progress) -> None:
        """Interrupt the tasks, so that each ends the process it waits for before its worker goes."""
        progress.warn(f"Cancelling {count(len(references), 'job')}.")
        for reference in references:
            self._ray.cancel(reference, force=False)
        self._ray.wait(references, num_returns=len(references), timeout=STOP_SECONDS)

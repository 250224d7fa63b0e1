"""`medvqa sanity-check`: does everything from settings to a trained model's answers work here?"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import MedVQAError, SettingsError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import write_json
from medvqa_cli.workflows.checks.basics import list_basics
from medvqa_cli.workflows.checks.outcome import Check, Listener, find_cause, run_step
from medvqa_cli.workflows.checks.portions import portion_data
from medvqa_cli.workflows.checks.scope import SanityScope, Subject, check_scope, choose_subjects

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from medvqa_cli.settings.schema import Settings
    from medvqa_cli.workflows.checks.bench import Bench

__all__ = ["Check", "SanityReport", "SanityScope", "check_sanity"]
REPORT = "report.json"
DEFAULT = SanityScope()


@dataclass(frozen=True, slots=True)
class SanityReport:
    """What a sanity check found.

    Attributes:
        checks: The outcome of every step, in order: those without a model, then model by model.
        seconds: How long it took.
        peak_memory: Most memory of this process so far, in bytes; None where the system does not say.
        folder: Where everything is kept, if it is.
    """

    checks: tuple[Check, ...]
    seconds: float
    peak_memory: int | None
    folder: Path | None = None

    @property
    def failed(self) -> list[Check]:
        """The steps that found something wrong."""
        return [check for check in self.checks if check.state == "failed"]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {"passed": not self.failed, "checks": [asdict(check) for check in self.checks],
                "seconds": self.seconds, "peak_memory": self.peak_memory,
                "folder": str(self.folder) if self.folder else None}

    def raise_failures(self) -> None:
        """Raise an error that names the failed steps, if there are any.

        Raises:
            MedVQAError: Naming them.
        """
        names: dict[str, list[str]] = {}
        for check in self.failed:
            names.setdefault(check.model, []).append(check.name)
        if names:
            listed = "; ".join(f"{model}: {', '.join(steps)}" if model else ", ".join(steps)
                               for model, steps in names.items())
            raise MedVQAError(f"{len(self.failed)} of {len(self.checks)} checks failed: {listed}.")


def check_sanity(settings: Settings, scope: SanityScope = DEFAULT, *, progress: Progress = SILENT) -> SanityReport:
    """Run the checks and return their outcomes: a failed one hides only those that need it.

    Without a model, those of `scope` are checked, else `settings.model`, else a tiny one; all on the data set of the
    settings, of the demo on a small one.

    Args:
        settings: What is checked.
        scope: Which models and steps, how many questions, and what is kept.
        progress: Where to report.

    Raises:
        SettingsError: If the scope contradicts itself, or its folder is in use.
        PluginError: If a family is unknown.
        ModelError: If the configured model is unknown.
    """
    check_scope(scope)
    subjects = [] if scope.basic else choose_subjects(settings, scope)
    start, checks = time.perf_counter(), []
    with open_folder(scope) as folder:
        kept = folder if scope.output or scope.keep_outputs else None
        for check in _list_outcomes(settings, scope, subjects, folder, progress):
            checks.append(check)
            report = SanityReport(tuple(checks), round(time.perf_counter() - start, 1), read_peak_memory(), kept)
            write_json(folder / REPORT, report.to_json())
    return report


@contextmanager
def open_folder(scope: SanityScope) -> Iterator[Path]:
    """Yield the folder to work in; one that is not kept is removed at the end, however it comes.

    Raises:
        SettingsError: If the named folder is a file or holds something.
    """
    if scope.output is not None:
        if scope.output.exists() and not (scope.output.is_dir() and not any(scope.output.iterdir())):
            raise SettingsError(f"--output-dir '{scope.output}' is in use.", "Name a new or an empty folder.")
        scope.output.mkdir(parents=True, exist_ok=True)
        yield scope.output.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="medvqa-sanity-"))
    try:
        yield folder
    finally:
        if not scope.keep_outputs:
            shutil.rmtree(folder)


def read_peak_memory() -> int | None:
    """Return the most memory that this process has taken so far, in bytes; None on Windows, which does not say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _list_outcomes(settings: Settings, scope: SanityScope, subjects: Sequence[Subject], folder: Path,
                   progress: Progress) -> Iterator[Check]:
    """Yield the outcome of every step, those without a model first."""
    portion = portion_data(settings, scope, folder)
    listener = Listener(SILENT if portion.data.dataset == "demo" else progress)
    done: dict[str, Check] = {}
    for step in list_basics(settings, portion, listener, scope.only):
        done[step.name] = run_step(step, {}, listener)
        yield done[step.name]
    if subjects:
        from medvqa_cli.workflows.checks.bench import Bench

        listener = Listener(SILENT if subjects[0].tiny else progress)
        benches = [Bench(subject, scope, portion, folder / subject.folder, listener) for subject in subjects]
        yield from _check_models(benches, done, progress)


def _check_models(benches: Sequence[Bench], basics: Mapping[str, Check], progress: Progress) -> Iterator[Check]:
    """Yield the outcomes of one model after the other; tiny ones share one bar, others report each job's own."""
    from medvqa_cli.workflows.checks.jobs import list_steps

    tiny = benches[0].subject.tiny
    if tiny:
        progress.start("Checking", len(benches), "model")
    with use_one_thread() if tiny else nullcontext():
        for bench in benches:
            done = dict(basics)
            for step in list_steps(bench):
                if not tiny and not find_cause(step, done):
                    progress.say(f"{bench.subject.name}: {step.name}")
                done[step.name] = run_step(step, done, bench.listener, bench.subject.name)
                yield done[step.name]
            bench.release()
            if tiny:
                progress.advance(note=bench.subject.name)
    progress.finish()


@contextmanager
def use_one_thread() -> Iterator[None]:
    """Let torch use one thread: for tiny models, sharing the work out costs more than the work (twice the time)."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

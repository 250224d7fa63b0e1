"""From settings to what watches a training: trackers that are installed, probes, warnings kept with the run."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from medvqa_cli.settings.schema import to_tree
from medvqa_cli.workflows.engines import build_engine

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from medvqa_cli.models.protocol import LoadedModel
    from medvqa_cli.progress import Progress
    from medvqa_cli.records import JsonlWriter
    from medvqa_cli.runs import Run
    from medvqa_cli.settings.schema import Settings
    from medvqa_cli.training.diagnostics import Diagnostics
    from medvqa_cli.workflows.training_data import TrainingData


def check_tracking(settings: Settings) -> None:
    """Refuse trackers that are not installed, before anything is loaded.

    Raises:
        MissingDependencyError: Naming the package and the extra that brings it.
    """
    if settings.tracking.report_to:
        from medvqa_cli.training.diagnostics.trackers import check_trackers

        check_trackers(settings.tracking.report_to)


def wants_validation(settings: Settings) -> bool:
    """Return whether a training looks at the validation questions: for their loss, or for probes."""
    return bool(settings.train.eval_fraction or settings.tracking.probe_questions)


def build_diagnostics(run: Run, settings: Settings, loaded: LoadedModel, data: TrainingData, *, events: JsonlWriter,
                      progress: Progress,
                      judged: Callable[[], AbstractContextManager[None]] = nullcontext) -> Diagnostics:
    """Return the callback that shows what a training of `loaded` does, its probes answered by the weights `judged`.

    Its engine reads images by an encoder of its own, so that nothing it caches comes into the training.
    """
    from medvqa_cli.training.diagnostics import Diagnostics, Watched
    from medvqa_cli.training.diagnostics.probes import choose_probes

    tracking = settings.tracking
    watched = Watched(directory=run.path, engine=build_engine(loaded, settings), train=data.train,
                      validation=data.validation,
                      probes=choose_probes(data.validation, tracking.probe_questions, settings.seed),
                      probe_tokens=tracking.probe_tokens or settings.infer.max_new_tokens, seed=settings.seed,
                      config=to_tree(settings), judged=judged)
    return Diagnostics(watched, tracking, events, progress, lambda warning: keep_warning(run, warning))


def keep_warning(run: Run, warning: str) -> None:
    """Add a warning to those of the manifest, once."""
    known = run.read_json("manifest.json").get("warnings", [])
    run.update_manifest(warnings=list(dict.fromkeys([*known, warning])))

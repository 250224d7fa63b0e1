"""Calibrators learnt from a run's confidences, or applied to them, and rules to abstain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import DataError, SettingsError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.workflows.data import open_data
from medvqa_cli.workflows.scopes import choose_questions, make_scope

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.evaluation.details import Detail
    from medvqa_cli.runs import Run
    from medvqa_cli.scoring.recalibration import Calibrator, Method
    from medvqa_cli.settings.schema import Settings
    from medvqa_cli.workflows.scopes import Scope


@dataclass(frozen=True, slots=True)
class Recalibration:
    """What is to be done about the confidences: learn a calibrator here, apply one, or neither.

    Args:
        fit: The method to learn by, on this split.
        calibrator: A stored calibrator to apply.
    """

    fit: Method | None = None
    calibrator: Path | None = None


NOTHING = Recalibration()


def read_wanted(fit: str | None, calibrator: str | None) -> Recalibration:
    """Return what was typed for --fit-calibrator and --calibrator.

    Raises:
        SettingsError: If the method is unknown, or both are given.
    """
    from medvqa_cli.scoring.recalibration import METHODS

    if fit is not None and calibrator is not None:
        raise SettingsError("--fit-calibrator and --calibrator exclude each other.",
                            "Fit on validation first, then measure on test with --calibrator.")
    method = next((known for known in METHODS if known == fit), None)
    if fit is not None and method is None:
        raise SettingsError(f"--fit-calibrator is '{fit}'.", f"Choose one of {', '.join(METHODS)}.")
    return Recalibration(method, Path(calibrator) if calibrator else None)


def check_recalibration(settings: Settings, split: str, wanted: Recalibration, progress: Progress = SILENT) -> None:
    """Refuse what cannot be learnt or applied before a model is asked; warn where images are shared.

    Raises:
        SettingsError: If a calibrator is to be learnt from the test split that it will be judged on, or one is to be
            applied to all methods.
        DataError: If the data set has no such split, or the calibrator was learnt by another method or from other
            questions, or cannot be read.
    """
    if wanted.calibrator is not None:
        _check_calibrator(settings, wanted.calibrator, progress)
    if wanted.fit is None:
        return
    if split == settings.data.test_split:
        raise SettingsError(f"A calibrator must not be learnt on the test split '{split}': what it is judged on would "
                            "have taught it.", f"Use --split {settings.data.validation_split}.")
    prepared = open_data(settings, progress)
    if split not in prepared.counts:
        raise DataError(f"The data set '{prepared.name}' has no split '{split}' to learn a calibrator from; it has: "
                        f"{', '.join(prepared.counts)}.",
                        "Name another with --split, but not the test split; a share of training questions the model "
                        "has not seen would do.")
    shared = count_shared_images(settings, split)
    if shared:
        progress.warn(f"{shared} images of split '{split}' are in the test split too: the calibrator has seen part of "
                      "what it will be judged on.")


def _check_calibrator(settings: Settings, path: Path, progress: Progress) -> None:
    from medvqa_cli.evaluation.questions import KINDS, name_kinds
    from medvqa_cli.evaluation.recalibration import check_source
    from medvqa_cli.scoring.recalibration import read_calibrator

    method, questions = settings.calibration.method, choose_questions(settings)
    if method == "all":
        raise SettingsError("--calibrator and --method all exclude each other: a calibrator is for confidences of one "
                            "kind.", "Name the method that it was learnt for.")
    calibrator = read_calibrator(path.expanduser())
    check_source(calibrator, method)
    if not set(calibrator.kinds) & set(KINDS[questions]):
        raise DataError(f"The calibrator '{path}' was learnt from {name_kinds(calibrator.kinds)}: it says nothing "
                        f"about {name_kinds(KINDS[questions])}.",
                        f"Fit one on these: --questions {questions} --fit-calibrator isotonic.")
    warn_of_control(calibrator, settings, progress)


def warn_of_control(calibrator: Calibrator, settings: Settings, progress: Progress) -> None:
    """Warn where a calibrator was learnt from answers to other pictures than the model is shown now."""
    taught, shown = calibrator.provenance.get("control", "off"), settings.infer.shown
    if taught != shown:
        before, now = ("the images" if control == "off" else f"the control {control}" for control in (taught, shown))
        progress.warn(f"The calibrator was learnt from answers to {before}, these are to {now}: the one says little "
                      "about the other.")


def count_shared_images(settings: Settings, split: str) -> int:
    """Return how many images, by id or file, a split shares with the test split."""
    from medvqa_cli.data.prepared.store import read_split

    prepared, test = open_data(settings, SILENT), settings.data.test_split
    if test not in prepared.counts:
        return 0
    own, others = (read_split(prepared.path, name) for name in (split, test))
    files = {file for sample in others for file in sample.images}
    ids = {sample.image_id for sample in others}
    return len({sample.image_id for sample in own if sample.image_id in ids or files.intersection(sample.images)})


def recalibrate_details(run: Run, settings: Settings, scope: Scope, details: list[Detail], summary: dict[str, Any],
                        *, wanted: Recalibration, progress: Progress = SILENT) -> list[Detail]:
    """Add before and after to the summary; return the details, recalibrated where a calibrator is applied."""
    from medvqa_cli.evaluation.questions import name_kinds
    from medvqa_cli.evaluation.recalibration import compare_calibration, describe_calibrator, recalibrate
    from medvqa_cli.scoring.recalibration import read_calibrator

    options: dict[str, Any] = {"num_bins": settings.calibration.bins, "num_samples": summary["num_samples"]}
    if wanted.fit is not None:
        calibrator, folds = _learn(run, settings, scope, details, summary, method=wanted.fit, **options)
        warn_of_fall(calibrator, progress)
        found = {"role": "learnt", "folds": folds is not None}
    elif wanted.calibrator is not None:
        calibrator = read_calibrator(wanted.calibrator.expanduser())
        details = folds = recalibrate(details, calibrator, scope.method)
        found = {"role": "applied", "folds": False, "not_recalibrated": _count_others(calibrator, details, progress)}
    else:
        return details
    found["questions"] = name_kinds(calibrator.kinds)
    compared = compare_calibration(folds, settings.evaluation, seed=settings.seed, **options) if folds else {}
    summary["recalibration"] = found | {"calibrator": describe_calibrator(calibrator)} | compared
    return details


def warn_of_fall(calibrator: Calibrator, progress: Progress) -> None:
    """Warn where the surer answers were the less often right: such a confidence tells nothing."""
    slope = calibrator.curve.parameters.get("a", (1.0,))[0]
    if calibrator.curve.method == "platt" and slope < 0:
        progress.warn("The surer answers are the less often right here: the calibrator turns their order around. The "
                      "other methods keep it, but such a confidence tells little.")


def _count_others(calibrator: Calibrator, details: Sequence[Detail], progress: Progress) -> int:
    """Return how many answers are to questions that the calibrator says nothing about, and say so.

    Raises:
        DataError: If all are.
    """
    from medvqa_cli.evaluation.questions import name_kinds

    others, taught = sum(d.kind not in calibrator.kinds for d in details), name_kinds(calibrator.kinds)
    if others == len(details):
        raise DataError(f"None of {others} answers is to a question of the kind that the calibrator was learnt from: "
                        f"{taught}.", "Fit one on such questions with --fit-calibrator.")
    if others:
        progress.warn(f"{others} of {len(details)} answers are not recalibrated: the calibrator was learnt from "
                      f"{taught} and says nothing about others. Before and after are of the rest.")
    return others


def _learn(run: Run, settings: Settings, scope: Scope, details: list[Detail], summary: dict[str, Any], *,
           method: Method, **options: Any) -> tuple[Calibrator, list[Detail] | None]:
    """Write a calibrator; return it, and the details as calibrators learnt without their image make them."""
    from medvqa_cli.evaluation.recalibration import learn_calibrator, recalibrate_by_folds
    from medvqa_cli.scoring.recalibration import write_calibrator

    by, protocol = settings.calibration.calibrate_by, summary["protocol"]
    options = options | {"source": scope.method, "group_by": "" if by == "none" else by}
    calibrator = learn_calibrator(details, method, **options, provenance={
        "run": run.name, "dataset": protocol["dataset"], "split": protocol["split"], "questions": len(details),
        "asked_for": scope.questions, "control": settings.infer.shown, "images": protocol["images"],
        "shared_images": count_shared_images(settings, protocol["split"]),
        "model": protocol["inference"].get("model")})
    write_calibrator(run.path / scope.calibrator, calibrator)
    return calibrator, recalibrate_by_folds(details, method, seed=settings.seed, **options)


def add_rules(run: Run, settings: Settings, scope: Scope, details: Sequence[Detail], summary: dict[str, Any]) -> None:
    """Add rules to abstain: chosen here unless this is the test split, where those of validation are tried."""
    from medvqa_cli.evaluation.abstention import check_rules, choose_rules

    if scope.split != settings.data.test_split:
        summary["abstention"] = choose_rules(details, settings.calibration.risk, seed=settings.seed)
        return
    validation = settings.data.validation_split
    name = f"{make_scope(settings, validation, scope.method, run).folder}/metrics.json"
    if validation != scope.split and (run.path / name).exists():
        known = run.read_json(name)
        if known.get("abstention"):
            summary["abstention_check"] = check_rules(known["abstention"], details, settings.evaluation,
                                                      seed=settings.seed) | {"chosen_on": validation}

"""Rows of a run to calibration metrics, calibrators and rules to abstain; needs no model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import DataError, RunError, SettingsError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import write_atomically, write_json
from medvqa_cli.workflows.data import open_data
from medvqa_cli.workflows.evaluate import merge_metrics, read_predictions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.evaluation.details import Detail
    from medvqa_cli.records import Prediction
    from medvqa_cli.runs import Run
    from medvqa_cli.scoring.recalibration import Calibrator, Method
    from medvqa_cli.settings.schema import Settings

SUMMARY = ("accuracy", "mean_confidence", "ece", "ece_debiased", "ece_equal_mass", "mce", "overconfidence",
           "underconfidence", "brier", "nll", "auroc", "aurc", "bias_floor", "valid_response_rate", "num_questions",
           "num_samples")


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


def tag_split(settings: Settings, split: str) -> str:
    """Return what is appended to file names for a split: nothing for the test split."""
    return "" if split == settings.data.test_split else f"-{split}"


def check_recalibration(settings: Settings, split: str, wanted: Recalibration, progress: Progress = SILENT) -> None:
    """Refuse to learn a calibrator from what it will be judged on; warn where images are shared.

    Raises:
        SettingsError: If the split is the test split.
        DataError: If the data set has no such split.
    """
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


def measure_confidence(run: Run, settings: Settings, *, split: str | None = None, wanted: Recalibration = NOTHING,
                       progress: Progress = SILENT) -> dict[str, Any]:
    """Measure calibration from a run's rows, write `calibration/` and return the metrics.

    The rows are `samples.jsonl`, or with another `calibration.method` `predictions.jsonl`; those of another split than
    test have its name in theirs, as has the folder. With `wanted.fit` the calibrator is written to
    `calibrator.json`, or `calibrator-METHOD.json`.

    Raises:
        RunError: If there are no rows, or one is damaged or doubled.
        DataError: If no row has a confidence, or a calibrator cannot be learnt or applied.
    """
    from medvqa_cli.evaluation.calibration import summarize_confidence, to_rows
    from medvqa_cli.evaluation.details import list_details

    split, source = split or settings.data.test_split, settings.calibration.method
    name = ("samples" if source == "sampling" else "predictions") + tag_split(settings, split)
    predictions, meta = _read_rows(run, name, split)
    details = list_details(predictions, source)
    num_samples = meta.get("samples", settings.calibration.samples) if source == "sampling" else None
    summary = summarize_confidence(
        details, settings.evaluation, num_bins=settings.calibration.bins, num_samples=num_samples, seed=settings.seed,
        source=source, asked=None if source == "sampling" else _count_closed(predictions))
    summary["protocol"] |= {"dataset": predictions[0].sample.dataset, "split": split, "inference": meta}
    summary["incomplete"] = _warn_incomplete(len(predictions), meta, progress)
    details = _recalibrate(run, settings, details, summary, wanted)
    _add_rules(run, settings, details, summary, split)
    tag = tag_split(settings, split) + ("" if source == "sampling" else f"-{source}")
    folder = run.path / f"calibration{tag}"
    write_json(folder / "metrics.json", summary)
    write_json(folder / "detailed_results.json", to_rows(details))
    write_atomically(folder / "summary.txt", summarize_in_words(summary))
    merge_metrics(run, f"calibration{tag}", summary)
    return summary


def _read_rows(run: Run, name: str, split: str) -> tuple[list[Prediction], dict[str, Any]]:
    predictions = read_predictions(run.path / f"{name}.jsonl")
    found = {prediction.sample.split for prediction in predictions}
    if found != {split}:
        raise RunError(f"'{run.path / name}.jsonl' holds answers to split {', '.join(map(repr, sorted(found)))}, not "
                       f"to '{split}'.", "Name that split with --split, or answer anew with --overwrite.")
    meta = run.path / f"{name}.meta.json"
    return predictions, run.read_json(meta.name) if meta.exists() else {}


def _count_closed(predictions: Sequence[Prediction]) -> int:
    return sum(prediction.sample.answer_type == "closed" for prediction in predictions)


def _warn_incomplete(found: int, meta: dict[str, Any], progress: Progress) -> bool:
    expected = int(meta.get("expected", found))
    if found < expected:
        progress.warn(f"Only {found} of {expected} questions are answered: these are not the final numbers. "
                      "Run the same command again to answer the rest.")
    return found < expected


def _recalibrate(run: Run, settings: Settings, details: list[Detail], summary: dict[str, Any],
                 wanted: Recalibration) -> list[Detail]:
    """Add before and after to the summary; return the details, recalibrated where a calibrator is applied."""
    from medvqa_cli.evaluation.recalibration import compare_calibration, describe_calibrator, recalibrate
    from medvqa_cli.scoring.recalibration import read_calibrator

    options: dict[str, Any] = {"num_bins": settings.calibration.bins, "num_samples": summary["num_samples"]}
    if wanted.fit is not None:
        calibrator, folds = _learn(run, settings, details, summary, method=wanted.fit, **options)
        found = {"role": "learnt", "folds": folds is not None}
    elif wanted.calibrator is not None:
        calibrator = read_calibrator(wanted.calibrator.expanduser())
        details = folds = recalibrate(details, calibrator, settings.calibration.method)
        found = {"role": "applied", "folds": False}
    else:
        return details
    compared = compare_calibration(folds, settings.evaluation, seed=settings.seed, **options) if folds else {}
    summary["recalibration"] = found | {"calibrator": describe_calibrator(calibrator)} | compared
    return details


def _learn(run: Run, settings: Settings, details: list[Detail], summary: dict[str, Any], *, method: Method,
           **options: Any) -> tuple[Calibrator, list[Detail] | None]:
    """Write a calibrator; return it, and the details as calibrators learnt without their image make them."""
    from medvqa_cli.evaluation.recalibration import learn_calibrator, recalibrate_by_folds
    from medvqa_cli.scoring.recalibration import write_calibrator

    source, by = settings.calibration.method, settings.calibration.calibrate_by
    protocol = summary["protocol"]
    options = options | {"source": source, "group_by": "" if by == "none" else by}
    calibrator = learn_calibrator(details, method, **options, provenance={
        "run": run.name, "dataset": protocol["dataset"], "split": protocol["split"], "questions": len(details),
        "images": protocol["images"], "shared_images": count_shared_images(settings, protocol["split"]),
        "model": protocol["inference"].get("model")})
    write_calibrator(run.path / name_calibrator(source), calibrator)
    return calibrator, recalibrate_by_folds(details, method, seed=settings.seed, **options)


def name_calibrator(source: str) -> str:
    """Return the file name of a run's calibrator of confidences of one kind."""
    return "calibrator.json" if source == "sampling" else f"calibrator-{source}.json"


def _add_rules(run: Run, settings: Settings, details: Sequence[Detail], summary: dict[str, Any], split: str) -> None:
    """Add rules to abstain: chosen here unless this is the test split, where those of validation are tried."""
    from medvqa_cli.evaluation.abstention import check_rules, choose_rules

    if split != settings.data.test_split:
        summary["abstention"] = choose_rules(details, settings.calibration.risk, seed=settings.seed)
        return
    source, validation = settings.calibration.method, settings.data.validation_split
    name = f"calibration-{validation}" + ("" if source == "sampling" else f"-{source}") + "/metrics.json"
    if validation != split and (run.path / name).exists():
        known = run.read_json(name)
        if known.get("abstention"):
            summary["abstention_check"] = check_rules(known["abstention"], details, settings.evaluation,
                                                      seed=settings.seed) | {"chosen_on": validation}


def summarize_in_words(summary: dict[str, Any]) -> str:
    """Return the main measures as lines of text, for summary.txt."""
    lines = [f"{name}: {summary[name]:.4f}" if isinstance(summary[name], float) else f"{name}: {summary[name]}"
             for name in SUMMARY]
    change = summary.get("recalibration", {})
    if "after" in change:
        lines.append(f"ece after recalibration ({change['calibrator']['curve']['method']}): "
                     f"{change['after']['ece']:.4f}")
    protocol = summary["protocol"]
    return "\n".join([f"Calibration on {protocol['dataset']}, split {protocol['split']}", *lines]) + "\n"

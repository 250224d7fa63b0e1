"""Rows of a run to calibration metrics; needs no model but one that compares answers, where that is named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import RunError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import write_atomically, write_json
from medvqa_cli.workflows.closed_questions import open_auto_router
from medvqa_cli.workflows.elicitation.inquiry import name_rows
from medvqa_cli.workflows.evaluate import merge_metrics, read_predictions, warn_incomplete
from medvqa_cli.workflows.own_weights import name_own_weights
from medvqa_cli.workflows.recalibrating import NOTHING, Recalibration, add_rules, recalibrate_details
from medvqa_cli.workflows.scopes import Scope, make_scope

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.evaluation.details import Detail
    from medvqa_cli.evaluation.sampled import Reading
    from medvqa_cli.records import Prediction
    from medvqa_cli.runs import Run
    from medvqa_cli.settings.schema import Settings

SUMMARY = ("accuracy", "mean_confidence", "ece", "ece_debiased", "ece_equal_mass", "mce", "overconfidence",
           "underconfidence", "brier", "nll", "auroc", "aurc", "bias_floor", "valid_response_rate", "num_questions",
           "num_samples", "num_unparsed_responses", "questions_without_valid_answer", "questions_without_confidence",
           "method")


def measure_confidence(run: Run, settings: Settings, *, split: str | None = None, wanted: Recalibration = NOTHING,
                       progress: Progress = SILENT) -> dict[str, Any]:
    """Measure calibration from a run's rows, write `calibration/` and return the metrics.

    The rows are `samples.jsonl`, or those of another `calibration.method`: its own file, else `predictions.jsonl`.
    Those of another split than test, of other than yes/no questions, or of a control (blank images and the like) have
    these in their name, as has the folder.
    With `wanted.fit` the calibrator is written to `calibrator.json`, or `calibrator-METHOD.json`.

    Raises:
        RunError: If there are no rows, or one is damaged or doubled.
        DataError: If no row has a confidence, or a calibrator cannot be learnt or applied.
    """
    scope = make_scope(settings, split or settings.data.test_split, run=run)
    return measure_scope(run, settings, scope, wanted=wanted, progress=progress)[0]


def measure_scope(run: Run, settings: Settings, scope: Scope, *, wanted: Recalibration = NOTHING,
                  progress: Progress = SILENT) -> tuple[dict[str, Any], list[Detail]]:
    """Return the metrics that `measure_confidence` writes, and the rows they are made from."""
    from medvqa_cli.evaluation.calibration import summarize_confidence, to_rows
    from medvqa_cli.evaluation.details import SAMPLED, list_details
    from medvqa_cli.evaluation.questions import is_asked_for

    predictions, meta = _read_rows(run, find_rows(run, scope), scope.split)
    reading, clusters = _choose_reading(run, settings, scope, predictions)
    details = list_details(predictions, scope.method, questions=scope.questions, reading=reading)
    is_sampled = scope.method in SAMPLED
    num_samples = meta.get("samples", settings.calibration.samples) if is_sampled else None
    asked = meta.get("asked") or sum(is_asked_for(row.sample, scope.questions) for row in predictions)
    summary = summarize_confidence(
        details, settings.evaluation, num_bins=settings.calibration.bins, num_samples=num_samples, seed=settings.seed,
        source=scope.method, asked=None if is_sampled else asked)
    summary["protocol"] |= {"dataset": predictions[0].sample.dataset, "split": scope.split,
                            "questions": scope.questions, "clusters": clusters, "inference": meta}
    rest = (f"Add the missing rows to '{meta['source']}' and score it again." if "source" in meta
            else "Run the same command again to answer the rest.")
    summary["incomplete"] = warn_incomplete(len(predictions), meta, rest, progress)
    details = recalibrate_details(run, settings, scope, details, summary, wanted=wanted, progress=progress)
    add_rules(run, settings, scope, details, summary)
    folder = run.path / scope.folder
    write_json(folder / "metrics.json", summary)
    write_json(folder / "detailed_results.json", to_rows(details))
    write_atomically(folder / "summary.txt", summarize_in_words(summary))
    merge_metrics(run, scope.folder, summary)
    return summary, details


def find_rows(run: Run, scope: Scope) -> str:
    """Return the name of the file that holds a scope's rows: the method's own, else the answers of `medvqa infer`."""
    own = name_rows(scope.method, scope.tag)
    is_own = scope.method in {"sampling", "entropy", "p_true"} or (run.path / f"{own}.jsonl").exists()
    return own if is_own else scope.stored


def _choose_reading(run: Run, settings: Settings, scope: Scope,
                    predictions: Sequence[Prediction]) -> tuple[Reading, str | None]:
    """Return how sampled answers are read, and in words how those that offer no candidates are clustered."""
    from medvqa_cli.evaluation.questions import classify_question
    from medvqa_cli.evaluation.sampled import PLAIN, Reading

    if scope.method not in {"sampling", "entropy"} or scope.questions == "yes_no":
        return PLAIN, None
    closed = [row.sample for row in predictions if classify_question(row.sample) == "choice"]
    options = {}
    if closed and scope.questions != "open":
        router = open_auto_router(settings, run)
        offers = {sample.question_id: router.route(sample).options for sample in closed}
        options = {name: offered for name, offered in offers.items() if offered}
    named = settings.calibration.cluster_model
    if named is None:
        return Reading(options), "answers are the same that are equal once normalized"
    from medvqa_cli.models.meanings import load_meaning

    meaning, least = load_meaning(named, settings.calibration.cluster_threshold), settings.calibration.cluster_threshold
    rule = f"cosine of at least {least:g}" if meaning.kind == "embedding" else "each entails the other"
    return Reading(options, meaning.compare), f"answers are the same by {rule}, says '{named}'"


def _read_rows(run: Run, name: str, split: str) -> tuple[list[Prediction], dict[str, Any]]:
    predictions = read_predictions(run.path / f"{name}.jsonl")
    found = {prediction.sample.split for prediction in predictions}
    if found != {split}:
        raise RunError(f"'{run.path / name}.jsonl' holds answers to split {', '.join(map(repr, sorted(found)))}, not "
                       f"to '{split}'.", "Name that split with --split, or answer anew with --overwrite.")
    meta = run.path / f"{name}.meta.json"
    return predictions, name_own_weights(run.read_json(meta.name), run) if meta.exists() else {}


def summarize_in_words(summary: dict[str, Any]) -> str:
    """Return the main measures as lines of text, for summary.txt."""
    lines = [f"{name}: {summary[name]:.4f}" if isinstance(summary[name], float) else f"{name}: {summary[name]}"
             for name in SUMMARY]
    change = summary.get("recalibration", {})
    if "after" in change:
        lines.append(f"ece after recalibration ({change['calibrator']['curve']['method']}): "
                     f"{change['after']['ece']:.4f}")
    protocol = summary["protocol"]
    lines += [f"questions: {protocol['questions']}", f"confidence: {protocol['rules']['confidence']}",
              f"correct: {protocol['rules']['correct']}"]
    return "\n".join([f"Calibration on {protocol['dataset']}, split {protocol['split']}", *lines]) + "\n"

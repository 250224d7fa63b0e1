"""`medvqa eval calibration`: a model asked for its confidence, or stored answers, and confidence against truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import SettingsError
from medvqa_cli.evaluation.details import SOURCES, STORED, NoConfidenceError, Source, read_confidence
from medvqa_cli.evaluation.questions import is_asked_for
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import write_json
from medvqa_cli.runs import Run, latest_run, open_run
from medvqa_cli.workflows.confidence import find_rows, measure_scope
from medvqa_cli.workflows.data import load_presented
from medvqa_cli.workflows.elicitation.inquiry import Inquiry, find_obstacle, name_rows, select_questions
from medvqa_cli.workflows.elicitation.rows import elicit
from medvqa_cli.workflows.engines import open_engine
from medvqa_cli.workflows.evaluate import merge_metrics, read_predictions
from medvqa_cli.workflows.infer import check_control
from medvqa_cli.workflows.presentation import apply_control
from medvqa_cli.workflows.recalibrating import NOTHING, Recalibration, check_recalibration
from medvqa_cli.workflows.scopes import Scope, choose_questions, make_scope, tag_answers, tag_questions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medvqa_cli.evaluation.details import Detail
    from medvqa_cli.evaluation.questions import Questions
    from medvqa_cli.settings.schema import Settings

    # A metrics block, and the rows it is made from.
    Measured = tuple[dict[str, Any], list[Detail]]


def evaluate_calibration(settings: Settings, *, run: str | None = None, split: str | None = None,
                         overwrite: bool = False, wanted: Recalibration = NOTHING,
                         progress: Progress = SILENT) -> tuple[Run, dict[str, Any]]:
    """Ask a model for its confidence in its answers to a split, and measure how far it can be trusted.

    Writes the method's rows (`samples.jsonl`, `logits.jsonl`..., resumable) and `calibration/` in the run, which is
    found as `infer_split` finds it. Where answers of `medvqa infer` hold the confidence that `calibration.method` is
    about, they are measured and the model is not asked. Names of files hold split, questions and method where these are
    not test, yes/no and sampling, and what the model is shown where that is not the image as in training: numbers of a
    control (`infer.control`, `infer.blank_images`) lie beside the main ones, never in their place.

    Args:
        settings: All settings; `calibration` says how.
        run: A run's name.
        split: Its default is test; where a calibrator is learnt, validation.
        overwrite: Ask anew what is there.
        wanted: A calibrator to learn or to apply.
        progress: Where to report.

    Returns:
        The run and the metrics block; with method "all" the methods side by side: "own" and "shared" as
        `compare_sources` has them, "left_out" with the reason, "warnings", "folders" and "protocol".

    Raises:
        DataError: If the split holds no such question, or no answer has a confidence of that kind.
        SettingsError: If the engine cannot be asked so.
        MedVQAError: On bad settings, data or model.
    """
    split = split or (settings.data.validation_split if wanted.fit else settings.data.test_split)
    check_recalibration(settings, split, wanted, progress)
    if settings.calibration.method == "all":
        return compare_methods(settings, split, run=run, overwrite=overwrite, wanted=wanted, progress=progress)
    target = None if overwrite else find_stored(settings, split, run, progress)
    if target is None:
        inquiry = open_inquiry(settings, split, run, progress)
        target, scope = inquiry.run, make_scope(settings, split, run=inquiry.run)
        if obstacle := find_obstacle(inquiry.engine, scope.questions, scope.method):
            raise SettingsError(f"calibration.method '{scope.method}' cannot be had: {obstacle}.",
                                "Take another --method (sampling and verbalized work with every engine), or another "
                                "--engine.")
        elicit(inquiry, scope.method, overwrite=overwrite, progress=progress)
    return target, measure_scope(target, settings, make_scope(settings, split, run=target), wanted=wanted,
                                 progress=progress)[0]


def compare_methods(settings: Settings, split: str, *, run: str | None = None, overwrite: bool = False,
                    wanted: Recalibration = NOTHING, progress: Progress = SILENT) -> tuple[Run, dict[str, Any]]:
    """Ask a model in every way it can be asked, measure each, and put them side by side.

    Raises:
        DataError: If the split holds no such question.
        MedVQAError: On bad settings, data or model.
    """
    inquiry = open_inquiry(settings, split, run, progress)
    scopes = {method: make_scope(settings, split, method, inquiry.run) for method in SOURCES}
    first = scopes["sampling"]
    obstacles = {method: find_obstacle(inquiry.engine, first.questions, method) for method in SOURCES}
    left_out = {method: reason for method, reason in obstacles.items() if reason}
    measured: dict[Source, Measured] = {}
    for method in SOURCES:
        if method not in left_out:
            try:
                if method != "entropy":  # its rows are those of sampling
                    elicit(inquiry, method, overwrite=overwrite, progress=progress)
                measured[method] = measure_scope(inquiry.run, settings, scopes[method], wanted=wanted,
                                                 progress=progress)
            except NoConfidenceError as error:
                left_out[method] = f"{error.message} {error.hint}"
    return inquiry.run, _write_comparison(inquiry.run, settings, first, measured, left_out)


def _write_comparison(run: Run, settings: Settings, scope: Scope, measured: dict[Source, Measured],
                      left_out: dict[Source, str]) -> dict[str, Any]:
    from medvqa_cli.evaluation.methods import compare_sources

    options = settings.calibration
    blocks = {method: block for method, (block, _) in measured.items()}
    found = {method: details for method, (_, details) in measured.items()}
    compared = compare_sources(found, settings.evaluation, num_bins=options.bins, num_samples=options.samples,
                               seed=settings.seed)
    protocols = {method: block["protocol"] for method, block in blocks.items()}
    summary = {"method": "all", **compared, "left_out": left_out,
               "warnings": [f"{method}: {text}" for method, block in blocks.items() for text in block["warnings"]],
               "valid_response_rate": {method: block["valid_response_rate"] for method, block in blocks.items()},
               "folders": {method: make_scope(settings, scope.split, method, run).folder for method in blocks},
               "protocol": _join_protocols(list(protocols.values())) | {
                   "confidence": {method: protocol["rules"]["confidence"] for method, protocol in protocols.items()}}}
    write_json(run.path / f"calibration{scope.tag}-methods" / "metrics.json", summary)
    merge_metrics(run, f"confidence_methods{scope.tag}", summary)
    return summary


def _join_protocols(protocols: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what holds for all methods, and how sampled answers are clustered."""
    inference = _find_common([protocol["inference"] | {"created": None} for protocol in protocols])
    return _find_common(protocols) | {
        "rules": _find_common([protocol["rules"] for protocol in protocols]), "inference": inference,
        "clusters": next((protocol["clusters"] for protocol in protocols if protocol["clusters"]), None)}


def _find_common(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the entries that are the same in all."""
    return {key: value for key, value in parts[0].items() if all(part.get(key) == value for part in parts)}


def open_inquiry(settings: Settings, split: str, run: str | None, progress: Progress) -> Inquiry:
    """Return the questions of a split and the model to ask; a fault in the data is found before a model is loaded.

    Raises:
        DataError: If the split holds no such question.
        MedVQAError: On bad settings, data or model.
    """
    questions = choose_questions(settings)
    settings = _admit(settings, questions)
    presented = apply_control(load_presented(settings, split, progress), settings)
    samples = select_questions(presented.samples, questions, split)
    target, engine = open_engine(settings, run, progress)
    check_control(engine, settings)
    tag = f"{tag_answers(settings, split, target)}{tag_questions(questions)}"
    return Inquiry(target, engine, settings, split, questions, samples, tag, presented)


def _admit(settings: Settings, questions: Questions) -> Settings:
    """Return settings that let these questions through and no others: a run may have been trained on others.

    Yes/no questions are chosen among what the settings let through.
    """
    kept = settings.data.question_type
    wanted = questions if questions != "yes_no" else "closed" if kept == "open" else kept
    return settings.model_copy(update={"data": settings.data.model_copy(update={"question_type": wanted})})


def find_stored(settings: Settings, split: str, run: str | None, progress: Progress) -> Run | None:
    """Return the run whose stored answers tell confidence by the method set; None if the model is to be asked.

    Those are used that `medvqa infer` has written, as long as the method has no rows of its own. Of words, half of the
    answers must state a confidence: a number may stand in a reply by chance.

    Raises:
        RunError: If the run is unknown, or the answers are damaged.
    """
    is_stored = settings.calibration.method in STORED and settings.infer.engine != "openai"
    if not is_stored or (run is None and settings.model.name):
        return None
    target = open_run(settings.paths.runs, run) if run else latest_run(settings.paths.runs)
    scope = make_scope(settings, split, run=target)
    name = find_rows(target, scope)
    if name == name_rows(scope.method, scope.tag) or not (target.path / f"{name}.jsonl").exists():
        return None
    rows = [row for row in read_predictions(target.path / f"{name}.jsonl")
            if is_asked_for(row.sample, scope.questions) and row.sample.split == scope.split]
    told = sum(read_confidence(row, scope.method) is not None for row in rows)
    if not told or (scope.method == "verbalized" and 2 * told < len(rows)):
        return None
    progress.say(f"Measuring the answers of {name}.jsonl: {told} of {len(rows)} say how sure they are. To ask the "
                 "model itself, add --overwrite.")
    return target


def sample_split(settings: Settings, split: str, *, run: str | None = None, overwrite: bool = False,
                 progress: Progress = SILENT) -> Run:
    """Draw the answers to a split's questions that are not there yet; return the run that holds them.

    Raises:
        DataError: If the split holds no such question.
        MedVQAError: On bad settings, data or model.
    """
    inquiry = open_inquiry(settings, split, run, progress)
    elicit(inquiry, "sampling", overwrite=overwrite, progress=progress)
    return inquiry.run

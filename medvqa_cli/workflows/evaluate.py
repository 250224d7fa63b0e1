"""`medvqa eval`: rows of a run to metrics; needs no model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import RunError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import Prediction, prediction_from_json, read_jsonl, write_json, write_jsonl
from medvqa_cli.workflows.locks import take_turns
from medvqa_cli.workflows.own_weights import name_own_weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from medvqa_cli.evaluation.answers import Aids
    from medvqa_cli.evaluation.judging import Judge
    from medvqa_cli.runs import Run
    from medvqa_cli.settings.schema import EvaluationSettings, Settings


def evaluate_answers(run: Run, settings: Settings, *, tag: str = "", judge: Judge | None = None,
                     progress: Progress = SILENT) -> dict[str, Any]:
    """Score a run's predictions, write `scores.jsonl`, merge the summary into `metrics.json` and return it.

    Args:
        run: Holds `predictions.jsonl`, or `predictions-TAG.jsonl`.
        settings: `evaluation` and `seed` are used.
        tag: Which predictions.
        judge: Says of each open answer whether it is right; its verdicts are kept in `judgements.jsonl`. Not given:
            the one that `evaluation.judge` names, if any.
        progress: Where to report.

    Raises:
        RunError: If there are no predictions, or a row is damaged or doubled.
        ModelError: If the text encoder cannot be loaded, or the judge's server cannot be reached.
    """
    from medvqa_cli.evaluation.answers import count_answers, score_predictions, summarize_answers
    from medvqa_cli.evaluation.doubts import list_doubts
    from medvqa_cli.evaluation.protocol import describe_inference
    from medvqa_cli.workflows.controls import is_control, measure_controls
    from medvqa_cli.workflows.judge import describe_judge, open_judge

    suffix = f"-{tag}" if tag else ""
    predictions = read_predictions(run.path / f"predictions{suffix}.jsonl")
    judge = judge or open_judge(settings.evaluation, progress)
    aids = _gather_aids(run, predictions, settings.evaluation, judge)
    tables = count_answers(predictions, settings.evaluation, aids)
    summary = summarize_answers(predictions, tables, settings.evaluation, aids=aids, seed=settings.seed)
    meta = _read_meta(run, f"predictions{suffix}")
    summary["baselines"] = meta.pop("baselines", None)
    summary["protocol"] |= describe_inference(meta, len(predictions))
    if settings.evaluation.encoder:
        summary["protocol"]["encoder"] = f"{aids.encoder} ({settings.evaluation.encoder})"
    if settings.evaluation.judge:
        summary["protocol"]["judge"] |= describe_judge(settings.evaluation)
    summary["protocol"]["inference"] = meta
    rest = (f"Add the missing rows to '{meta['source']}' and score it again." if "source" in meta
            else f"Answer the rest with `{name_answering(run.name, tag)}`.")
    summary["incomplete"] = warn_incomplete(len(predictions), meta, rest, progress)
    if not is_control(meta):
        summary["controls"] = measure_controls(run, predictions, settings, tag=tag, progress=progress)
        summary["warnings"] = list_doubts(summary)
    write_jsonl(run.path / f"scores{suffix}.jsonl", score_predictions(predictions, tables))
    merge_metrics(run, "answers", {tag or "main": summary})
    return summary


def _gather_aids(run: Run, predictions: Sequence[Prediction], settings: EvaluationSettings,
                 judge: Judge | None) -> Aids:
    """Return the text encoder that the settings name, and a judge's verdicts on the open answers."""
    from medvqa_cli.evaluation.answers import Aids
    from medvqa_cli.evaluation.judging import Claim, judge_claims

    encode, verdicts = None, None
    if settings.encoder:
        from medvqa_cli.models.text_encoders import load_text_encoder

        encode = load_text_encoder(settings.encoder, settings.encoder_layer)
    if judge:
        places = [place for place, p in enumerate(predictions) if p.sample.answer_type == "open"]
        claims = [Claim(p.sample.question, p.sample.answer, p.answer) for p in map(predictions.__getitem__, places)]
        found = dict(zip(places, judge_claims(claims, judge, run.path / "judgements.jsonl"), strict=True))
        verdicts = [found.get(place) for place in range(len(predictions))]
    return Aids(encode, name_encoder(settings), verdicts, judge.name if judge else "")


def name_encoder(settings: EvaluationSettings) -> str:
    """Return a text encoder's short name with its layer, such as "all-MiniLM-L6-v2:5"; empty without one."""
    layer = f":{settings.encoder_layer}" if settings.encoder_layer else ""
    return settings.encoder.rstrip("/").rsplit("/", 1)[-1] + layer if settings.encoder else ""


def evaluate_samples(run: Run, settings: Settings, *, progress: Progress = SILENT) -> dict[str, Any]:
    """Measure calibration from a run's `samples.jsonl`, write `calibration/` and return the metrics.

    Raises:
        RunError: If there are no samples, or a row is damaged or doubled.
        DataError: If no sampled question is a yes/no question.
    """
    from medvqa_cli.workflows.confidence import measure_confidence

    return measure_confidence(run, settings, progress=progress)


def name_answering(run: str, tag: str = "") -> str:
    """Return the command that gives a run's answers under a tag, which may be that of a control or a split."""
    from medvqa_cli.evaluation.controls import SHOWN

    option = "--control" if tag in SHOWN else "--split" if tag in {"train", "validation"} else "--tag"
    return f"medvqa infer --run {run}" + (f" {option} {tag}" if tag else "")


def read_predictions(path: Path) -> list[Prediction]:
    """Return the rows of a prediction file.

    Raises:
        RunError: If there are none, a row is damaged, or a question is answered twice.
    """
    if not path.exists():
        own, _, tag = path.stem.partition("-")
        maker = (name_answering(path.parent.name, tag) if own == "predictions"
                 else f"medvqa eval calibration --run {path.parent.name}")
        raise RunError(f"Run '{path.parent.name}' has no {path.name}.", f"Make it with `{maker}`.")
    predictions = [_parse(row, path, number) for number, row in enumerate(read_jsonl(path), start=1)]
    if not predictions:
        raise RunError(f"'{path}' is empty.", "Run the stage that writes it again.")
    seen: set[tuple[str, str, str]] = set()
    for prediction in predictions:
        sample = prediction.sample
        key = sample.dataset, sample.split, sample.question_id
        if key in seen:
            raise RunError(f"'{path}' answers question '{sample.question_id}' twice.",
                           "Remove one of the rows, or answer anew with --overwrite.")
        seen.add(key)
    return predictions


def merge_metrics(run: Run, key: str, content: Mapping[str, Any]) -> None:
    """Put results under a key of `metrics.json`; those under other keys, and other tags, are kept.

    Processes that do so at once take turns.

    Raises:
        ValueError: If answers' numbers come without a whole protocol: they are not kept.
    """
    from medvqa_cli.evaluation.protocol import find_gaps

    for tag, block in content.items() if key == "answers" else ():
        if gaps := find_gaps(block.get("protocol") or {}):
            raise ValueError(f"the numbers of '{tag}' do not state how they were made: {', '.join(gaps)}")
    path = run.path / "metrics.json"
    with take_turns(path):
        metrics = run.read_json(path.name) if path.exists() else {}
        kept = metrics.get(key, {}) if key == "answers" else {}
        write_json(path, metrics | {key: {**kept, **content}})


def _parse(row: dict[str, Any], path: Path, number: int) -> Prediction:
    try:
        return prediction_from_json(row)
    except (TypeError, KeyError) as error:
        raise RunError(f"{path}, line {number}: not a prediction ({error}).",
                       "Was the file written by another version? Answer anew with --overwrite.") from error


def _read_meta(run: Run, name: str) -> dict[str, Any]:
    path = run.path / f"{name}.meta.json"
    return name_own_weights(run.read_json(path.name), run) if path.exists() else {}


def warn_incomplete(found: int, meta: Mapping[str, Any], rest: str, progress: Progress) -> bool:
    """Return whether questions have no answer yet, and if so say it, with what to do about the rest."""
    expected = int(meta.get("expected", found))
    if found < expected:
        progress.warn(f"Only {found} of {expected} questions are answered: these are not the final numbers. {rest}")
    return found < expected

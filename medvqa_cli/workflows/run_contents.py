"""What a run's files hold, read for its report."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import RunError
from medvqa_cli.records import read_jsonl

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from medvqa_cli.records import Prediction
    from medvqa_cli.reporting.contents import Contents
    from medvqa_cli.runs import Run

DETAIL_KEYS = ("question_id", "p_yes", "p_no", "yes_count", "no_count")
DETAILS = "detailed_results.json"
MAKERS = {"settings.json": "medvqa train sft", "manifest.json": "medvqa train sft",
          "events.jsonl": "medvqa train sft", "predictions.jsonl": "medvqa infer",
          "metrics.json": "medvqa eval answers", "scores.jsonl": "medvqa eval answers",
          f"calibration/{DETAILS}": "medvqa eval calibration", "analysis.json": "medvqa data analyze"}


def read_contents(run: Run) -> Contents:
    """Return what a run holds.

    Raises:
        RunError: If a file is damaged.
    """
    from medvqa_cli.evaluation.tallies import count_confusion
    from medvqa_cli.reporting.contents import Contents, choose_calibration

    metrics, predictions = read_object(run, "metrics.json"), _read_predictions(run)
    calibration, block = choose_calibration(metrics)
    details = f"{calibration}/{DETAILS}"
    is_of_control = not block and metrics.get(calibration)  # older versions put it where the main one belongs
    rows = [] if is_of_control else _read_rows(run, details, DETAIL_KEYS)
    return Contents(
        name=run.name, settings=read_object(run, "settings.json"), manifest=read_object(run, "manifest.json"),
        events=_read_rows(run, "events.jsonl"), metrics=metrics, analysis=read_object(run, "analysis.json"),
        predictions=predictions, scores=_read_rows(run, "scores.jsonl", ("question_id", "values")),
        details=rows, confusion=count_confusion(predictions.get("main", ())),
        routes=_tally_routes(metrics, predictions.get("main", ())),
        absent={name: f"written by: {maker}" for name, maker in MAKERS.items()
                if not (run.path / (details if name.endswith(DETAILS) else name)).exists()})


def _tally_routes(metrics: Mapping[str, Any], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Return the tally of each route to a closed answer, its intervals drawn as those of the scored answers."""
    from medvqa_cli.evaluation.tallies import tally_routes
    from medvqa_cli.reporting.estimates import read_protocol

    main = metrics.get("answers", {}).get("main")
    drawn = ((read_protocol(main) if main else None) or {}).get("intervals") or {}
    if not {"level", "resamples", "seed"} <= set(drawn):
        return []
    return [asdict(tally) for tally in tally_routes(predictions, level=drawn["level"], resamples=drawn["resamples"],
                                                    seed=drawn["seed"])]


def read_object(run: Run, name: str) -> Mapping[str, Any]:
    """Return one of the run's JSON objects, empty if it is not there.

    Raises:
        RunError: If the file is damaged, or no object.
    """
    content: object = run.read_json(name) if (run.path / name).exists() else {}
    if not isinstance(content, dict):
        raise _refuse(run, name, f"expected an object, found {type(content).__name__}")
    return content


def _read_rows(run: Run, name: str, required: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file, or of a JSON list, each of which must hold the required keys."""
    path = run.path / name
    if not path.exists():
        return []
    content: object = list(read_jsonl(path)) if path.suffix == ".jsonl" else run.read_json(name)
    if not isinstance(content, list):
        raise _refuse(run, name, f"expected a list, found {type(content).__name__}")
    for number, row in enumerate(content, start=1):
        missing = [key for key in required if not isinstance(row, dict) or key not in row]
        if missing:
            raise _refuse(run, name, f"row {number} has no {', '.join(missing)}")
    return content


def _refuse(run: Run, name: str, what: str) -> RunError:
    maker = MAKERS.get(name, MAKERS[f"calibration/{DETAILS}"])
    return RunError(f"{run.path / name}: {what}.", f"Was it written by another version? Make it anew: `{maker}`.")


def _read_predictions(run: Run) -> dict[str, list[Prediction]]:
    """Return predictions by tag; a file without a whole row yet is as good as none."""
    from medvqa_cli.workflows.evaluate import read_predictions

    found: dict[str, list[Prediction]] = {}
    for path in sorted(run.path.glob("predictions*.jsonl")):
        tag = path.stem.removeprefix("predictions").removeprefix("-")
        if next(read_jsonl(path), None) is not None:
            found[tag or "main"] = read_predictions(path)
    return found

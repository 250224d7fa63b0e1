"""`medvqa report`: a run's files to one HTML page and its figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import DataError, RunError, explain_os_error
from medvqa_cli.progress import SILENT, Progress, track
from medvqa_cli.records import read_jsonl, write_atomically
from medvqa_cli.runs import now

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from medvqa_cli.records import Prediction
    from medvqa_cli.reporting.blocks import Section
    from medvqa_cli.reporting.contents import Contents
    from medvqa_cli.reporting.gallery import Entry
    from medvqa_cli.runs import Run

MAX_QUESTIONS = 300
THUMBNAIL_PIXELS = 192
DETAIL_KEYS = ("question_id", "p_yes", "p_no", "yes_count", "no_count")
MAKERS = {"settings.json": "medvqa train sft", "manifest.json": "medvqa train sft",
          "events.jsonl": "medvqa train sft", "predictions.jsonl": "medvqa infer",
          "metrics.json": "medvqa eval answers", "scores.jsonl": "medvqa eval answers",
          "calibration/detailed_results.json": "medvqa eval calibration", "analysis.json": "medvqa data analyze"}


def write_report(run: Run, *, max_questions: int = MAX_QUESTIONS, progress: Progress = SILENT) -> Path:
    """Write `report.html` and `figures/` of a run from its other files and return the page's path.

    Needs no model. What the run does not hold yet is named in the page. Only pictures of the questions shown are read.

    Args:
        run: Any of its files may be absent.
        max_questions: Most questions in the gallery; wrong answers come first.
        progress: Where to report.

    Raises:
        RunError: If a file is damaged or of another version, or the page cannot be written.
    """
    from medvqa_cli.reporting.contents import build_sections, describe_run, list_entries
    from medvqa_cli.reporting.gallery import build_gallery, choose_entries
    from medvqa_cli.reporting.page import Page, render_page

    contents = read_contents(run)
    entries = list_entries(contents)
    shown = choose_entries(entries, max_questions)
    gallery = build_gallery(shown, entries, make_thumbnails(shown, progress)) if entries else None
    progress.start("Writing the report", 1, "page")
    sections = build_sections(contents, gallery)
    html = render_page(Page(run.name, describe_run(contents), now(), sections))
    try:
        _write_figures(run, sections)
        write_atomically(run.report, html)
    except OSError as error:
        raise explain_os_error(error) from error
    progress.advance()
    progress.finish()
    return run.report


def read_contents(run: Run) -> Contents:
    """Return what a run holds.

    Raises:
        RunError: If a file is damaged.
    """
    from medvqa_cli.reporting.contents import Contents

    return Contents(
        name=run.name, settings=_read_object(run, "settings.json"), manifest=_read_object(run, "manifest.json"),
        events=_read_rows(run, "events.jsonl"), metrics=_read_object(run, "metrics.json"),
        analysis=_read_object(run, "analysis.json"), predictions=_read_predictions(run),
        scores=_read_rows(run, "scores.jsonl", ("question_id", "values")),
        details=_read_rows(run, "calibration/detailed_results.json", DETAIL_KEYS),
        absent={name: f"written by: {maker}" for name, maker in MAKERS.items() if not (run.path / name).exists()})


def make_thumbnails(entries: Sequence[Entry], progress: Progress) -> dict[str, bytes]:
    """Return image path -> small JPEG for every distinct picture; one that cannot be read is left out, said aloud."""
    from medvqa_cli.data.images import make_thumbnail

    paths = list(dict.fromkeys(entry.picture for entry in entries if entry.picture))
    thumbnails: dict[str, bytes] = {}
    faults: list[str] = []
    for path in track(paths, progress, "Shrinking pictures", len(paths), "picture"):
        try:
            thumbnails[path] = make_thumbnail(path, THUMBNAIL_PIXELS)
        except DataError as error:
            faults.append(error.message)
    if faults:
        progress.warn(f"{len(faults)} of {len(paths)} pictures are missing in the report; the first: {faults[0]}")
    return thumbnails


def _write_figures(run: Run, sections: Iterable[Section]) -> None:
    from medvqa_cli.reporting.blocks import Plots

    run.figures.mkdir(exist_ok=True)
    for section in sections:
        for block in section.blocks:
            for figure in block.figures if isinstance(block, Plots) else ():
                write_atomically(run.figures / f"{figure.name}.svg", figure.svg)
                part = run.figures / f"{figure.name}.png.part"
                part.write_bytes(figure.png)
                part.replace(run.figures / f"{figure.name}.png")


def _read_object(run: Run, name: str) -> Mapping[str, Any]:
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
    return RunError(f"{run.path / name}: {what}.",
                    f"Was it written by another version? Make it anew: `{MAKERS[name]}`.")


def _read_predictions(run: Run) -> dict[str, list[Prediction]]:
    """Return predictions by tag; a file without a whole row yet is as good as none."""
    from medvqa_cli.workflows.evaluate import read_predictions

    found: dict[str, list[Prediction]] = {}
    for path in sorted(run.path.glob("predictions*.jsonl")):
        tag = path.stem.removeprefix("predictions").removeprefix("-")
        if next(read_jsonl(path), None) is not None:
            found[tag or "main"] = read_predictions(path)
    return found

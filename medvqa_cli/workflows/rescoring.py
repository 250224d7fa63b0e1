"""Answers that are scored again, or were made elsewhere: a file of rows becomes part of a run, and needs no model."""

from __future__ import annotations

import contextlib
import re
import shutil
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.files.tables import read_jsonl_rows
from medvqa_cli.errors import DataError, RunError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import Prediction, write_json, write_jsonl
from medvqa_cli.runs import Run, create_run, list_runs, open_run
from medvqa_cli.settings.schema import to_tree
from medvqa_cli.workflows.data import choose_samples, open_data
from medvqa_cli.workflows.evaluate import read_predictions
from medvqa_cli.workflows.own_weights import place_own_weights

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from medvqa_cli.data.files.fields import Row
    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.schema import Settings

_OWN_NAME = re.compile(r"predictions(?:-(.+))?")
_FORM = 'One JSON object a line, such as {"question_id": "17", "answer": "left lung"}.'


def adopt_predictions(path: Path, settings: Settings, *, run: str | None = None, tag: str = "",
                      split: str | None = None, progress: Progress = SILENT) -> tuple[Run, str]:
    """Make a file of answers part of a run, for `evaluate_answers` to score; return the run and the tag.

    The predictions of a run are taken where they are. Other files are copied: rows as `medvqa infer` writes them need
    nothing else; rows of other tools, {"question_id", "answer"} and if wanted "dataset", "split", "text" (all that was
    written) and "candidates" (answer -> probability), are joined with the questions that `settings.data` selects.
    Questions without a row are counted as missing.

    Args:
        path: JSON lines.
        settings: Where runs are; which data set other tools' rows are about.
        run: Run to copy to; one of its own if not given, the same for the same file.
        tag: Keep the answers beside others of the run.
        split: Of other tools' rows; the test split if not given.
        progress: Where to report.

    Raises:
        RunError: If the file is missing, empty or damaged, or the run holds other answers under the tag.
        DataError: If a row is about a question that is not in the data.
    """
    own = _OWN_NAME.fullmatch(path.stem)
    if run is None and not tag and own and (path.parent / "manifest.json").is_file():
        return Run(path.resolve().parent), own[1] or ""
    predictions, meta = _read(path, settings, split or settings.data.test_split, progress)
    target = open_run(settings.paths.runs, run) if run else _find_or_create(path, settings)
    name = f"predictions-{tag}" if tag else "predictions"
    _check_free(target, name, path, tag)
    write_json(target.path / f"{name}.meta.json", meta | {"source": str(path.resolve())})
    write_jsonl(target.path / f"{name}.jsonl", predictions)
    return target, tag


@contextlib.contextmanager
def drop_on_failure(run: Run, tag: str) -> Iterator[None]:
    """Remove a run that holds brought answers and nothing else if what is done with them fails.

    It would be the latest run with answers, about which other commands are when none is named.
    """
    name = f"predictions-{tag}" if tag else "predictions"
    try:
        yield
    except BaseException:
        brought = {"settings.json", "manifest.json", f"{name}.jsonl", f"{name}.meta.json"}
        if {path.name for path in run.path.iterdir()} <= brought and "scored_from" in run.read_json("manifest.json"):
            shutil.rmtree(run.path)
        raise


def _read(path: Path, settings: Settings, split: str, progress: Progress) -> tuple[list[Prediction], dict[str, Any]]:
    if not path.is_file():
        raise RunError(f"The file '{path}' does not exist.")
    first = next(read_jsonl_rows(path), None)
    if first is None:
        raise RunError(f"'{path}' is empty.", _FORM)
    if "sample" in first.values:
        side = path.with_name(f"{path.stem}.meta.json")
        meta = place_own_weights(Run(path.parent).read_json(side.name), path.parent) if side.exists() else {}
        return read_predictions(path), meta
    samples = choose_samples(settings, split, progress)
    prepared = open_data(settings, SILENT)
    return join_answers(read_jsonl_rows(path), samples), {
        "dataset": prepared.name, "split": split, "fingerprint": prepared.fingerprint,
        "closed_definition": prepared.closed_definition, "language": settings.data.language,
        "question_type": settings.data.question_type, "limit": settings.data.limit, "expected": len(samples)}


def join_answers(rows: Iterable[Row], samples: Sequence[VQASample]) -> list[Prediction]:
    """Return the predictions that another tool's rows are, in the order of the samples.

    Raises:
        RunError: If a row lacks its id or answer, or a question is answered twice.
        DataError: If a row is about none of the samples.
    """
    known = {(sample.dataset, sample.split, sample.question_id): sample for sample in samples}
    home = (samples[0].dataset, samples[0].split)
    found: dict[tuple[str, str, str], Prediction] = {}
    for line in rows:
        row, where = line.values, f"{line.file}, line {line.number}"
        _check_row(row, where)
        key = (str(row.get("dataset", home[0])), str(row.get("split", home[1])), str(row["question_id"]))
        if key not in known:
            raise DataError(f"{where}: question '{key[2]}' of {key[0]}/{key[1]} is not among the {len(samples)} "
                            "selected ones.", "Name the data it is of: --dataset, --split, --language.")
        if key in found:
            raise RunError(f"{where}: question '{key[2]}' is answered twice.", "Remove one of the rows.")
        found[key] = Prediction(sample=known[key], answer=row["answer"], text=str(row.get("text", "")),
                                candidates=row.get("candidates"))
    return [found[key] for key in known if key in found]


def _check_row(row: Mapping[str, Any], where: str) -> None:
    missing = [key for key in ("question_id", "answer") if key not in row]
    if missing:
        raise RunError(f"{where}: there is no '{missing[0]}'.", _FORM)
    if not isinstance(row["answer"], str):
        raise RunError(f"{where}: the answer is {row['answer']!r}, not a text.", _FORM)
    offered = row.get("candidates")
    if offered is not None and not (isinstance(offered, dict) and all(
            isinstance(value, int | float) and 0 <= value <= 1 for value in offered.values())):
        raise RunError(f"{where}: the candidates are {offered!r}.",
                       'Give each answer that was offered its probability: {"yes": 0.8, "no": 0.2}.')


def _find_or_create(path: Path, settings: Settings) -> Run:
    origin = str(path.resolve())
    for run in list_runs(settings.paths.runs):
        if run.read_json("manifest.json").get("scored_from") == origin:
            return run
    slug = re.sub(r"[^a-z0-9._]+", "-", path.stem.lower()).strip("-._") or "answers"
    run = create_run(settings.paths.runs, f"scored-{slug[:50]}")
    write_json(run.settings, to_tree(settings))
    run.update_manifest(scored_from=origin)
    return run


def _check_free(run: Run, name: str, path: Path, tag: str) -> None:
    """Do not replace answers that came from elsewhere."""
    if not (run.path / f"{name}.jsonl").exists():
        return
    side = run.read_json(f"{name}.meta.json") if (run.path / f"{name}.meta.json").exists() else {}
    if side.get("source") != str(path.resolve()):
        raise RunError(f"Run '{run.name}' holds other answers as {name}.jsonl.",
                       "Use another --tag NAME to keep both." if tag else "Use --tag NAME to keep both.")

"""`medvqa eval compare`: several runs' answers to the same questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import SettingsError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import write_json
from medvqa_cli.runs import open_run
from medvqa_cli.workflows.evaluate import read_predictions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.settings.schema import Settings


def compare_runs(settings: Settings, names: Sequence[str], *, slices: Sequence[str] = (), output: Path | None = None,
                 progress: Progress = SILENT) -> dict[str, Any]:
    """Compare each of several systems with the first, on the questions that all of them answered.

    The answers are scored anew, all by the same rules; no model is needed.

    Args:
        settings: `evaluation` and `seed` are used.
        names: Runs, "RUN:TAG" for other answers of a run than its main ones, or files of predictions.
        slices: See `evaluation.comparison.SLICES`.
        output: A JSON file to write the result to.
        progress: Where to report.

    Returns:
        See `evaluation.comparison.compare_answers`; "differences" says in what else than the model two systems differ.

    Raises:
        SettingsError: If fewer than two systems are named, one twice, or a slice is unknown.
        RunError: If a run or its answers are missing.
        DataError: If the systems have no question in common.
    """
    from medvqa_cli.evaluation.comparison import SLICES, Side, compare_answers, describe_differences

    if len(names) < 2 or len(set(names)) < len(names):
        raise SettingsError(f"{len(set(names))} system is named; a comparison takes at least two different ones.",
                            "medvqa eval compare RUN RUN; RUN:TAG names other answers of a run.")
    if unknown := [name for name in slices if name not in SLICES]:
        raise SettingsError(f"'{unknown[0]}' is no slice to compare by.", f"Choose from {', '.join(SLICES)}.")
    files = [find_answers(settings.paths.runs, name) for name in names]
    sides = [Side(name, read_predictions(file)) for name, file in zip(names, files, strict=True)]
    result = compare_answers(sides, settings.evaluation, slices=slices, seed=settings.seed)
    metas = [_read_meta(file) for file in files]
    result["differences"] = {name: describe_differences(metas[0], meta)
                             for name, meta in zip(names[1:], metas[1:], strict=True)}
    for name, number in result["left_out"].items():
        if number:
            progress.warn(f"{number} questions that {name} answered are left out: not every system answered them.")
    if output:
        write_json(output, result)
    return result


def find_answers(runs: Path, name: str) -> Path:
    """Return the file of answers that a run, RUN:TAG or a path names.

    Raises:
        RunError: If there is no such run.
    """
    path = Path(name).expanduser()
    if path.suffix == ".jsonl":
        return path
    run, _, tag = name.partition(":")
    return open_run(runs, run).path / (f"predictions-{tag}.jsonl" if tag else "predictions.jsonl")


def _read_meta(file: Path) -> dict[str, Any]:
    side = file.with_suffix(".meta.json")
    found: dict[str, Any] = json.loads(side.read_text(encoding="utf-8")) if side.is_file() else {}
    return found

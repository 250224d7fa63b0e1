"""Row files of a run: begun, gone on with, put into order, with what went wrong and what it cost beside them."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any, Self

from medvqa_cli.errors import RunError
from medvqa_cli.inference.protocol import AnswerError
from medvqa_cli.records import read_jsonl, write_json, write_jsonl
from medvqa_cli.runs import now
from medvqa_cli.settings.data import KnowledgeSettings, MaskSettings, PromptSettings
from medvqa_cli.settings.schema import to_tree
from medvqa_cli.workflows.asking import group_samples, identify
from medvqa_cli.workflows.locks import hold_rows
from medvqa_cli.workflows.own_weights import name_own_weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from medvqa_cli.inference.protocol import Engine
    from medvqa_cli.progress import Progress
    from medvqa_cli.records import VQASample
    from medvqa_cli.runs import Run
    from medvqa_cli.workflows.asking import Failures

MASK_KEYS = ("mode", "classes", "pad_ratio")
LEDGER_SECONDS = 5.0
NOT_COMPARED = ("expected", "too_long", "baselines", "data_warnings", "presentation")
"""What may change between two calls that answer the same questions in the same way."""


EARLIER = {"engine": "transformers", "option_rotation": 0}
"""What held before it was stated."""


@contextlib.contextmanager
def hold_row_file(run: Run, name: str, meta: dict[str, Any], *, overwrite: bool) -> Iterator[Path]:
    """Yield the path of a row file, which no other process writes meanwhile.

    Its side file says how its rows were made; the two must agree.

    Raises:
        RunError: If rows made in another way are there and `overwrite` is not set, or another process writes them.
    """
    path, side = run.path / f"{name}.jsonl", run.path / f"{name}.meta.json"
    meta = name_own_weights(meta, run)
    with hold_rows(path):
        if overwrite:
            path.unlink(missing_ok=True)
        if side.exists() and path.exists():
            _check_same_job(name_own_weights(run.read_json(side.name), run), meta, path)
        write_json(side, meta | {"created": now()})
        yield path


def leave_out_done(samples: Sequence[VQASample], path: Path, *, by_image: bool = True,
                   portions: Sequence[Sequence[VQASample]] | None = None) -> list[VQASample]:
    """Return the samples that are not answered in a row file yet; `by_image`, those of all images that are not wholly.

    With `by_image` the rows of an image that was under way when the run was killed are dropped: its questions share
    one prefill and one stream of random numbers, so only the whole image gives the same answers again. The same holds
    for `portions`, where more than an image is answered together.
    """
    rows = list(read_jsonl(path)) if path.exists() else []
    done = {_identify_row(row) for row in rows}
    if not by_image:
        return [sample for sample in samples if identify(sample) not in done]
    rest = [sample for group in portions or group_samples(samples) for sample in group
            if any(identify(member) not in done for member in group)]
    again = {identify(sample) for sample in rest} & done
    if again:
        write_jsonl(path, [row for row in rows if _identify_row(row) not in again])
    return rest


def _identify_row(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["sample"]["dataset"], row["sample"]["split"], row["sample"]["question_id"]


def order_rows(path: Path, samples: Sequence[VQASample]) -> None:
    """Put the rows of a file into the order of the samples, if answers came in another."""
    rows = list(read_jsonl(path)) if path.exists() else []
    places = {identify(sample): place for place, sample in enumerate(samples)}
    ordered = sorted(rows, key=lambda row: places.get(_identify_row(row), len(places)))
    if ordered != rows:
        write_jsonl(path, ordered)


def report_failures(path: Path, failures: Failures, progress: Progress) -> None:
    """Write the questions without an answer beside a row file, each with the reason.

    Raises:
        AnswerError: If there are any.
    """
    beside = path.with_suffix(".failures.jsonl")
    if not failures:
        beside.unlink(missing_ok=True)
        return
    write_jsonl(beside, [{"question_id": sample.question_id, "image_id": sample.image_id, "question": sample.question,
                          "reason": error.message, "time": now()} for sample, error in failures])
    sample, first = failures[0]
    progress.warn(f"Question '{sample.question_id}': {first.message}")
    raise AnswerError(f"{len(failures)} questions have no answer; the reasons are in '{beside}'.",
                      "Run the same command again to ask them again; all other answers are kept.")


class Ledger:
    """Adds what an engine counts to what was counted for a row file before; kept on disk every few seconds."""

    def __init__(self, path: Path, engine: Engine) -> None:
        self._path = path.with_suffix(".usage.json")
        self._engine = engine
        goes_on = path.exists() and self._path.exists()
        self._before = json.loads(self._path.read_text(encoding="utf-8")) if goes_on else {}
        self._start = engine.count_usage()
        self._kept = time.monotonic()

    def keep(self) -> None:
        """Write the sums if that was last done some seconds ago."""
        if time.monotonic() - self._kept > LEDGER_SECONDS:
            self._write()

    def _write(self) -> None:
        used = {name: number - self._start.get(name, 0) for name, number in self._engine.count_usage().items()}
        if any(used.values()):
            write_json(self._path, {name: self._before.get(name, 0) + number for name, number in used.items()})
        self._kept = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._write()


def _check_same_job(known: dict[str, Any], meta: dict[str, Any], path: Path) -> None:
    shown = "blank" if known.get("blank_images") else "off"
    known = _upgrade_job(EARLIER | {"control": shown} | known, meta)
    for key, wanted in meta.items():
        if key not in NOT_COMPARED and _canonical(known.get(key)) != _canonical(wanted):
            raise RunError(f"'{path}' holds rows made with another {key}: {known.get(key)!r}, now {wanted!r}.",
                           ("Use --tag NAME to keep both, or --overwrite" if path.name.startswith("predictions")
                            else "Use --overwrite") + " to make the rows anew.")


def _upgrade_job(known: dict[str, Any], meta: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a job in today's form; where an older version did not state one, `meta` is believed."""
    if "instruction" not in known:
        return known
    before = {"prompt": to_tree(PromptSettings(instruction=known["instruction"])),
              "mask": MaskSettings().model_dump(include=set(MASK_KEYS)), "knowledge": to_tree(KnowledgeSettings())}
    return meta | known | before


def _canonical(value: Any) -> str:
    return json.dumps(value, default=str, sort_keys=True)

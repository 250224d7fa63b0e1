"""Rows that pass between stages, and the JSON-lines files they live in.

A stage reads the previous stage's rows and nothing else, so each stage can be rerun alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Literal, Self

from medvqa_cli.errors import RunError

if TYPE_CHECKING:
    from pathlib import Path

AnswerType = Literal["open", "closed"]


@dataclass(frozen=True, slots=True)
class Box:
    """A labelled rectangle in pixels of the source image: x grows to the right, y downwards, x2 and y2 exclusive."""

    label: str
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VQASample:
    """One question about one image (or several, or none), with its gold answer.

    Empty strings and tuples mean "not stated by the data set". Image and mask paths are absolute.
    `answer_probabilities` is the true law of the answer where it is known (synthetic data), summing to 1.
    `history` holds the earlier questions and answers of the same conversation, oldest first; `context` holds lines of
    text put before the question, such as facts from a knowledge graph.
    """

    dataset: str
    split: str
    question_id: str
    image_id: str
    question: str
    answer: str
    answer_type: AnswerType
    images: tuple[str, ...] = ()
    question_type: str = ""
    modality: str = ""
    organ: str = ""
    language: str = "en"
    alternatives: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    masks: tuple[str, ...] = ()
    triples: tuple[tuple[str, str, str], ...] = ()
    scene_graph: Mapping[str, Any] | None = None
    labels: Mapping[str, float] | None = None
    history: tuple[tuple[str, str], ...] = ()
    context: tuple[str, ...] = ()
    output_images: tuple[str, ...] = ()
    answer_probabilities: Mapping[str, float] | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AnswerSample:
    """One distinct sampled answer: how often it was drawn, and its log-probability in nats (temperature 1)."""

    text: str
    count: int
    logprob: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A model's answer to one sample.

    `logprob` is the sum over the answer's tokens, in nats. `candidates` maps each offered answer to its probability
    (summing to 1), `candidate_scores` every form that was offered to its log-probability in nats and its tokens, both
    with the end token; `margin` is how much the answer leads, in nats a token, and `route` how the candidates were
    found (`medvqa_cli.inference.routing`). `text` is what the model wrote, where the answer is only a part of it.
    `confidence` (0-1) is how sure the answer is, recalibrated if a calibrator was named; `abstains` says that this is
    less than was asked for. `attention` names a file. Fields a model does not produce stay empty.
    """

    sample: VQASample
    answer: str
    text: str = ""
    logprob: float | None = None
    num_tokens: int | None = None
    candidates: Mapping[str, float] | None = None
    candidate_scores: Mapping[str, tuple[float, int]] | None = None
    margin: float | None = None
    route: str = ""
    confidence: float | None = None
    abstains: bool = False
    samples: tuple[AnswerSample, ...] = ()
    boxes: tuple[Box, ...] = ()
    attention: str = ""
    output_images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Metric values of one prediction; None where a metric is undefined for it.

    `groups` holds the slices it belongs to, such as {"answer_type": "closed", "modality": "CT"}. Ids are unique within
    `dataset` and `split` only.
    """

    question_id: str
    image_id: str
    groups: Mapping[str, str]
    values: Mapping[str, float | None]
    dataset: str = ""
    split: str = ""


def to_json(record: Any) -> dict[str, Any]:
    """Return a record as a JSON object, leaving out fields that hold their default."""
    row: dict[str, Any] = {}
    for spec in dataclasses.fields(record):
        value = getattr(record, spec.name)
        default = spec.default_factory() if spec.default_factory is not dataclasses.MISSING else spec.default
        if value != default:
            row[spec.name] = _plain(value)
    return row


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_json(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def sample_from_json(row: Mapping[str, Any]) -> VQASample:
    """Rebuild a sample from `to_json`'s object.

    Raises:
        TypeError: If a required field is missing or a field is unknown.
    """
    values = dict(row)
    for name in ("images", "alternatives", "options", "masks", "context", "output_images"):
        if name in values:
            values[name] = tuple(values[name])
    for name in ("triples", "history"):
        if name in values:
            values[name] = tuple(tuple(parts) for parts in values[name])
    if "boxes" in values:
        values["boxes"] = tuple(Box(**box) for box in values["boxes"])
    return VQASample(**values)


def prediction_from_json(row: Mapping[str, Any]) -> Prediction:
    """Rebuild a prediction from `to_json`'s object.

    Raises:
        TypeError: If a required field is missing or a field is unknown.
    """
    values = dict(row)
    values["sample"] = sample_from_json(values["sample"])
    values["samples"] = tuple(AnswerSample(**sample) for sample in values.get("samples", ()))
    values["boxes"] = tuple(Box(**box) for box in values.get("boxes", ()))
    values["output_images"] = tuple(values.get("output_images", ()))
    if values.get("candidate_scores"):
        values["candidate_scores"] = {form: (logprob, tokens)
                                      for form, (logprob, tokens) in values["candidate_scores"].items()}
    return Prediction(**values)


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file; a last line torn by a kill is left out.

    Raises:
        RunError: If the file is missing, or a complete line is not a JSON object (file and line named).
    """
    try:
        stream = path.open("rb")
    except FileNotFoundError as error:
        raise RunError(f"The file '{path}' does not exist.") from error
    with stream:
        for number, line in enumerate(stream, start=1):
            if not line.endswith(b"\n"):
                return
            yield _parse_line(line, path, number)


def _parse_line(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except UnicodeDecodeError as error:
        raise RunError(f"{path}, line {number}: not UTF-8 text (byte 0x{error.object[error.start]:02x}).",
                       "Convert it with: iconv -f ENCODING -t UTF-8.") from error
    except ValueError as error:
        raise RunError(f"{path}, line {number}: not valid JSON ({error}).",
                       "Restore the file, or delete it and run the stage that writes it again.") from error
    if not isinstance(row, dict):
        raise RunError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}.")
    return row


class JsonlWriter:
    """Appends JSON objects to a file, one flushed line each; a torn last line is cut off when the file is opened."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_torn_line(path)
        self._stream: IO[str] = path.open("a", encoding="utf-8")

    def write(self, record: Any) -> None:
        """Append one record (a dataclass of this module) or plain mapping."""
        row = to_json(record) if dataclasses.is_dataclass(record) else record
        self._stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("r+b") as stream:
        content = stream.read()
        stream.truncate(content.rfind(b"\n") + 1)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a kill, sees the old content or the new, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write one JSON document atomically."""
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Write a whole JSON-lines file atomically."""
    rows = (to_json(record) if dataclasses.is_dataclass(record) else record for record in records)
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

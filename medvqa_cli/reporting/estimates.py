"""Numbers as `metrics.json` holds them, checked and typed; a number without a protocol is never returned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medvqa_cli.errors import RunError

BASELINES = {"majority": "Majority answer", "majority_per_question_type": "Majority per question type",
             "same_question_text": "Same question in training"}
ANSWER_TERMS = ("dataset", "split", "languages", "closed_definition", "prompt", "candidates", "decoding", "profiles",
                "rules", "judge", "encoder", "n", "images", "excluded", "intervals")
"""What the protocol of scored answers says (`evaluation.protocol.REQUIRED`); a term may be None: "not stated"."""
CONFIDENCE_TERMS = ("dataset", "split", "n", "images", "rules", "num_bins", "intervals", "inference")
"""What the protocol of a calibration says."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with the interval it lies in and what it rests on; None where it is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    images: int = 0


@dataclass(frozen=True, slots=True)
class Slice:
    """One part of the questions: how well it is answered, and what guessing from the questions alone would give.

    `baselines` are keyed as `BASELINES`; `controls` are the accuracies of the run's other answers, such as "blank".
    """

    name: str
    score: Estimate
    baselines: Mapping[str, float]
    controls: Mapping[str, Estimate]

    @property
    def baseline(self) -> float | None:
        """The majority answer's accuracy: of this question type where that is known."""
        return self.baselines.get("majority_per_question_type", self.baselines.get("majority"))


@dataclass(frozen=True, slots=True)
class Bin:
    """A confidence bin (lower, upper]; accuracy and mean confidence are None where it is empty.

    `low` and `high` are the interval of the accuracy, None where it is not known.
    """

    lower: float
    upper: float
    count: int
    accuracy: float | None
    confidence: float | None
    low: float | None = None
    high: float | None = None


def find_metric(values: Mapping[str, Any], metric: str) -> Any:
    """Return what stands under a metric's name, or under "NAME@PROFILE" with the first profile it was measured under.

    Metrics of older versions have no profile in their key. None if the metric is not there.
    """
    if metric in values:
        return values[metric]
    return next((value for key, value in values.items() if key.startswith(f"{metric}@")), None)


def read_estimate(block: Mapping[str, Any], metric: str) -> Estimate:
    """Return one metric of a block {"n", "images", metric: {"value", "low", "high"}}; undefined if it is not there.

    `metric` is a key, or a name without its profile: see `find_metric`.

    Raises:
        RunError: If the block has another shape.
    """
    try:
        part = find_metric(block, metric) or {"value": None}
        return Estimate(part["value"], part.get("low"), part.get("high"), part.get("n", block["n"]),
                        block["images"])
    except (KeyError, TypeError, AttributeError) as error:
        raise _refuse_shape(f"'{metric}'") from error


def find_gaps(block: Mapping[str, Any], required: Sequence[str] = ANSWER_TERMS) -> list[str]:
    """Return what the protocol of a block leaves unsaid; the numbers of a block with gaps must not be shown.

    Raises:
        RunError: If the block is no object.
    """
    if not isinstance(block, Mapping):
        raise _refuse_shape("a block of metrics")
    protocol = block.get("protocol")
    return [name for name in required if not isinstance(protocol, Mapping) or name not in protocol]


def read_protocol(block: Mapping[str, Any], required: Sequence[str] = ANSWER_TERMS) -> Mapping[str, Any] | None:
    """Return how a block's numbers were measured, or None if that is not said in full: then they must not be shown.

    Raises:
        RunError: If the block is no object.
    """
    if find_gaps(block, required):
        return None
    protocol: Mapping[str, Any] = block["protocol"]
    return protocol


def find_controls(answers: Mapping[str, Mapping[str, Any]], tag: str) -> dict[str, Mapping[str, Any]]:
    """Return the other blocks that are about the same questions: only these may stand beside a block's numbers."""
    return {other: block for other, block in answers.items()
            if other != tag and _name_questions(block) == _name_questions(answers[tag])}


def _name_questions(block: Mapping[str, Any]) -> list[Any]:
    return [block["protocol"].get(key) for key in ("dataset", "split", "n")]


def read_slices(answers: Mapping[str, Mapping[str, Any]], tag: str, group: str) -> list[Slice]:
    """Return the slices of one group, such as "modality", with baselines and the accuracies under the other tags.

    Raises:
        RunError: If the metrics have another shape.
    """
    block = answers[tag]
    parts = block.get("groups", {}).get(group, {})
    known = block.get("baselines") or {}
    found = known if group == "answer_type" else known.get(group, {})
    others = {other: content.get("groups", {}).get(group, {}) for other, content in find_controls(answers, tag).items()}
    return [Slice(name, read_estimate(part, "accuracy"), _drop_unknown(found.get(name, {})),
                  {other: read_estimate(content[name], "accuracy") for other, content in others.items()
                   if name in content})
            for name, part in parts.items()]


def read_ambiguity(answers: Mapping[str, Mapping[str, Any]], tag: str) -> list[Slice]:
    """Return the closed questions with one certain answer and those without apart, where the truth is known.

    Raises:
        RunError: If the metrics have another shape.
    """
    own = answers[tag].get("synthetic") or {}
    parts = {other: block.get("synthetic") or {} for other, block in find_controls(answers, tag).items()}
    return [Slice(kind, read_estimate(own[kind], "accuracy"), {},
                  {other: read_estimate(part[kind], "accuracy") for other, part in parts.items() if kind in part})
            for kind in ("unambiguous", "ambiguous") if kind in own]


def read_bins(block: Mapping[str, Any]) -> list[Bin]:
    """Return a calibration block's bins.

    Raises:
        RunError: If they have another shape.
    """
    try:
        return [Bin(item["bin_lower"], item["bin_upper"], item["bin_size"], item["accuracy"], item["confidence"],
                    item.get("accuracy_low"), item.get("accuracy_high")) for item in block.get("bin_data", ())]
    except (KeyError, TypeError) as error:
        raise _refuse_shape("'bin_data'") from error


def _drop_unknown(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name in BASELINES and value is not None}


def _refuse_shape(what: str) -> RunError:
    return RunError(f"metrics.json is not of this version: {what} is not what it should be.",
                    "Score the run again with `medvqa eval answers` and `medvqa eval calibration`.")

"""A calibrator: a map for all answers, maps for groups of them, and the small JSON file it is kept in."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from medvqa_cli.errors import DataError
from medvqa_cli.records import write_json
from medvqa_cli.scoring.calibration.bins import check_pairs
from medvqa_cli.scoring.recalibration.curves import METHODS, PARAMETERS, Curve, fit_curve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from medvqa_cli.scoring.recalibration.curves import Method

    Floats = NDArray[np.float64]

FORMAT, VERSION = "medvqa-calibrator", 2
ASKED = {"yes_no": ("yes_no",), "closed": ("yes_no", "choice"), "open": ("open",), "all": ("yes_no", "choice", "open")}
"""Questions asked for -> the kinds among them: yes/no, closed otherwise, open."""


@dataclass(frozen=True, slots=True)
class Calibrator:
    """A map for all answers, and for those of some groups a map of their own.

    Args:
        curve: For every answer outside `groups`.
        clip: Confidences are held inside [clip, 1 - clip] where a logarithm is taken.
        kinds: Kinds of the questions that taught it (yes_no, choice, open): it says nothing about answers to others.
        group_by: The sample's field that names its group, such as "modality"; empty: none.
        groups: Group -> its own map.
        source: How the confidences were made, such as "sampling": only such may be recalibrated.
        provenance: Where it was learnt: data set, split, model.
    """

    curve: Curve
    clip: float
    kinds: tuple[str, ...]
    group_by: str = ""
    groups: Mapping[str, Curve] = field(default_factory=dict)
    source: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, confidences: Sequence[float], groups: Sequence[str] | None = None) -> Floats:
        """Return the recalibrated confidences, in 0-1.

        Args:
            confidences: In 0-1.
            groups: Each one's group; an unknown one takes the map for all.

        Raises:
            ValueError: If a confidence is outside [0, 1], or the calibrator needs groups that are not given.
        """
        sure = check_pairs(confidences, [True] * len(confidences))[0]
        if self.groups and groups is None:
            raise ValueError(f"the calibrator needs each answer's {self.group_by}")
        found = self.curve.apply(sure, self.clip)
        for name, curve in self.groups.items():
            rows = np.asarray([group == name for group in groups or ()], bool)
            found[rows] = curve.apply(sure[rows], self.clip)
        return found


def fit_calibrator(method: Method, confidences: Sequence[float], correct: Sequence[bool], *, kinds: Sequence[str],
                   groups: Sequence[str] | None = None, group_by: str = "", min_group: int = 50, clip: float = 1e-4,
                   num_bins: int = 10, source: str = "", provenance: Mapping[str, Any] | None = None) -> Calibrator:
    """Return a map learnt from these answers.

    Args:
        method: See `fit_curve`.
        confidences: In 0-1, one a validation question.
        correct: Whether its answer is right.
        kinds: Kinds of the questions: yes_no, choice, open.
        groups: Its group: each with at least `min_group` answers gets a map of its own.
        group_by: What names the groups.
        min_group: Fewest answers of a group.
        clip: For shares of N samples 1 / (2 N), half the smallest share they can show.
        num_bins: Of the method "histogram".
        source: How the confidences were made.
        provenance: Where they come from.

    Raises:
        DataError: If there are fewer than two answers, or all are right, or all wrong.
        ValueError: If a confidence is outside [0, 1].
    """
    sure, right = check_pairs(confidences, correct)
    if len(sure) < 2 or right.min() == right.max():
        kind = f"{len(sure)} answers" if len(sure) < 2 else f"all {len(sure)} answers are {_name_all(right)}"
        raise DataError(f"A calibrator cannot be learnt: {kind}.",
                        "It needs right and wrong answers: more validation questions (--limit), or another split.")
    names = np.asarray(groups if groups is not None else [""] * len(sure), object)
    curves = {str(name): fit_curve(method, sure[names == name], right[names == name], clip=clip, num_bins=num_bins)
              for name in sorted(set(names) - {""}) if _can_learn(right[names == name], min_group)}
    return Calibrator(fit_curve(method, sure, right, clip=clip, num_bins=num_bins), clip, tuple(kinds), group_by,
                      curves, source, provenance or {})


def _name_all(right: Floats) -> str:
    return "right" if right[0] else "wrong"


def _can_learn(right: Floats, least: int) -> bool:
    return len(right) >= max(least, 2) and bool(right.min() < right.max())


def write_calibrator(path: Path, calibrator: Calibrator) -> None:
    """Write a calibrator as one JSON document."""
    write_json(path, {"format": FORMAT, "version": VERSION, **asdict(calibrator)})


def read_calibrator(path: Path) -> Calibrator:
    """Return the calibrator of a JSON document.

    Raises:
        DataError: If it is missing, or no calibrator that this version can read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"There is no calibrator '{path}'.", FIT) from error
    except (ValueError, OSError) as error:
        raise DataError(f"The calibrator '{path}' cannot be read: {error}.", FIT) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"'{path}' is no calibrator.", FIT)
    if content.get("version") not in (1, VERSION):
        raise DataError(f"The calibrator '{path}' has version '{content.get('version')}': this medvqa reads version "
                        f"{VERSION}.", FIT)
    try:
        return Calibrator(curve=_read_curve(content["curve"]), clip=_check_clip(content["clip"]),
                          kinds=_read_kinds(content, path), group_by=str(content["group_by"]),
                          source=str(content["source"]),
                          groups={str(name): _read_curve(part) for name, part in content["groups"].items()},
                          provenance=dict(content["provenance"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"The calibrator '{path}' is damaged: {error}.", FIT) from error


FIT = "Fit one with `medvqa eval calibration --fit-calibrator isotonic`."


def _read_kinds(content: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Return the kinds of questions; version 1 told what was asked for, and before that sampled yes/no was all.

    Raises:
        DataError: If a file of version 1 does not tell.
    """
    if content["version"] == 1:
        asked = content["provenance"].get("asked_for", "yes_no" if content["source"] == "sampling" else None)
        if asked not in ASKED:
            raise DataError(f"The calibrator '{path}' is of an older version and does not say from which kind of "
                            "questions it was learnt.", FIT)
        return ASKED[asked]
    kinds = tuple(content["kinds"])
    if not kinds or not set(kinds) <= set(ASKED["all"]):
        raise ValueError(f"kinds are {content['kinds']!r}")
    return kinds


def _check_clip(clip: Any) -> float:
    if not 0 < float(clip) < 0.5:
        raise ValueError(f"clip is {clip!r}")
    return float(clip)


def _read_curve(content: Mapping[str, Any]) -> Curve:
    method, parameters = content["method"], content["parameters"]
    if method not in METHODS:
        raise ValueError(f"method is {method!r}")
    found = {name: [float(value) for value in parameters[name]] for name in PARAMETERS[method]}
    curve = Curve(method, found, int(content["n"]))
    if not _is_sound(curve):
        raise ValueError(f"parameters of {method} are {parameters!r}")
    return curve


def _is_sound(curve: Curve) -> bool:
    """Return whether the map has parameters of one length and maps 0-1 into 0-1."""
    values = list(curve.parameters.values())
    if len({len(value) for value in values}) > 1 or not values[0] or not np.all(np.isfinite(values)):
        return False
    if curve.method == "temperature" and values[0][0] <= 0:
        return False
    if curve.method == "isotonic" and np.any(np.diff(values[0]) <= 0):
        return False
    mapped = curve.apply(np.linspace(0, 1, 101), 1e-4)
    return bool(np.all((mapped >= 0) & (mapped <= 1)))

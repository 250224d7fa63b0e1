"""Answers of several systems to the same questions: joined question by question, compared in pairs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import DataError
from medvqa_cli.evaluation.answers import count_answers
from medvqa_cli.scoring.comparisons import adjust_holm
from medvqa_cli.scoring.paired import compare_counts, find_disagreement, measure_effect
from medvqa_cli.scoring.profiles import name_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from medvqa_cli.evaluation.answers import Tables
    from medvqa_cli.records import Prediction, VQASample
    from medvqa_cli.scoring.resampling import Counted
    from medvqa_cli.settings.schema import EvaluationSettings

RESAMPLES = 10_000
MEASURES = {"closed": ("accuracy",), "open": ("exact_match", "token_f1")}
BINARY = ("accuracy", "exact_match")
SLICES = ("question_type", "modality", "organ", "language", "answer_length")
MIN_QUESTIONS = 20
"""A slice of fewer questions is not compared: its test could not find anything."""
RULES = {
    "joined": "by data set, split and question id; questions that not every system answered are left out and counted",
    "difference": "second minus first; percentile bootstrap over images, both systems drawn together",
    "p": "two-sided randomization test that exchanges the two systems' answers image by image",
    "p_holm": "p adjusted by Holm's method over all comparisons listed here",
    "mcnemar": "McNemar's test of questions, exact up to 1,000 disagreements; it takes questions as independent, which "
               "those about one image are not",
    "effect": "g, where a question is right or wrong: Cohen's g, the second system's part of the disagreements less "
              "one half, from -0.5 to 0.5; d elsewhere: Cohen's d of the differences; above 0: the second is better",
}


@dataclass(frozen=True, slots=True)
class Side:
    """A system's answers, under the name it is compared by."""

    name: str
    predictions: Sequence[Prediction]


def compare_answers(sides: Sequence[Side], settings: EvaluationSettings, *, slices: Sequence[str] = (),
                    seed: int = 0) -> dict[str, Any]:
    """Compare each system with the first, on the questions that all of them answered.

    Args:
        sides: At least two; the first is what the others are compared with.
        settings: Profiles, measures and the level of the intervals.
        slices: Some of SLICES: these groups are compared as well.
        seed: Of the draws.

    Returns:
        {"systems": names; "n", "images": common questions; "left_out": {name: its questions that others lack};
        "comparisons": [{"first", "second", "slice", "measure", "n", "images", "first_value", "second_value",
        "difference", "low", "high", "p", "p_holm", "effect", "mcnemar"}]; "protocol": what the numbers mean}.

    Raises:
        DataError: If there is no common question, or two systems were asked different things under one id.
    """
    tables = [{_identify(p.sample): p for p in side.predictions} for side in sides]
    common = [key for key in tables[0] if all(key in table for table in tables[1:])]
    if not common:
        raise DataError(f"{' and '.join(side.name for side in sides)} have no question in common.",
                        "Compare answers to the same split of the same data set.")
    joined = [Side(side.name, [table[key] for key in common]) for side, table in zip(sides, tables, strict=True)]
    for other in joined[1:]:
        _check_same_questions(joined[0], other)
    rows = [row for other in joined[1:] for row in _compare_pair(joined[0], other, settings, slices, seed)]
    for row, adjusted in zip(rows, adjust_holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    samples = [p.sample for p in joined[0].predictions]
    return {"systems": [side.name for side in sides], "n": len(common), "images": len(set(map(_find_image, samples))),
            "left_out": {side.name: len(table) - len(common) for side, table in zip(sides, tables, strict=True)},
            "comparisons": rows,
            "protocol": RULES | {"level": settings.confidence_level, "resamples": RESAMPLES, "seed": seed,
                                 "profiles": list(settings.profiles), "comparisons": len(rows)}}


def _identify(sample: VQASample) -> tuple[str, str, str]:
    return sample.dataset, sample.split, sample.question_id


def _find_image(sample: VQASample) -> tuple[str, str]:
    return sample.dataset, sample.image_id


def _check_same_questions(first: Side, second: Side) -> None:
    for one, other in zip(first.predictions, second.predictions, strict=True):
        for field in ("question", "answer", "image_id"):
            found = [getattr(p.sample, field) for p in (one, other)]
            if found[0] != found[1]:
                raise DataError(f"Question '{one.sample.question_id}' has {field} '{found[0]}' in {first.name} and "
                                f"'{found[1]}' in {second.name}.",
                                "Compare answers to one version of the data; ask one of the systems again.")


def _compare_pair(first: Side, second: Side, settings: EvaluationSettings, slices: Sequence[str],
                  seed: int) -> list[dict[str, Any]]:
    samples = [p.sample for p in first.predictions]
    pair = _Pair((first.name, second.name), [count_answers(side.predictions, settings) for side in (first, second)],
                 [_find_image(sample) for sample in samples], settings.confidence_level, seed)
    rows: list[dict[str, Any]] = []
    for kind, measures in MEASURES.items():
        keys = [name_key(measure, profile) for profile in settings.profiles for measure in measures]
        places = [place for place, sample in enumerate(samples) if sample.answer_type == kind]
        for name, part in _cut(samples, places, kind, slices).items():
            rows.extend(pair.compare(name, part, keys))
    return rows


def _cut(samples: Sequence[VQASample], places: list[int], kind: str, slices: Sequence[str]) -> dict[str, list[int]]:
    """Return the places of all questions of a kind, and of each large enough slice of them, by name."""
    parts: dict[str, list[int]] = {kind: places} if places else {}
    for field in slices:
        found: dict[str, list[int]] = {}
        for place in places:
            if value := find_slice(samples[place], field):
                found.setdefault(f"{kind}, {field} {value}", []).append(place)
        parts |= {name: part for name, part in sorted(found.items()) if len(part) >= MIN_QUESTIONS}
    return parts


def find_slice(sample: VQASample, field: str) -> str:
    """Return which slice of a field a sample is in, empty if none; answers have 1, 2-3 or 4 and more words."""
    if field != "answer_length":
        return str(getattr(sample, field))
    length = len(sample.answer.split())
    return "1 word" if length <= 1 else "2-3 words" if length <= 3 else "4+ words"


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two systems: what every measure counts of their answers to the same questions."""

    names: tuple[str, str]
    tables: Sequence[Tables]
    images: Sequence[tuple[str, str]]
    level: float
    seed: int

    def compare(self, name: str, part: Sequence[int], keys: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield a row for each measure of some questions."""
        chosen = [{key: replace(table[key], rows=table[key].rows[list(part)]) for key in keys if key in table}
                  for table in self.tables]
        images = [self.images[place] for place in part]
        found = compare_counts(chosen[0], chosen[1], images, level=self.level, resamples=RESAMPLES, seed=self.seed)
        for key, measure in found.items():
            difference = measure.difference
            yield {"first": self.names[0], "second": self.names[1], "slice": name, "measure": key, "n": len(part),
                   "images": len(set(images)), "first_value": measure.first, "second_value": measure.second,
                   "difference": difference.value, "low": difference.low, "high": difference.high,
                   "p": measure.p_value, **_measure_effect(key, *(table[key] for table in chosen))}


def _measure_effect(key: str, first: Counted, second: Counted) -> dict[str, Any]:
    """Return the size of an effect; for what is right or wrong, on which questions two systems differ as well."""
    one, other = (counted.combine(counted.rows) for counted in (first, second))
    if key.partition("@")[0] not in BINARY:
        return {"effect": measure_effect((other - one).tolist()), "mcnemar": None}
    found = find_disagreement(one.astype(bool).tolist(), other.astype(bool).tolist())
    return {"effect": found.g, "mcnemar": asdict(found)}


def describe_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return which settings two systems' answers were made with differ, as sentences: a difference may be theirs."""
    shown = "control" if "control" in first and "control" in second else "blank_images"
    keys = ("fingerprint", "prompt", "mask", "knowledge", "closed_candidates", "decoding", "engine", shown,
            "option_rotation")
    return [f"{key} differs" for key in keys
            if key in first and key in second and first[key] != second[key]]

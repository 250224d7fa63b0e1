"""Prediction rows to scores and a summary in which no number stands without its protocol."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from medvqa_cli.evaluation.judging import describe_agreement
from medvqa_cli.evaluation.measures import PARTS, average, count_measures, list_rules
from medvqa_cli.evaluation.protocol import describe_scoring
from medvqa_cli.evaluation.yes_no import RULES, measure_yes_no, read_binary, to_entry
from medvqa_cli.records import Prediction, Score
from medvqa_cli.scoring.bayes import bayes_accuracy
from medvqa_cli.scoring.bertscore import score_bert
from medvqa_cli.scoring.clinical import to_number
from medvqa_cli.scoring.collapse import find_top_answer
from medvqa_cli.scoring.intervals import SHARE
from medvqa_cli.scoring.profiles import name_key
from medvqa_cli.scoring.resampling import Counted, resample_counts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medvqa_cli.scoring.bertscore import Encode
    from medvqa_cli.settings.schema import EvaluationSettings

GROUPS = ("answer_type", "question_type", "modality", "organ", "language")
Tables = dict[str, Counted]


@dataclass(frozen=True, slots=True)
class Aids:
    """What scoring is handed because it needs a model: a text encoder, a judge's verdicts; each with its name.

    `verdicts` has one entry a prediction, None where there is none; closed questions are not judged.
    """

    encode: Encode | None = None
    encoder: str = ""
    verdicts: Sequence[bool | None] | None = None
    judge: str = ""


NO_AIDS = Aids()


def count_answers(predictions: Sequence[Prediction], settings: EvaluationSettings, aids: Aids = NO_AIDS) -> Tables:
    """Return what every measure counts of every prediction, under keys such as "token_f1@medvqa".

    A key ends with the profile that made the texts comparable, with the encoder of a BERTScore, or with the judge.

    Raises:
        SettingsError: If a profile is unknown.
    """
    tables = count_measures(predictions, settings.metrics, settings.profiles)
    if aids.encode is not None:
        scores = score_bert([p.answer for p in predictions],
                            [(p.sample.answer, *p.sample.alternatives) for p in predictions], aids.encode)
        rows = np.asarray([[*(getattr(score, part) for part in PARTS), 1.0] for score in scores])
        tables |= {name_key(f"bertscore_{part}", aids.encoder): Counted(rows, average(column), (-1.0, 1.0))
                   for column, part in enumerate(PARTS)}
    if aids.verdicts is not None:
        rows = np.asarray([[float(verdict or False), float(verdict is not None)] for verdict in aids.verdicts])
        tables[name_key("judged_right", aids.judge)] = Counted(rows, average(0), SHARE)
    return tables


def score_predictions(predictions: Sequence[Prediction], tables: Tables) -> list[Score]:
    """Return one score a prediction: every measure of it alone; None where it does not ask about the question."""
    columns = {key: table.combine(table.rows) for key, table in tables.items()}
    return [_score(prediction, {key: to_number(values[place]) for key, values in columns.items()})
            for place, prediction in enumerate(predictions)]


def _score(prediction: Prediction, values: dict[str, float | None]) -> Score:
    sample, binary = prediction.sample, read_binary(prediction)
    values |= {"parsed": float(binary.answer is not None) if binary else None,
               "best_probability": max(sample.answer_probabilities.values()) if sample.answer_probabilities else None}
    groups = {name: str(getattr(sample, name)) for name in GROUPS if getattr(sample, name)}
    return Score(question_id=sample.question_id, image_id=sample.image_id, dataset=sample.dataset, split=sample.split,
                 groups=groups, values=values)


def summarize_answers(predictions: Sequence[Prediction], tables: Tables, settings: EvaluationSettings, *,
                      aids: Aids = NO_AIDS, seed: int = 0) -> dict[str, Any]:
    """Return overall and grouped metrics with intervals clustered by image, checks, and the protocol.

    Returns:
        {"overall", "closed", "open": block; "groups": {group: {value: block}}; "synthetic"; "checks"; "protocol"};
        a block is {"n", "images", key: {"value", "low", "high"[, "n"]}, "clinical"}: see `measure_yes_no` for the last.
        A value is None where it is undefined; it has an "n" of its own where it is not about all questions, and its
        key is left out where it is about none.

    Raises:
        ValueError: If there are no predictions.
    """
    if not predictions:
        raise ValueError("there is nothing to summarize")
    board = _Board(predictions, tables, settings, seed)
    everything = range(len(predictions))
    by_type = board.part(everything, "answer_type")
    summary: dict[str, Any] = {"overall": board.measure(everything, clinical=False)}
    summary |= {kind: board.measure(by_type[kind]) for kind in ("closed", "open") if kind in by_type}
    summary["groups"] = {name: {value: board.measure(places)
                                for value, places in sorted(board.part(everything, name).items())} for name in GROUPS}
    summary["synthetic"] = board.measure_synthetic(by_type.get("closed", ()))
    summary["checks"] = _check(predictions)
    rules = list_rules(settings.metrics) | (RULES if "clinical" in settings.metrics else {})
    summary["protocol"] = describe_scoring([p.sample for p in predictions], rules, settings,
                                           images=len(set(board.images)), seed=seed)
    summary["protocol"] |= _describe_aids(aids, tables, predictions)
    return summary


class _Board:
    """Predictions with their counts, and the images they are drawn by."""

    def __init__(self, predictions: Sequence[Prediction], tables: Tables, settings: EvaluationSettings,
                 seed: int) -> None:
        self.images = [(p.sample.dataset, p.sample.image_id) for p in predictions]
        self._samples = [p.sample for p in predictions]
        self._binary = [read_binary(p) for p in predictions] if "clinical" in settings.metrics else []
        self._tables, self._settings, self._seed = tables, settings, seed

    def part(self, places: Sequence[int], name: str) -> dict[str, list[int]]:
        """Return the places of each value of a group; those without one are left out."""
        found: dict[str, list[int]] = {}
        for place in places:
            if value := str(getattr(self._samples[place], name)):
                found.setdefault(value, []).append(place)
        return found

    def measure(self, places: Sequence[int], *, clinical: bool = True, only: str = "") -> dict[str, Any]:
        """Return the block of some predictions, or of it what belongs to one measure."""
        images = [self.images[place] for place in places]
        tables = {key: table for key, table in self._tables.items() if not only or key.startswith(f"{only}@")}
        rows = {id(table.rows): table.rows[list(places)] for table in tables.values()}
        chosen = {key: replace(table, rows=rows[id(table.rows)]) for key, table in tables.items()}
        found = resample_counts(chosen, images, level=self._settings.confidence_level,
                                resamples=self._settings.resamples, seed=self._seed)
        block: dict[str, Any] = {"n": len(places), "images": len(set(images))}
        for key, result in found.items():
            if asked := int(chosen[key].rows[:, -1].sum()):
                block[key] = to_entry(result) | ({"n": asked} if asked < len(places) else {})
        return block | (self._measure_binary(places) if clinical and self._binary else {})

    def _measure_binary(self, places: Sequence[int]) -> dict[str, Any]:
        asked = [(answer, self.images[place]) for place in places if (answer := self._binary[place])]
        found = measure_yes_no([answer for answer, _ in asked], [image for _, image in asked], self._settings,
                               self._seed)
        return {"clinical": found} if found else {}

    def measure_synthetic(self, closed: Sequence[int]) -> dict[str, Any] | None:
        """Return accuracy where the truth's law is known: unambiguous and ambiguous apart, and the best possible."""
        known = {place: max(law.values()) for place in closed if (law := self._samples[place].answer_probabilities)}
        if not known:
            return None
        parts = {"unambiguous": [place for place, best in known.items() if best == 1.0],
                 "ambiguous": [place for place, best in known.items() if best != 1.0]}
        return {"bayes_accuracy": bayes_accuracy(self._samples[place] for place in known),
                **{name: self.measure(places, clinical=False, only="accuracy")
                   for name, places in parts.items() if places}}


def _check(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Return how many yes/no answers could be parsed, and whether the model says one thing to everything."""
    binary = [found for found in map(read_binary, predictions) if found]
    tops = {kind: find_top_answer((p.sample.answer, p.answer) for p in predictions if p.sample.answer_type == kind)
            for kind in ("closed", "open")}
    return {"yes_no_questions": len(binary), "yes_no_unparsed": sum(found.answer is None for found in binary),
            "top_answer": {kind: {"answer": top.answer, "share": top.share, "gold_share": top.gold_share}
                           for kind, top in tops.items() if top},
            "collapsed": [kind for kind, top in tops.items() if top and top.is_collapse]}


def _describe_aids(aids: Aids, tables: Mapping[str, Counted], predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Return encoder and judge as a protocol states them; a judge with how far it agrees with exact match."""
    facts: dict[str, Any] = {"encoder": aids.encoder or None}
    if aids.verdicts is not None:
        table = next(table for key, table in tables.items() if key.startswith("exact_match@"))
        pairs = [(verdict, bool(exact)) for verdict, exact, prediction
                 in zip(aids.verdicts, table.combine(table.rows), predictions, strict=True)
                 if prediction.sample.answer_type == "open"]
        facts["judge"] = {"name": aids.judge, "agreement": describe_agreement(
            [verdict for verdict, _ in pairs], [exact for _, exact in pairs])}
    return facts

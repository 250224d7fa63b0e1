"""Trust controls: what is left of a result without the image, and whether answers depend on the question at all."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from medvqa_cli.evaluation.answers import count_answers
from medvqa_cli.evaluation.comparison import MEASURES
from medvqa_cli.evaluation.measures import average
from medvqa_cli.evaluation.yes_no import to_entry
from medvqa_cli.scoring.choices import read_choice
from medvqa_cli.scoring.collapse import MAX_SHARE, MIN_ANSWERS, find_top_answer
from medvqa_cli.scoring.generic import FREQUENT, PICTURE_WORDS, is_generic
from medvqa_cli.scoring.intervals import SHARE
from medvqa_cli.scoring.paired import compare_counts
from medvqa_cli.scoring.profiles import name_key, normalize_answer
from medvqa_cli.scoring.resampling import Counted, resample_counts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from medvqa_cli.records import Prediction, VQASample
    from medvqa_cli.settings.schema import EvaluationSettings

    Answers = Mapping[tuple[str, str, str], Prediction]

SHOWN = {
    "blank": "a uniformly grey picture of the same size",
    "shuffled": "the picture of another image of the split, drawn with the seed, the same for all questions about an "
                "image",
    "shuffled-modality": "the picture of another image of the same modality, drawn with the seed",
    "text-only": "no picture: the question alone",
}
"""What the model sees in each control."""
RULES = {
    "survives": "measure in the control / measure with the image, on the questions answered in both; percentile "
                "bootstrap over images, both drawn together",
    "difference": "control minus image; p: exchanging the two image by image, two-sided",
    "question_text": "accuracy of the most frequent training answer to the same question text",
    "collapse": f"one answer to over {100 * MAX_SHARE:.0f} % of at least {MIN_ANSWERS} closed questions, or open ones, "
                "whose gold answers are not so uniform",
    "empty": "answers without any text",
    "generic": "wrong answers to open questions that only name the picture "
               f"({', '.join(sorted(PICTURE_WORDS))}) or decline (unknown, not sure, ...)",
    "frequent": f"answers to open questions that are among the {FREQUENT} most frequent open training answers, right "
                "or wrong; gold: how many gold answers are",
    "option_order": "questions whose prompt shows options, asked again with these moved on; changed: not every order "
                    "names the same option",
}
"""What the numbers of controls mean."""


def identify(sample: VQASample) -> tuple[str, str, str]:
    """Return what tells a question from all others."""
    return sample.dataset, sample.split, sample.question_id


def compare_control(own: Sequence[Prediction], control: Sequence[Prediction], settings: EvaluationSettings, *,
                    seed: int = 0) -> dict[str, Any]:
    """Return what is left of each measure in a control, on the questions answered both ways.

    Returns:
        {"n", "images", "left_out": questions answered one way only; "closed" and "open", where there are any: {"n",
        "images", KEY: {"own", "control", "survives": {"value", "low", "high"}, "difference": the same, "p"}}}, KEY
        such as "accuracy@medvqa". `survives` is None where nothing was right with the image.

    Raises:
        ValueError: If no question was answered both ways.
    """
    answers: Answers = {identify(p.sample): p for p in control}
    pairs = [(p, answers[identify(p.sample)]) for p in own if identify(p.sample) in answers]
    if not pairs:
        raise ValueError("no question was answered both ways")
    found: dict[str, Any] = {"n": len(pairs), "images": len({_find_image(p.sample) for p, _ in pairs}),
                             "left_out": len(own) + len(control) - 2 * len(pairs)}
    for kind, measures in MEASURES.items():
        chosen = [pair for pair in pairs if pair[0].sample.answer_type == kind]
        keys = [name_key(measure, profile) for profile in settings.profiles for measure in measures]
        if chosen:
            found[kind] = _compare_kind(chosen, keys, settings, seed)
    return found


def _compare_kind(pairs: Sequence[tuple[Prediction, Prediction]], keys: Sequence[str], settings: EvaluationSettings,
                  seed: int) -> dict[str, Any]:
    images = [_find_image(own.sample) for own, _ in pairs]
    bare = settings.model_copy(update={"metrics": ("tokens",)})
    own, control = ({key: table[key] for key in keys if key in table}
                    for table in (count_answers(side, bare) for side in zip(*pairs, strict=True)))
    shares = resample_counts({key: _divide(own[key], control[key]) for key in own}, images,
                             level=settings.confidence_level, resamples=settings.resamples, seed=seed)
    compared = compare_counts(own, control, images, level=settings.confidence_level, resamples=settings.resamples,
                              seed=seed)
    return {"n": len(pairs), "images": len(set(images))} | {
        key: {"own": measure.first, "control": measure.second, "survives": to_entry(shares[key]),
              "difference": to_entry(measure.difference), "p": measure.p_value} for key, measure in compared.items()}


def _divide(own: Counted, control: Counted) -> Counted:
    """Return the statistic control / own; undefined where own is 0."""
    width = own.rows.shape[1]

    def combine(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        top, bottom = control.combine(sums[..., width:]), own.combine(sums[..., :width])
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(bottom > 0, top / bottom, np.nan)

    return Counted(np.concatenate([own.rows, control.rows], axis=1), combine)


def measure_habits(predictions: Sequence[Prediction], settings: EvaluationSettings, *,
                   frequent: Sequence[str] | None = None, seed: int = 0) -> dict[str, Any]:
    """Return how far answers go without the question: prediction collapse, empty, generic and frequent answers.

    Args:
        predictions: The answers.
        settings: Level and resamples of the intervals.
        frequent: The most frequent open training answers, normalized; None where they are not known.
        seed: Of the draws.

    Returns:
        {"collapse": None without closed questions, else {"answer", "share", "gold_share", "n", "is_collapse"};
        "collapse_open": the same of open ones; "empty": {"value", "low", "high", "n"} of all; "generic": the same of
        open ones, None without any; "frequent": None where it cannot be told, else the same with "gold" and "answers"}.
    """
    closed = [p for p in predictions if p.sample.answer_type == "closed"]
    opened = [p for p in predictions if p.sample.answer_type == "open"]
    habits: dict[str, Any] = {"empty": _share([not p.answer.strip() for p in predictions], predictions, settings, seed),
                              "generic": None, "frequent": None}
    habits |= {"collapse": _describe_top(closed), "collapse_open": _describe_top(opened)}
    if not opened:
        return habits
    habits["generic"] = _share([is_generic(p.answer, (p.sample.answer, *p.sample.alternatives)) for p in opened],
                               opened, settings, seed)
    if frequent is not None:
        known = set(frequent)
        told = _share([normalize_answer(p.answer) in known for p in opened], opened, settings, seed)
        gold = sum(normalize_answer(p.sample.answer) in known for p in opened) / len(opened)
        habits["frequent"] = told | {"gold": gold, "answers": list(frequent)}
    return habits


def _describe_top(predictions: Sequence[Prediction]) -> dict[str, Any] | None:
    top = find_top_answer((p.sample.answer, p.answer) for p in predictions)
    return None if top is None else {"answer": top.answer, "share": top.share, "gold_share": top.gold_share,
                                     "n": top.total, "is_collapse": top.is_collapse}


def measure_option_order(orders: Sequence[Sequence[Prediction]], settings: EvaluationSettings, *,
                         seed: int = 0) -> dict[str, Any]:
    """Return how far the order of options decides the answer.

    Args:
        orders: Answers with the options as they are, then with these moved on by 1, 2, ... places; each prediction's
            sample has the options as they were shown. Questions that were not asked with options moved on are left out.
        settings: Level and resamples of the intervals.
        seed: Of the draws.

    Returns:
        {"n": questions, "images", "orders": most orders of a question; "changed": {"value", "low", "high"}, "unnamed":
        share of answers that name no option; "accuracy": [{"moved", "n", "value", "low", "high"}] over the questions
        asked in every order, "spread": its largest difference, None where no question was; "positions": {letter: share
        of the named options that stood there}}.

    Raises:
        ValueError: If no question was asked in two orders.
    """
    tables: list[Answers] = [{identify(p.sample): p for p in predictions} for predictions in orders]
    asked = {key: [table[key] for table in tables if key in table] for key in tables[0]
             if any(key in table for table in tables[1:])}
    if not asked:
        raise ValueError("no question was asked in two orders")
    named = {key: [_name_option(p) for p in answers] for key, answers in asked.items()}
    first = [answers[0] for answers in asked.values()]
    in_all = [answers for answers in asked.values() if len(answers) == len(tables)]
    accuracy = [{"moved": moved, "n": len(in_all), **_share([_is_right(answers[moved]) for answers in in_all],
                                                            [answers[0] for answers in in_all], settings, seed)}
                for moved in range(len(tables))] if in_all else []
    values = [entry["value"] for entry in accuracy]
    texts = [text for answers in named.values() for _, text in answers]
    places = [place for answers in named.values() for place, _ in answers if place is not None]
    return {"n": len(asked), "images": len({_find_image(p.sample) for p in first}),
            "orders": max(map(len, asked.values())),
            "changed": _share([len({text for _, text in answers}) > 1 for answers in named.values()], first, settings,
                              seed),
            "unnamed": 1 - len(places) / len(texts), "accuracy": accuracy,
            "spread": max(values) - min(values) if values else None,
            "positions": {chr(ord("A") + place): places.count(place) / len(places) for place in sorted(set(places))}}


def _name_option(prediction: Prediction) -> tuple[int | None, str]:
    """Return the place of the option that an answer names, and its text; the answer's own if it names none."""
    place = read_choice(prediction.answer, prediction.sample.options)
    return place, normalize_answer(prediction.answer if place is None else prediction.sample.options[place])


def _is_right(prediction: Prediction) -> bool:
    wanted = read_choice(prediction.sample.answer, prediction.sample.options)
    return wanted is not None and read_choice(prediction.answer, prediction.sample.options) == wanted


def _share(flags: Sequence[bool], predictions: Sequence[Prediction], settings: EvaluationSettings,
           seed: int) -> dict[str, Any]:
    """Return the share of flags with its interval over images, and their number."""
    rows = np.asarray([[float(flag), 1.0] for flag in flags])
    found = resample_counts({"share": Counted(rows, average(0), SHARE)}, [_find_image(p.sample) for p in predictions],
                            level=settings.confidence_level, resamples=settings.resamples, seed=seed)
    return asdict(found["share"]) | {"n": len(flags)}


def _find_image(sample: VQASample) -> tuple[str, str]:
    return sample.dataset, sample.image_id

"""Yes/no questions as a clinical test: how often each answer is found, and what it is worth once given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medvqa_cli.scoring.answers import is_yes_no, normalize_answer, parse_yes_no
from medvqa_cli.scoring.clinical import RATIOS, combine_auroc, count_confusion
from medvqa_cli.scoring.intervals import SHARE
from medvqa_cli.scoring.profiles import MEDVQA, name_key
from medvqa_cli.scoring.resampling import Counted, resample_counts, resample_levels

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

    from medvqa_cli.records import Prediction
    from medvqa_cli.settings.schema import EvaluationSettings

LABELS = ("yes", "no")
RULES = {
    "sensitivity": "yes/no questions, each answer in turn as the positive one: found among those whose gold answer it "
                   "is; an answer that says neither is wrong",
    "specificity": "share of the other gold answers that are answered so",
    "ppv": "how often the answer is right where it is given", "npv": "how often the other one is right where given",
    "mcc": "Matthews' correlation; an answer that says neither is a third answer",
    "auroc": "chance that a question whose gold answer it is gets a higher probability than another; from the "
             "probabilities of offered candidates or of sampled answers, never from the answer itself",
}


@dataclass(frozen=True, slots=True)
class BinaryAnswer:
    """A yes/no question as answered; `p_yes` in 0-1, None where nothing gives it."""

    gold: str
    answer: str | None
    p_yes: float | None


def read_binary(prediction: Prediction) -> BinaryAnswer | None:
    """Return what was answered to a yes/no question, or None for another question."""
    sample = prediction.sample
    if sample.answer_type != "closed" or not is_yes_no(sample.answer):
        return None
    return BinaryAnswer(normalize_answer(sample.answer), parse_yes_no(prediction.answer), find_p_yes(prediction))


def find_p_yes(prediction: Prediction) -> float | None:
    """Return p(yes) / (p(yes) + p(no)) by the offered candidates, else by the sampled answers, else None."""
    if prediction.candidates:
        weights = [(text, float(weight)) for text, weight in prediction.candidates.items()]
    else:
        weights = [(sample.text, float(sample.count)) for sample in prediction.samples]
    yes, no = (sum(weight for text, weight in weights if parse_yes_no(text) == label) for label in LABELS)
    return yes / (yes + no) if yes + no > 0 else None


def measure_yes_no(answers: Sequence[BinaryAnswer], images: Sequence[Hashable], settings: EvaluationSettings,
                   seed: int) -> dict[str, Any] | None:
    """Return sensitivity, specificity, PPV, NPV, MCC and AUROC of yes, of no, and their mean; None without questions.

    Returns:
        {"n", "images", "without_probability", "yes", "no", "macro": {key: {"value", "low", "high"}}}; None where a
        value is undefined. AUROC is over the questions that have a probability.
    """
    if not answers:
        return None
    cells = {label: np.asarray([count_confusion(item.gold, item.answer, label) for item in answers], float)
             for label in LABELS}
    tables = {(label, name): Counted(rows, ratio, None if name == "mcc" else SHARE)
              for label, rows in cells.items() for name, ratio in RATIOS.items()}
    both = np.concatenate([cells[label] for label in LABELS], axis=1)
    tables |= {("macro", name): Counted(both, lambda sums, ratio=ratio: _average(sums, ratio))  # type: ignore[misc]
               for name, ratio in RATIOS.items()}
    found = resample_counts(tables, images, level=settings.confidence_level, resamples=settings.resamples, seed=seed)
    known = [place for place, item in enumerate(answers) if item.p_yes is not None]
    block: dict[str, Any] = {"n": len(answers), "images": len(set(images)),
                             "without_probability": len(answers) - len(known)}
    area = _measure_area([answers[place] for place in known], [images[place] for place in known], settings, seed)
    for label in (*LABELS, "macro"):
        block[label] = {name_key(name, MEDVQA.name): to_entry(found[label, name]) for name in RATIOS}
        block[label][name_key("auroc", MEDVQA.name)] = area | {"n": len(known)}
    return block


def to_entry(result: Any) -> dict[str, float | None]:
    """Return a statistic with its bounds as it stands in `metrics.json`."""
    return {"value": result.value, "low": result.low, "high": result.high}


def _average(sums: NDArray[np.float64], ratio: Any) -> NDArray[np.float64]:
    """Return the mean of a ratio over the classes in which it is defined; NaN where it is in none."""
    parts = np.stack([ratio(sums[..., :6]), ratio(sums[..., 6:])])
    known = ~np.isnan(parts)
    with np.errstate(invalid="ignore"):
        return np.where(known.any(axis=0), np.where(known, parts, 0.0).sum(axis=0) / known.sum(axis=0), np.nan)


def _measure_area(answers: Sequence[BinaryAnswer], images: Sequence[Hashable], settings: EvaluationSettings,
                  seed: int) -> dict[str, float | None]:
    """Return the AUROC; with two classes whose probabilities sum to 1 that of no, and the mean, are the same."""
    if not answers:
        return {"value": None, "low": None, "high": None}
    return to_entry(resample_levels([item.p_yes or 0.0 for item in answers], [item.gold == "yes" for item in answers],
                                    combine_auroc, images, level=settings.confidence_level,
                                    resamples=settings.resamples, seed=seed))

"""How much each training question counts in the loss: by the frequency of its class, and by groups that are named."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import DataError
from medvqa_cli.scoring.answers import normalize_answer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.train import TrainSettings

SHOWN = 20
"""Classes described in a manifest, the most frequent ones."""


@dataclass(frozen=True, slots=True)
class LossWeights:
    """What the supervised tokens of a question are multiplied with.

    Attributes:
        field: Field whose classes are balanced; empty: none.
        classes: Class -> weight.
        groups: (field, value) -> weight; those a question belongs to are multiplied.
        scale: Makes the mean over the training questions 1.
    """

    field: str
    classes: Mapping[str, float]
    groups: Mapping[tuple[str, str], float]
    scale: float = 1.0

    def weigh(self, sample: VQASample) -> float:
        """Return the weight of a question, above 0."""
        weight = self.classes[read_class(sample, self.field)] if self.field else 1.0
        named = (value for (field, group), value in self.groups.items() if read_class(sample, field) == group)
        return self.scale * weight * math.prod(named)


def read_class(sample: VQASample, field: str) -> str:
    """Return what a sample is in a field; answers are normalized, so that "Yes." and "yes" are one class."""
    value = str(getattr(sample, field))
    return normalize_answer(value) if field == "answer" else value


def weigh_questions(train: TrainSettings, samples: Sequence[VQASample]) -> LossWeights | None:
    """Return the weights that settings give training questions, or None if all count the same.

    Balanced classes weigh inversely to their number of questions, w_c = n_max / n_c, at most `balance_cap`: all
    weights are then scaled to the mean 1.

    Source:
        King and Zeng 2001, "Logistic Regression in Rare Events Data", section 4.2 (as scikit-learn's "balanced").
        Differs: bounded, since a class of one question would outweigh whole batches.

    Raises:
        DataError: If there is one class alone, or a group without a question.
    """
    if train.balance == "none" and not train.loss_weights:
        return None
    field = "" if train.balance == "none" else train.balance
    classes = balance_classes(samples, field, train.balance_cap) if field else {}
    groups = {_split_group(group): weight for group, weight in train.loss_weights.items()}
    for group in groups:
        _check_group(samples, *group)
    raw = LossWeights(field, classes, groups)
    return LossWeights(field, classes, groups, len(samples) / math.fsum(map(raw.weigh, samples)))


def balance_classes(samples: Sequence[VQASample], field: str, cap: float) -> dict[str, float]:
    """Return the weight of each class of a field, 1 for the most frequent one, `cap` at most.

    Raises:
        DataError: If all samples are of one class.
    """
    numbers = Counter(read_class(sample, field) for sample in samples)
    if len(numbers) == 1:
        raise DataError(f"train.balance is '{field}', but all {len(samples)} training questions are of one class: "
                        f"'{next(iter(numbers))}'.", "Balance by another field, or leave --balance out.")
    most = max(numbers.values())
    return {name: min(most / number, cap) for name, number in numbers.most_common()}


def describe_weights(weights: LossWeights, samples: Sequence[VQASample]) -> dict[str, Any]:
    """Return what a manifest says: the questions of classes and groups and their mean weight; that of all is 1."""
    fields = [weights.field] if weights.field else []
    members: dict[tuple[str, str], list[float]] = defaultdict(list)
    for sample in samples:
        own = {(field, read_class(sample, field)) for field in (*fields, *(field for field, _ in weights.groups))}
        for group in own:
            members[group].append(weights.weigh(sample))
    facts = {group: {"questions": len(found), "weight": round(fmean(found), 4)} for group, found in members.items()}
    classes = [name for field, name in facts if [field] == fields]
    frequent = sorted(classes, key=lambda name: -facts[weights.field, name]["questions"])[:SHOWN]
    return {"balance": weights.field or "none", "classes": len(classes),
            "most_frequent": {name: facts[weights.field, name] for name in frequent},
            "groups": {f"{field}={value}": facts[field, value] | {"factor": factor}
                       for (field, value), factor in weights.groups.items()}}


def check_share(train: TrainSettings, samples: Sequence[VQASample]) -> None:
    """Refuse a share of closed questions where there is but one kind.

    Raises:
        DataError: If no training question is closed, or none is open.
    """
    kinds = Counter(sample.answer_type for sample in samples)
    missing = next((kind for kind in ("closed", "open") if not kinds[kind]), None)
    if train.closed_share is not None and missing:
        raise DataError(f"train.closed_share is {train.closed_share}, but none of the {len(samples)} training "
                        f"questions is {missing}.", "Leave --closed-share out.")


def _split_group(group: str) -> tuple[str, str]:
    field, _, value = group.partition("=")
    return field, normalize_answer(value) if field == "answer" else value


def _check_group(samples: Sequence[VQASample], field: str, value: str) -> None:
    numbers = Counter(read_class(sample, field) for sample in samples)
    if value not in numbers:
        known = ", ".join(f"'{name}'" for name, _ in numbers.most_common(8))
        raise DataError(f"train.loss_weights names '{field}={value}', but no training question is of that group.",
                        f"The most frequent ones of {field} here: {known}.")

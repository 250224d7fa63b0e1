"""How many questions a mask was found for, and how much of their pictures it keeps.

The report of `summarize_outcomes` is one document of plain JSON values:

```
mode, classes      the settings
questions          questions with a picture
hits, hit_rate     those with a region that is not empty, and their share (0-1)
kept_area          mean share of a picture's area that a hit keeps (0-1; null without hits)
modalities         {modality, "unknown" where none is stated: {questions, hits, hit_rate, kept_area}}
sources            {"boxes" | "class map" | "mask folder": hits drawn from it}
fallbacks          hits where no class fitted the rule, so that all were taken
unknown_classes    {class that its label file does not name: pictures that hold it}
privileged, note   true, and why
```
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

LOW_HIT_RATE = 0.05
"""Below this hit rate an evaluation warns."""
NOTE = ("Masks and boxes are annotations of the pictures: a model that is shown only what they mark knows more than "
        "the whole picture tells.")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one question's pictures; `kept_area` is None for a miss."""

    modality: str
    kept_area: float | None = None
    source: str = ""
    is_fallback: bool = False


def summarize_outcomes(outcomes: Iterable[Outcome], mode: str, classes: str,
                       unknown_classes: Mapping[int, int]) -> dict[str, Any]:
    """Return the report on the questions that have a picture."""
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.modality or "unknown"].append(outcome)
    everything = [outcome for group in groups.values() for outcome in group]
    sources = Counter(outcome.source for outcome in everything if outcome.source)
    return {
        "mode": mode, "classes": classes, **_count_hits(everything),
        "modalities": {name: _count_hits(group) for name, group in sorted(groups.items())},
        "sources": dict(sorted(sources.items())),
        "fallbacks": sum(outcome.is_fallback for outcome in everything),
        "unknown_classes": {str(number): count for number, count in sorted(unknown_classes.items())},
        "privileged": True, "note": NOTE,
    }


def _count_hits(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    areas = [outcome.kept_area for outcome in outcomes if outcome.kept_area is not None]
    return {"questions": len(outcomes), "hits": len(areas),
            "hit_rate": len(areas) / len(outcomes) if outcomes else 0.0,
            "kept_area": sum(areas) / len(areas) if areas else None}


def check_hit_rate(report: Mapping[str, Any], required: float) -> None:
    """Refuse to train where too few questions have a mask.

    Args:
        report: What `apply_masks` reported.
        required: The smallest hit rate to train with, 0-1.

    Raises:
        DataError: If the hit rate is smaller.
    """
    if report["hit_rate"] < required:
        raise DataError(f"{_describe(report)}; at least {required:.1%} are required.",
                        "Check where the masks lie, train on whole images with --mask-mode none, or lower "
                        "mask.require_hit_rate.")


def warn_hit_rate(report: Mapping[str, Any]) -> str:
    """Return a warning if hardly any question has a mask, so that nearly all see whole pictures; else an empty text."""
    if report["hit_rate"] >= LOW_HIT_RATE:
        return ""
    return f"{_describe(report)}: the numbers are nearly those of whole images."


def _describe(report: Mapping[str, Any]) -> str:
    groups = [f"{name} {count['hits']} of {count['questions']}" for name, count in report["modalities"].items()]
    return (f"Only {report['hits']} of {report['questions']} questions ({report['hit_rate']:.1%}) have a mask"
            + (f" ({', '.join(groups)})" if len(groups) > 1 else ""))

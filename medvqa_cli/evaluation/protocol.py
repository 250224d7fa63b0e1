"""How numbers were made: what must be said before any of them is kept."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from medvqa_cli.scoring.intervals import METHOD, RULE
from medvqa_cli.scoring.profiles import find_profile

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.schema import EvaluationSettings

REQUIRED = ("dataset", "split", "languages", "closed_definition", "prompt", "candidates", "decoding", "profiles",
            "rules", "judge", "encoder", "n", "images", "excluded", "intervals")
"""What a protocol says; None means that the rows do not tell, and is printed as "not stated"."""


def describe_scoring(samples: Sequence[VQASample], rules: Mapping[str, str], settings: EvaluationSettings, *,
                     images: int, seed: int) -> dict[str, Any]:
    """Return the part of a protocol that the scored rows themselves and the settings tell."""
    kinds: Mapping[str, int] = Counter(sample.answer_type for sample in samples)
    return {
        "dataset": _join(sample.dataset for sample in samples), "split": _join(sample.split for sample in samples),
        "languages": _join(sample.language for sample in samples), "n": len(samples),
        "n_closed": kinds.get("closed", 0), "n_open": kinds.get("open", 0), "images": images,
        "profiles": {name: find_profile(name).rule for name in dict.fromkeys(settings.profiles)},
        "rules": dict(rules), "judge": None, "encoder": None, "excluded": [],
        "intervals": {"method": METHOD, "rule": RULE, "level": settings.confidence_level,
                      "resamples": settings.resamples, "seed": seed},
    }


def describe_inference(meta: Mapping[str, Any], found: int) -> dict[str, Any]:
    """Return the part of a protocol that stands beside the rows: how they were made, and which are not there.

    Args:
        meta: The side file of the rows; empty for rows of which nothing is known.
        found: Number of rows.
    """
    unanswered = meta.get("expected", found) - found
    reasons = {"no answer in the file": unanswered, "too long for the model": meta.get("too_long", 0)}
    excluded = [{"reason": reason, "n": n} for reason, n in reasons.items() if n > 0]
    is_told = "decoding" in meta  # rows of another tool do not tell
    candidates = meta.get("closed_candidates") or ("none: every answer is written freely" if is_told else None)
    return {"closed_definition": meta.get("closed_definition"), "prompt": meta.get("prompt", meta.get("instruction")),
            "candidates": candidates, "decoding": meta.get("decoding"), "excluded": excluded, "inference": dict(meta)}


def find_gaps(protocol: Mapping[str, Any]) -> list[str]:
    """Return what a protocol leaves unsaid; numbers beside it must not be kept."""
    return [name for name in REQUIRED if name not in protocol]


def _join(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))

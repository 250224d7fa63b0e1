"""What stands against a result, in words: it does not need the image, or not even the question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.evaluation.comparison import MEASURES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SEEN = {"blank": "grey pictures", "shuffled": "the pictures of other images",
        "shuffled-modality": "the pictures of other images of the same modality", "text-only": "no picture at all"}
GUESSES = {"majority": "the most frequent training answer",
           "majority_per_question_type": "the most frequent training answer to the question type",
           "same_question_text": "the most frequent training answer to the same question"}
NAMES = {"accuracy": "accuracy", "exact_match": "exact match"}


def list_doubts(summary: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know before a result is believed; empty where nothing speaks against it.

    Args:
        summary: As `summarize_answers` returns it, with "baselines" and, where there are some, "controls".
    """
    return [*_doubt_looking(summary.get("controls") or {}), *_doubt_learning(summary), *_doubt_variety(summary)]


def _doubt_looking(controls: Mapping[str, Any]) -> Iterator[str]:
    """Yield each control in which a result that is not 0 is not surely lower than with the image."""
    for name, control in controls.get("images", {}).items():
        for kind, (measure, *_) in MEASURES.items():
            key, entry = _find(control.get(kind) or {}, measure)
            if not key or not entry["own"] or not _is_kept(entry):
                continue
            low, high = entry["difference"]["low"], entry["difference"]["high"]
            told = "too few images for an interval" if low is None else f"difference {low:+.3f} to {high:+.3f}"
            yield (f"No sign that the model uses the image: with {SEEN[name]} its {kind} {NAMES[measure]} is "
                   f"{entry['control']:.3f}, with the right ones {entry['own']:.3f} ({told}).")


def _is_kept(entry: Mapping[str, Any]) -> bool:
    difference = entry["difference"]
    return bool((difference["value"] if difference["high"] is None else difference["high"]) >= 0)


def _doubt_learning(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield each kind of questions that is answered worse than the training questions' texts alone would."""
    for kind, known in (summary.get("baselines") or {}).items():
        if kind not in MEASURES or not known:
            continue
        key, entry = _find(summary.get(kind) or {}, "accuracy")
        best = max((name for name in GUESSES if known.get(name) is not None), key=known.__getitem__, default=None)
        if key and best and entry["value"] is not None and entry["value"] < known[best]:
            yield (f"The {kind} accuracy of {entry['value']:.3f} lies below what the question's text alone gives: "
                   f"{known[best]:.3f} with {GUESSES[best]}.")


def _doubt_variety(summary: Mapping[str, Any]) -> Iterator[str]:
    checks = summary.get("checks") or {}
    for kind in checks.get("collapsed", ()):
        top = checks["top_answer"][kind]
        said = f"says '{top['answer']}'" if top["answer"] else "says nothing"
        yield f"The model {said} to {100 * top['share']:.0f} % of the {kind} questions, whatever they ask."


def _find(block: Mapping[str, Any], measure: str) -> tuple[str, Mapping[str, Any]]:
    """Return a measure's key under its first profile, with what stands there; empty if it is not there."""
    return next(((key, entry) for key, entry in block.items() if key.startswith(f"{measure}@")), ("", {}))

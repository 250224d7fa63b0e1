"""Which questions the page shows, and what it shows of each."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.blocks import Gallery

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from medvqa_cli.records import Prediction

WRONG_SHARE = 0.6
FILTERS = {"outcome": "Outcome", "type": "Question type", "kind": "Answer type", "modality": "Modality",
           "organ": "Organ", "language": "Language"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One question of the gallery.

    `outcome` is right, wrong or not scored; `basis` says what `confidence` (0-1) is; `others` are further lines about
    it, such as ("Blank images", "no").
    """

    prediction: Prediction
    outcome: str
    confidence: float | None = None
    basis: str = ""
    others: Sequence[tuple[str, str]] = field(default_factory=tuple)

    @property
    def picture(self) -> str:
        """Path of the question's first image, empty if it has none."""
        return next(iter(self.prediction.sample.images), "")


def choose_entries(entries: Sequence[Entry], limit: int) -> list[Entry]:
    """Return at most `limit` entries in their given order: wrong ones first, but right ones keep their share.

    Wrong answers take up to 60 % of the room (more if the others leave some). Which of a kind are taken depends only on
    their ids, so that two reports of one run, or of two runs on the same questions, show the same ones.
    """
    if len(entries) <= limit:
        return list(entries)
    wrong = sorted((entry for entry in entries if entry.outcome == "wrong"), key=_draw)
    rest = sorted((entry for entry in entries if entry.outcome != "wrong"), key=_draw)
    room = max(round(WRONG_SHARE * limit), limit - len(rest))
    kept = {id(entry) for entry in wrong[:room]}
    kept |= {id(entry) for entry in rest[:limit - len(kept)]}
    return [entry for entry in entries if id(entry) in kept]


def _draw(entry: Entry) -> str:
    return hashlib.sha256(entry.prediction.sample.question_id.encode()).hexdigest()


def build_gallery(shown: Sequence[Entry], everything: Sequence[Entry], thumbnails: Mapping[str, bytes]) -> Gallery:
    """Return the gallery of `shown`, chosen from `everything`; `thumbnails` maps image path to file bytes.

    Empty bytes stand for a picture that has no room in the page.
    """
    keys = {path: f"p{number}" for number, path in enumerate(dict.fromkeys(entry.picture for entry in shown))
            if thumbnails.get(path)}
    crowded = {path for path, picture in thumbnails.items() if not picture}
    questions = [_describe(entry, keys, crowded) for entry in shown]
    filters = {name: (label, values) for name, label in FILTERS.items()
               if len(values := sorted({str(question[name]) for question in questions} - {""})) > 1}
    note = _say_shown(shown, everything)
    if crowded:
        number = sum(entry.picture in crowded for entry in shown)
        note += f" {number:,} of them are without their picture: the page would be too large."
    return Gallery(note, questions,
                   {key: embed_picture(thumbnails[path]) for path, key in keys.items()}, filters)


def _describe(entry: Entry, keys: Mapping[str, str], crowded: Container[str]) -> dict[str, Any]:
    sample = entry.prediction.sample
    tags = [sample.question_type, sample.answer_type, sample.modality, sample.organ]
    return {"id": sample.question_id, "question": sample.question, "gold": sample.answer,
            "answer": entry.prediction.answer, "others": [list(other) for other in entry.others],
            "outcome": entry.outcome, "confidence": None if entry.confidence is None else round(entry.confidence, 4),
            "basis": entry.basis, "type": sample.question_type, "kind": sample.answer_type,
            "modality": sample.modality, "organ": sample.organ, "language": sample.language,
            "tags": [tag for tag in dict.fromkeys(tags) if tag],
            "picture": keys.get(entry.picture, ""),
            "absent": _explain_absence(entry, crowded),
            "alt": f"{sample.modality or 'Picture'} {sample.image_id}"}


def _explain_absence(entry: Entry, crowded: Container[str]) -> str:
    if not entry.picture:
        return "This question has no picture."
    return "Left out: the page would be too large." if entry.picture in crowded else "The picture could not be read."


def _say_shown(shown: Sequence[Entry], everything: Sequence[Entry]) -> str:
    chosen, total = Counter(entry.outcome for entry in shown), Counter(entry.outcome for entry in everything)
    if len(shown) == len(everything):
        return f"All {len(everything):,} questions are here."
    parts = [f"{chosen[outcome]:,} of {total[outcome]:,} {outcome}" for outcome in ("wrong", "right", "not scored")
             if total[outcome]]
    return (f"Here are {len(shown):,} of {len(everything):,} questions: {', '.join(parts)}, drawn by their id. Wrong "
            "answers are over-represented on purpose, so do not read a rate off this list.")


def embed_picture(picture: bytes) -> str:
    """Return a picture file (PNG, WebP or JPEG) as a data URI."""
    return f"data:image/{_image_type(picture)};base64,{base64.b64encode(picture).decode()}"


def _image_type(picture: bytes) -> str:
    if picture.startswith(b"\x89PNG"):
        return "png"
    return "webp" if picture[8:12] == b"WEBP" else "jpeg"

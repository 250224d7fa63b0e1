"""Which part of a picture counts: labelled boxes and classes of a map, chosen by their labels, drawn as one region.

A region is a boolean array of the picture's height and width, True where the picture counts. Whatever is drawn has a
label; "" stands for a class without a name. Classes are chosen by label, never by number, so that any label file works.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from medvqa_cli.errors import DataError
from medvqa_cli.records import Box

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from medvqa_cli.records import VQASample

Classes = Literal["all", "disease", "question"]
Window = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels: x to the right, y downwards, x2 and y2 exclusive."""

_DISEASE = re.compile(
    r"\b(?:\w*cancer|\w*carcinoma|\w*sarcoma|\w*blastoma|glioma|lymphoma|melanoma|tumou?r|neoplasm|metasta\w+|polyp|"
    r"\w*edema|nodul\w+|mass|lesion|effusion|pneumonia|\w*thorax|infiltrat\w+|atelectas\w+|\w*megaly|consolidation|"
    r"opacit\w+|opacity|fracture|ha?emorrhage|\w*bleed\w*|ha?ematoma|emphysema|fibrosis|thickening|cyst|abscess|stone|"
    r"calcul\w+|aneurysm|stenosis|hernia|infarct\w*|isch[a]?emi\w+|thrombo\w+|embol\w+|cirrhosis|ulcer|dislocation|"
    r"inflammation|infection|\w+itis|disease|abnormalit\w+|covid\S*|tuberculosis)(?:e?s)?\b", re.IGNORECASE)
"""Words that make a label that of a disease: all of SLAKE's, and the usual findings of radiology."""
_ABNORMALITY = re.compile(r"\babn", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ClassMap:
    """A picture whose grey values are classes: `values` is an integer array [height, width], 0 the background."""

    values: Any
    names: Mapping[int, str]
    numbers: tuple[int, ...]
    """The classes that occur, without the background."""

    @property
    def labels(self) -> set[str]:
        """The labels of the classes that occur."""
        return {self.names.get(number, "") for number in self.numbers}

    def draw(self, labels: Collection[str], size: tuple[int, int]) -> Any:
        """Return the region of the named classes, fitted to a picture of this width and height (nearest neighbour)."""
        import numpy as np

        region = np.isin(self.values, [number for number in self.numbers if self.names.get(number, "") in labels])
        width, height = size
        if region.shape == (height, width):
            return region
        rows = (np.arange(height) * region.shape[0]) // height
        columns = (np.arange(width) * region.shape[1]) // width
        return region[rows[:, None], columns]


@dataclass(frozen=True, slots=True)
class BoxSet:
    """The boxes of a picture."""

    boxes: tuple[Box, ...]

    @property
    def labels(self) -> set[str]:
        """The labels of the boxes."""
        return {box.label for box in self.boxes}

    def draw(self, labels: Collection[str], size: tuple[int, int]) -> Any:
        """Return the region of the named boxes: every pixel that one of them touches.

        Raises:
            DataError: If a side of a box is no finite number.
        """
        import numpy as np

        width, height = size
        region = np.zeros((height, width), dtype=bool)
        for box in self.boxes:
            if box.label in labels and box.x1 < box.x2 and box.y1 < box.y2:
                x1, y1, x2, y2 = _round_out(box)
                region[max(y1, 0):max(y2, 0), max(x1, 0):max(x2, 0)] = True
        return region


def _round_out(box: Box) -> Window:
    if not all(map(math.isfinite, (box.x1, box.y1, box.x2, box.y2))):
        raise DataError(f"A side of the box of '{box.label}' is not finite: {box.x1}, {box.y1}, {box.x2}, {box.y2}.",
                        "This is a fault of the data set's reader.")
    return math.floor(box.x1), math.floor(box.y1), math.ceil(box.x2), math.ceil(box.y2)


def choose_labels(labels: Collection[str], sample: VQASample, classes: Classes) -> tuple[frozenset[str], bool]:
    """Return which of a picture's labels count for a question, and whether none fitted.

    "disease": the diseases, if the question is about an abnormality (its question_type says "abn..."); any other
    question takes all. "question": those that the question names. Where none fits, all count: leaving the picture whole
    instead would tell the model that there is no disease, or that what was asked for is not there.

    Args:
        labels: What the picture holds.
        sample: The question.
        classes: The rule.
    """
    if classes == "disease" and _ABNORMALITY.search(sample.question_type):
        chosen = frozenset(filter(is_disease, labels))
    elif classes == "question":
        chosen = frozenset(label for label in labels if is_named(label, sample.question))
    else:
        return frozenset(labels), False
    return (chosen, False) if chosen else (frozenset(labels), bool(labels))


def is_disease(label: str) -> bool:
    """Tell whether a label names a disease or finding: one of its words does."""
    return bool(_DISEASE.search(label))


def is_named(label: str, question: str) -> bool:
    """Tell whether a question names a label: as a whole word, in either case, in singular or plural (-s, -es).

    "kidney" names the left and the right one, "left kidney" only the left. Chinese has no word boundaries: a
    label in it is named where it stands in the question.
    """
    if not label.isascii():
        return label in question
    return bool(label.strip()) and bool(_compile_name(label).search(question))


@lru_cache(maxsize=4096)
def _compile_name(label: str) -> re.Pattern[str]:
    side, *rest = words = [re.escape(word) for word in label.split()]
    pattern = r"(?<!\w)" + r"\s+".join(words)
    if rest and side.lower() in ("left", "right"):
        pattern = rf"(?:{pattern}|(?<!left\s)(?<!right\s)(?<!\w)" + r"\s+".join(rest) + ")"
    return re.compile(pattern + r"(?:e?s)?(?!\w)", re.IGNORECASE)


def find_window(region: Any, pad_ratio: float) -> Window:
    """Return the smallest rectangle around a region, widened on each side, clipped to the picture.

    Args:
        region: A region with at least one True.
        pad_ratio: Margin on each side, as a share of the rectangle's own width and height; rounded outwards.
    """
    import numpy as np

    (left, right), (top, bottom) = (np.flatnonzero(region.any(axis=axis))[[0, -1]].tolist() for axis in (0, 1))
    across, down = (round(pad_ratio * side, 6) for side in (right + 1 - left, bottom + 1 - top))  # 0.07 * 100 is > 7
    height, width = region.shape
    return (max(math.floor(left - across), 0), max(math.floor(top - down), 0),
            min(math.ceil(right + 1 + across), width), min(math.ceil(bottom + 1 + down), height))


def shift_boxes(boxes: Sequence[Box], window: Window) -> tuple[Box, ...]:
    """Return boxes in the pixels of a crop: moved, clipped, and left out where nothing of them remains."""
    left, top, right, bottom = window
    moved = (Box(box.label, max(box.x1, left) - left, max(box.y1, top) - top, min(box.x2, right) - left,
                 min(box.y2, bottom) - top) for box in boxes)
    return tuple(box for box in moved if box.x1 < box.x2 and box.y1 < box.y2)

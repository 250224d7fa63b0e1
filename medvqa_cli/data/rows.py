"""VQASample to a row of an Arrow table and back, without loss."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import DataError
from medvqa_cli.records import Box, VQASample

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasets import Features

TEXTS = ("dataset", "split", "question_id", "image_id", "question", "answer", "answer_type", "question_type",
         "modality", "organ", "language")
PICTURES = ("images", "masks", "output_images")
LISTS = ("alternatives", "options", "context")
TABLES = ("triples", "history")
MAPPINGS = ("scene_graph", "labels", "answer_probabilities", "extra")
SIDES = ("x1", "y1", "x2", "y2")


def make_features() -> Features:
    """Return the columns of a prepared table.

    Pictures are `datasets.Image` (a path, decoded on access), mappings are JSON text, None stays null.
    """
    from datasets import Features, Image, List, Value

    text = Value("string")
    box = {"label": text, **dict.fromkeys(SIDES, Value("float64"))}
    return Features({
        **dict.fromkeys(TEXTS, text),
        **{name: List(Image()) for name in PICTURES},
        **dict.fromkeys(LISTS, List(text)),
        "boxes": List(box),
        **dict.fromkeys(TABLES, List(List(text))),
        **dict.fromkeys(MAPPINGS, text),
    })


def check_sample(sample: VQASample) -> None:
    """Check what types alone do not say.

    Raises:
        DataError: If the split's name, the answer type or an image path is not as VQASample wants it.
    """
    where = f"Question '{sample.question_id}' of data set '{sample.dataset}'"
    hint = "This is a fault of the data set's reader."
    if not re.fullmatch(r"\w+", sample.split):
        raise DataError(f"{where} is in split '{sample.split}': a split's name has only letters, digits and '_'.", hint)
    if sample.answer_type not in ("open", "closed"):
        raise DataError(f"{where} has answer_type '{sample.answer_type}': it is 'open' or 'closed'.", hint)
    for path in (*sample.images, *sample.masks, *sample.output_images):
        if not Path(path).is_absolute():
            raise DataError(f"{where} has the image path '{path}', which is not absolute.", hint)


def encode_sample(sample: VQASample) -> dict[str, Any]:
    """Return a sample as one row of `make_features`' columns.

    Raises:
        TypeError: If a mapping holds something JSON has no form for.
        ValueError: If a mapping holds a number that is not finite.
    """
    row: dict[str, Any] = {name: getattr(sample, name) for name in (*TEXTS, *LISTS, *TABLES)}
    for name in PICTURES:
        row[name] = [{"bytes": None, "path": path} for path in getattr(sample, name)]
    for name in MAPPINGS:
        value = getattr(sample, name)
        row[name] = None if value is None else json.dumps(dict(value), ensure_ascii=False, allow_nan=False)
    row["boxes"] = [{"label": box.label, **{side: getattr(box, side) for side in SIDES}} for box in sample.boxes]
    return row


def decode_sample(row: Mapping[str, Any]) -> VQASample:
    """Return the sample that `encode_sample` made a row of."""
    values: dict[str, Any] = {name: row[name] for name in TEXTS}
    values |= {name: tuple(row[name]) for name in LISTS}
    values |= {name: tuple(picture["path"] for picture in row[name]) for name in PICTURES}
    values |= {name: None if row[name] is None else json.loads(row[name]) for name in MAPPINGS}
    values["boxes"] = tuple(Box(**box) for box in row["boxes"])
    values |= {name: tuple(tuple(parts) for parts in row[name]) for name in TABLES}
    return VQASample(**values)

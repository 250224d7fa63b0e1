"""SLAKE 1.0: 14,028 English and Chinese questions about 642 CT, MRI and X-ray pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.protocol import DatasetCard, HubCopy
from medvqa_cli.data.reading import Row, find_folder, is_hub_layout, quote, read_hub_rows, read_json_rows
from medvqa_cli.errors import DataError
from medvqa_cli.records import Box, VQASample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SPLIT_FILES = {"train": ("train.json",), "validation": ("validate.json", "validation.json"), "test": ("test.json",)}
IMAGE_FOLDERS = ("imgs", "img")
HUB_SPLITS = {"val": "validation", "validate": "validation"}
HUB_COLUMNS = ("image", "qid", "question", "answer", "answer_type", "q_lang")
"""Columns a table must have; the others that the JSON files have may be missing: they only describe a question."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What lies in one picture's folder."""

    name: str
    path: str
    mask: str = ""
    boxes: tuple[Box, ...] = ()


class Slake:
    """The original download, its hub copy (the same files: validate|validation.json, imgs|img), and tables made of it.

    ```
    train.json  validate.json  test.json      one list of records each, English and Chinese mixed
    imgs/xmlab0/source.jpg                    the picture; also below imgs/imgs/, as an archive may unpack
    imgs/xmlab0/detection.json                [{label: [x, y, width, height]}, ...] in pixels; may be missing
    imgs/xmlab0/mask.png                      class ids (mask.txt) as grey values; may be missing
    ```

    The mask.png of an X-ray is no mask but the picture with its findings drawn on it, so it is left out: it would
    give the answer away. `content_type` becomes question_type and `location` organ; a triple is kept as it stands,
    placeholders ("vhead", "_", "ktail") included. Each language was split on its own: within one language no picture
    stands in two splits, across languages 142 of the 180 test pictures are also training pictures.

    A table with the same keys and an `image` column (some hub copies) has neither masks nor boxes.
    """

    card = DatasetCard(
        title="SLAKE 1.0",
        summary="14,028 English and Chinese questions about 642 CT, MRI and X-ray pictures, with boxes and masks.",
        licence="CC-BY-4.0",
        citation="Liu et al. 2021, SLAKE: A Semantically-Labeled Knowledge-Enhanced Dataset for Medical Visual "
                 "Question Answering, ISBI 2021, arXiv:2102.09542",
        homepage="https://www.med-vqa.com/slake/",
        obtain="Download Slake1.0.zip from https://www.med-vqa.com/slake/, or the hub data set BoKelvin/SLAKE, and "
               "extract it (imgs.zip too), so that train.json, validate.json, test.json and imgs/ lie in one folder.",
        closed_definition="the data set's own label, answer_type CLOSED: yes/no questions, and questions that name "
                          "their options",
        languages=("en", "zh"),
        default_language="en",
        default_roots=("/data/datasets/Slake1.0", "~/datasets/Slake1.0", "./data/Slake1.0", "~/Downloads/Slake1.0",
                       "./data/slake"),
        hub=HubCopy(id="BoKelvin/SLAKE", form="files", patterns=("*.json", "*.zip", "mask.txt")),
    )
    Options = None

    def find_root(self, root: Path | None) -> Path:
        """Return the folder with the three JSON files and the pictures; see `Dataset.find_root`."""
        return find_folder(self.card, root, _find_fault)

    def read(self, root: Path, options: Any) -> Iterator[VQASample]:  # noqa: ARG002 - SLAKE has no options
        """Yield all samples of both languages; see `Dataset.read`."""
        seen: set[str] = set()
        for sample, row in _read_table(root) if is_hub_layout(root) else _read_files(root):
            if sample.question_id in seen:
                raise row.error(f"the qid {sample.question_id} is that of an earlier question")
            seen.add(sample.question_id)
            yield sample


def _read_files(root: Path) -> Iterator[tuple[VQASample, Row]]:
    folder = _find_images(root)
    pictures: dict[str, Picture] = {}
    for split, names in SPLIT_FILES.items():
        for row in read_json_rows(root / _choose(root, names)):
            name = row.required_text("img_name")
            if name not in pictures:
                is_xray = row.text("modality") == "X-Ray"
                pictures[name] = _read_picture(row.path("img_name", folder), name.partition("/")[0], is_xray=is_xray)
            yield _make_sample(row, split, pictures[name], row.text, _read_triples(row)), row


def _read_table(root: Path) -> Iterator[tuple[VQASample, Row]]:
    for split, row in read_hub_rows(root):
        if missing := [column for column in HUB_COLUMNS if column not in row.values]:
            raise row.error(f"the {'columns' if len(missing) > 1 else 'column'} {', '.join(missing)} of SLAKE "
                            f"{'are' if len(missing) > 1 else 'is'} missing", f"Use another copy. {Slake.card.obtain}")
        path = row.path("image", root)
        name = row.optional_text("img_name").partition("/")[0] or path.stem
        triples = () if row.optional("triple") is None else _read_triples(row)
        yield _make_sample(row, HUB_SPLITS.get(split, split), Picture(name, str(path)), row.optional_text, triples), row


def _choose(root: Path, names: tuple[str, ...]) -> str:
    """Return the first name that exists below the root, or an empty text."""
    return next((name for name in names if (root / name).exists()), "")


def _find_images(root: Path) -> Path:
    name = _choose(root, IMAGE_FOLDERS)
    nested = root / name / name
    return nested if nested.is_dir() else root / name


def _find_fault(root: Path) -> str:
    if is_hub_layout(root):
        return ""
    missing = [" or ".join(names) for names in (*SPLIT_FILES.values(), IMAGE_FOLDERS) if not _choose(root, names)]
    return f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing" if missing else ""


def _make_sample(row: Row, split: str, picture: Picture, describe: Callable[[str], str],
                 triples: tuple[tuple[str, str, str], ...]) -> VQASample:
    """Return the sample of a row; `describe` reads the texts that only describe the question."""
    base_type = describe("base_type")
    return VQASample(
        dataset="slake",
        split=split,
        question_id=str(row.integer("qid")),
        image_id=picture.name,
        question=row.required_text("question"),
        answer=row.text("answer"),
        answer_type="closed" if row.choice("answer_type", ("OPEN", "CLOSED")) == "CLOSED" else "open",
        images=(picture.path,),
        question_type=describe("content_type"),
        modality=describe("modality"),
        organ=describe("location"),
        language=row.required_text("q_lang"),
        boxes=picture.boxes,
        masks=(picture.mask,) if picture.mask else (),
        triples=triples,
        extra={"base_type": base_type} if base_type else {},
    )


def _read_triples(row: Row) -> tuple[tuple[str, str, str], ...]:
    triple = row.value("triple")
    if not (isinstance(triple, list) and len(triple) == 3 and all(isinstance(part, str) for part in triple)):
        raise row.wrong("triple", "a list of three texts")
    return ((triple[0], triple[1], triple[2]),)


def _read_picture(path: Path, name: str, *, is_xray: bool) -> Picture:
    mask, boxes = path.with_name("mask.png"), path.with_name("detection.json")
    return Picture(name, str(path), str(mask) if not is_xray and mask.is_file() else "",
                   _read_boxes(boxes) if boxes.is_file() else ())


def _read_boxes(path: Path) -> tuple[Box, ...]:
    return tuple(_make_box(path, row.number, label, value)
                 for row in read_json_rows(path) for label, value in row.values.items())


def _make_box(path: Path, number: int, label: str, value: Any) -> Box:
    is_box = isinstance(value, list) and len(value) == 4 and all(
        isinstance(side, int | float) and math.isfinite(side) for side in value)
    if not is_box:
        raise DataError(f"{path}, row {number}: the box of '{label}' should be [x, y, width, height] in pixels, but is "
                        f"{quote(value)}.")
    x, y, width, height = map(float, value)
    return Box(label, x, y, x + width, y + height)


PLUGIN = Slake()

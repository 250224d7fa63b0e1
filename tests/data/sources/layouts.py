"""More small copies of real layouts: hub copies laid out in files, PathVQA, the MEVF re-split of VQA-RAD."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.data.builders import draw_image, rad_record, write_json

Rows = list[dict[str, Any]]


def build_hub(root: Path, splits: dict[str, Rows], hub: str = "owner/name") -> Path:
    """A hub copy; a row's "image" is a shade of grey, and each distinct shade becomes one picture."""
    root.mkdir(parents=True)
    for split, rows in splits.items():
        lines = [row | {"image": draw_shade(root, row["image"])} if isinstance(row.get("image"), int) else row
                 for row in rows]
        (root / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    write_json(root / "hub.json", {"hub": hub, "revision": "main", "pictures": ["image"],
                                   "splits": {split: len(rows) for split, rows in splits.items()}})
    return root


def draw_shade(root: Path, shade: int) -> str:
    """Draw a picture under the hash of its bytes; return its relative path."""
    path = draw_image(root / "new.png", shade)
    name = hashlib.sha256(path.read_bytes()).hexdigest()
    target = root / "images" / name[:2] / f"{name}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)
    return target.relative_to(root).as_posix()


def pvqa_record(name: str, *pairs: tuple[str, Any], **changes: Any) -> dict[str, Any]:
    record = {"img_id": name, "labelf": {"pvqa": [{answer: 1} for _, answer in pairs]},
              "sentf": {"pvqa": [question for question, _ in pairs]}}
    return record | changes


def build_pvqa(root: Path, *, images: str = "images") -> Path:
    """Five pictures, one of them without questions; train 6 questions (2 of them twice), validation 1, test 2."""
    write_json(root / "pvqa_train.json", [
        pvqa_record("train_0000", ("What  is\tpresent?", " Liver "), ("Is it  benign?", "Yes"),
                    ("What  is\tpresent?", " Liver "), ("What is present?", "liver")),
        pvqa_record("train_0001"),
        pvqa_record("train_0002", ("Is it  benign?", "no"), ("Is it  benign?", "no")),
    ])
    write_json(root / "pvqa_val.json", [pvqa_record("val_0000", ("How many are there?", "2"))])
    write_json(root / "pvqa_test.json", [pvqa_record("test_0000", ("Is it  benign?", "no"), ("What shows it?", "gms"))])
    for split, numbers in {"train": 3, "val": 1, "test": 1}.items():
        for number in range(numbers):
            draw_image(root / images / split / f"{split}_{number:04}.jpg", 40 * number + len(split))
    return root


def mevf_record(number: int, image: str, **changes: Any) -> dict[str, Any]:
    keys = ("qid", "image_name", "image_organ", "answer", "answer_type", "question_type", "question", "phrase_type")
    return {key: value for key, value in rad_record(number, image, **changes).items() if key in keys}


def build_mevf(folder: Path) -> Path:
    """Train 2 questions, one of a template, test 1; the pictures are those of `build_rad`."""
    write_json(folder / "trainset.json", [
        mevf_record(1, "synpic1.jpg"),
        mevf_record(2, "synpic1.jpg", question="Is/Are there masses?", phrase_type="frame", answer=2),
    ])
    write_json(folder / "testset.json", [mevf_record(3, "synpic2.jpg", phrase_type="para", answer="MRI")])
    return folder

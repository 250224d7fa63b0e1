"""Small copies of the real layouts, written by hand so that each quirk stands where a test can see it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from medvqa_cli.progress import SilentProgress
from medvqa_cli.records import VQASample


class Notes(SilentProgress):
    """Keeps what is said and warned of."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warnings: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def warn(self, message: str) -> None:
        self.said.append(message)
        self.warnings.append(message)


def draw_image(path: Path, shade: int = 100, size: tuple[int, int] = (20, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, shade).save(path)
    return path


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def slake_record(number: int, image: int, **changes: Any) -> dict[str, Any]:
    record = {"img_id": image, "img_name": f"xmlab{image}/source.jpg", "question": "Does the picture contain liver?",
              "answer": "Yes", "q_lang": "en", "location": "Abdomen", "modality": "CT", "answer_type": "CLOSED",
              "base_type": "vqa", "content_type": "Organ", "triple": ["vhead", "_", "_"], "qid": number}
    return record | changes


def build_slake(root: Path, *, validation: str = "validate.json", images: str = "imgs") -> Path:
    """Four pictures; train 3 questions (one Chinese), validation 1, test 2."""
    write_json(root / "train.json", [
        slake_record(0, 1),
        slake_record(1, 1, question="这是什么?", answer="肝", q_lang="zh", answer_type="OPEN"),
        slake_record(2, 2, modality="X-Ray", location="Lung", question="  What is\tit? ", answer="Lung, Heart",
                     answer_type="OPEN", base_type="kvqa", content_type="KG", triple=["vhead", "treat", "ktail"]),
    ])
    write_json(root / validation, [slake_record(3, 3, answer="No")])
    write_json(root / "test.json", [slake_record(4, 4), slake_record(5, 4, answer="Left Lung", answer_type="OPEN")])
    for number in range(1, 5):
        folder = root / images / f"xmlab{number}"
        draw_image(folder / "source.jpg", 40 * number)
        draw_image(folder / "mask.png", 10)
        write_json(folder / "detection.json", [{"Liver": [1.0, 2.0, 5.5, 4.0]}, {"Spleen": [0, 0, 3, 3]}]
                   if number == 1 else [])
    return root


def rad_record(number: int | str, image: str, **changes: Any) -> dict[str, Any]:
    record = {"qid": number, "phrase_type": "freeform", "qid_linked_id": "abc", "image_case_url": "https://example.org/1",
              "image_name": image, "image_organ": "CHEST", "evaluation": "evaluated", "question": "Is it normal?",
              "question_rephrase": "NULL", "question_relation": "NULL", "question_frame": "NA", "question_type": "PRES",
              "answer": "Yes", "answer_type": "CLOSED"}
    return record | changes


def build_rad(root: Path) -> Path:
    """Two pictures; train 4 questions, test 3, one quirk each."""
    no_rephrase = rad_record(2, "synpic1.jpg", answer="Heart \tlungs", answer_type="OPEN", question_type="PRES, POS")
    del no_rephrase["question_rephrase"]
    write_json(root / "VQA_RAD Dataset Public.json", [
        rad_record("0", "synpic1.jpg"),
        rad_record(1, "synpic1.jpg", phrase_type="para", answer_type="CLOSED ", question_type="POS, PRES", answer="no"),
        no_rephrase,
        rad_record(3, "synpic2.jpg", answer=4, answer_type="OPEN", question_type="PRSE", question=" How\tmany? "),
        rad_record(4, "synpic2.jpg", phrase_type="test_freeform", answer="MRI", question_type="Other",
                   image_organ="HEAD", question_rephrase="Which one?"),
        rad_record(5, "synpic2.jpg", phrase_type="test_para", question_type="ATRIB", image_organ="ABD"),
        rad_record(6, "synpic1.jpg", phrase_type="test_para", answer="axial", answer_type="OPEN"),
    ])
    for number in (1, 2):
        draw_image(root / "VQA_RAD Image Folder" / f"synpic{number}.jpg", 60 * number)
    return root


def make_sample(number: int, path: str | Path | None = None, **changes: Any) -> VQASample:
    values = {"dataset": "d", "split": "train", "question_id": str(number), "image_id": f"i{number}",
              "question": f"Question {number}?", "answer": "yes", "answer_type": "closed",
              "images": (str(path),) if path else ()}
    return VQASample(**values | changes)

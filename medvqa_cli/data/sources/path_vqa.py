"""PathVQA: 32,795 questions made from the captions of 4,289 pathology pictures, half of them yes/no."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from medvqa_cli.data.protocol import DatasetCard, HubCopy
from medvqa_cli.data.reading import Row, find_folder, is_hub_layout, quote, read_hub_rows, read_json_rows
from medvqa_cli.records import VQASample

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic import BaseModel

SPLITS = {"train": "train", "val": "validation", "test": "test"}
IMAGE_FOLDERS = ("images", "pvqa/images")
CATEGORY = "pvqa"


@dataclass(frozen=True, slots=True)
class Question:
    """One question about one picture; `row` holds its question and answer as they stand in the file."""

    split: str
    id: str
    image_id: str
    path: Path
    row: Row

    def make_triplet(self) -> tuple[str, str, str, str]:
        """Return what tells it from another question: two are equal only where each letter and blank is."""
        return self.split, self.image_id, str(self.row.value("question")), str(self.row.value("answer"))


class PathVQA:
    """The LXMERT-style JSON of the official repository beside the pictures, or the hub copy.

    ```
    pvqa_train.json  pvqa_val.json  pvqa_test.json    a list of {"img_id": "train_0000", "sentf": {"pvqa": [question]},
                                                      "labelf": {"pvqa": [{answer: 1}]}}; the lists may be empty
    images/train/train_0000.jpg                       the pictures; images/ may lie in pvqa/
    hub.json  train.jsonl  validation.jsonl  ...      hub copy: image, question and answer
    ```

    Some questions stand there twice with the same picture and answer, letter by letter. Two conventions are in use, and
    `options.duplicates` selects one: keep all, 19,755 training, 6,279 validation and 6,761 test questions (9,806, 3,135
    and 3,391 of them yes/no), or each once, 19,654, 6,259 and 6,719. `extra["copies"]` is how often a question stands
    there, if more than once: the sum of copies - 1 is what `drop` has left out. The hub copy comes without them.

    Tidied on reading: white space; answers are in lower case, as nearly all of them are (the hub copy has its questions
    in lower case, too). The splits share no picture, but 1,181 of the 3,833 distinct test questions with their answer
    are also asked in training.
    """

    card = DatasetCard(
        title="PathVQA",
        summary="32,795 questions made from the captions of 4,289 pathology pictures, half of them yes/no.",
        licence="MIT (official repository and hub copy); the copyright of pictures and captions stays with the "
                "publishers and authors of two textbooks and with the PEIR digital library",
        citation="He et al. 2020, PathVQA: 30000+ Questions for Medical Visual Question Answering, arXiv:2003.10286",
        homepage="https://github.com/UCSD-AI4H/PathVQA",
        obtain="Take the hub data set flaviagiammarino/path-vqa; or download the pictures as "
               "https://github.com/UCSD-AI4H/PathVQA says under data/, and put pvqa_train.json, pvqa_val.json and "
               "pvqa_test.json of its baselines (saved/lxmert) into the folder that holds images/. The pickled "
               "questions (qas/*.pkl) are not read: loading a pickle can run any code.",
        closed_definition="the answer is yes or no (the data set has no label of its own)",
        default_roots=("/data/datasets/PathVQA", "~/datasets/PathVQA", "./data/PathVQA", "~/Downloads/PathVQA",
                       "./data/path_vqa"),
        aliases=("pathvqa", "pvqa"),
        hub=HubCopy(id="flaviagiammarino/path-vqa", form="rows"),
    )

    @cached_property
    def Options(self) -> type[BaseModel]:  # noqa: N802 - the protocol's name
        """The reader's options, built when first asked for: importing this file must not import pydantic."""
        from medvqa_cli.settings.section import Section

        class PathVQAOptions(Section):
            """How PathVQA is read."""

            duplicates: Literal["keep", "drop"] = "keep"
            """Questions that stand twice with the same picture and answer: keep them (official counts), or keep one."""

        return PathVQAOptions

    def find_root(self, root: Path | None) -> Path:
        """Return the folder with the three JSON files and the pictures; see `Dataset.find_root`."""
        return find_folder(self.card, root, _find_fault)

    def read(self, root: Path, options: Any) -> Iterator[VQASample]:
        """Yield all samples of all splits; see `Dataset.read`. The files are read twice: once to find copies."""
        copies = Counter(question.make_triplet() for question in _read_questions(root))
        seen = set()
        for question in _read_questions(root):
            triplet = question.make_triplet()
            if options.duplicates == "keep" or triplet not in seen:
                yield _make_sample(question, copies[triplet])
            seen.add(triplet)


def _find_images(root: Path) -> Path:
    return next((root / name for name in IMAGE_FOLDERS if (root / name).is_dir()), root / IMAGE_FOLDERS[0])


def _find_fault(root: Path) -> str:
    if is_hub_layout(root):
        return ""
    images = _find_images(root).relative_to(root).as_posix()
    wanted = [*(f"{CATEGORY}_{name}.json" for name in SPLITS), *(f"{images}/{name}" for name in SPLITS)]
    missing = [name for name in wanted if not (root / name).exists()]
    return f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing" if missing else ""


def _read_questions(root: Path) -> Iterator[Question]:
    if not is_hub_layout(root):
        for name, split in SPLITS.items():
            yield from _read_file(root / f"{CATEGORY}_{name}.json", split, _find_images(root) / name)
        return
    for name, row in read_hub_rows(root):
        split, picture = SPLITS.get(name, name), row.path("image", root)
        yield Question(split, f"{split}_{row.number}", picture.stem, picture, row)


def _read_file(path: Path, split: str, folder: Path) -> Iterator[Question]:
    seen: set[str] = set()
    for row in read_json_rows(path):
        name, picture = row.required_text("img_id"), row.path("img_id", folder)
        if name in seen:
            raise row.error(f"the img_id '{name}' is that of an earlier row")
        seen.add(name)
        for number, pair in enumerate(_pair_up(row)):
            yield Question(split, f"{name}_{number}", name, picture.with_name(f"{picture.name}.jpg"), pair)


def _pair_up(row: Row) -> Iterator[Row]:
    """Yield each question of a picture's row with its answer, as a row of its own."""
    questions, labels = _read_list(row, "sentf", "questions"), _read_list(row, "labelf", "answers")
    if len(questions) != len(labels):
        raise row.error(f"'sentf' has {len(questions)} questions, but 'labelf' has {len(labels)} answers")
    for question, label in zip(questions, labels, strict=True):
        if not (isinstance(label, dict) and len(label) == 1):
            raise row.error(f"an answer in 'labelf' should be an object such as {{\"yes\": 1}}, but is {quote(label)}")
        yield Row({"question": question, "answer": next(iter(label))}, row.file, row.number)


def _read_list(row: Row, key: str, what: str) -> list[Any]:
    value = row.value(key)
    entries = value[CATEGORY] if isinstance(value, dict) and list(value) == [CATEGORY] else None
    if not isinstance(entries, list):
        raise row.wrong(key, f"an object with a list of {what} under '{CATEGORY}'")
    return entries


def _make_sample(question: Question, copies: int) -> VQASample:
    answer = question.row.text("answer").lower()
    return VQASample(
        dataset="path_vqa",
        split=question.split,
        question_id=question.id,
        image_id=question.image_id,
        question=question.row.required_text("question"),
        answer=answer,
        answer_type="closed" if answer in {"yes", "no"} else "open",
        images=(str(question.path),),
        extra={"copies": str(copies)} if copies > 1 else {},
    )


PLUGIN = PathVQA()

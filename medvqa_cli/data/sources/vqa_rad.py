"""VQA-RAD: 2,248 questions by clinicians about 314 radiology pictures of head, chest and abdomen."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from medvqa_cli.data.protocol import DatasetCard
from medvqa_cli.data.reading import Row, find_folder, read_json_rows
from medvqa_cli.records import AnswerType, VQASample

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic import BaseModel

ANNOTATIONS = "VQA_RAD Dataset Public.json"
IMAGE_FOLDER = "VQA_RAD Image Folder"
SPLITS = {"freeform": "train", "para": "train", "test_freeform": "test", "test_para": "test"}
ORGANS = {"HEAD": "Head", "CHEST": "Chest", "ABD": "Abdomen"}
QUESTION_TYPE_TYPOS = {"ATRIB": "ATTRIB", "PRSE": "PRES"}
NOT_STATED = {"", "NULL", "NA"}
EXTRA_KEYS = ("phrase_type", "evaluation", "question_relation", "question_rephrase", "question_frame", "qid_linked_id",
              "image_case_url")


class VQARad:
    """The original release: `VQA_RAD Dataset Public.json` beside `VQA_RAD Image Folder/`.

    `phrase_type` decides the split (train 1,797, test 451); there is no validation split, and 202 of the 203 test
    pictures are training pictures too. Tidied on reading: white space; ids and answers that are numbers; question types
    in any order or misspelt ("PRES, POS" and "POS, PRES" become "POS, PRES"); "NULL" and "NA", which say "not stated".
    """

    card = DatasetCard(
        title="VQA-RAD",
        summary="2,248 questions by clinicians about 314 radiology pictures of head, chest and abdomen.",
        licence="CC0-1.0 as stated by its hub copy (flaviagiammarino/vqa-rad); the original release states none in "
                "its files",
        citation="Lau et al. 2018, A dataset of clinically generated visual questions and answers about radiology "
                 "images, Scientific Data 5:180251, doi:10.1038/sdata.2018.251",
        homepage="https://osf.io/89kps/",
        obtain=f"Download the data set from https://osf.io/89kps/ and extract it, so that '{ANNOTATIONS}' and "
               f"'{IMAGE_FOLDER}' lie in one folder.",
        closed_definition="options.closed = answer_type (default): the data set's own label, 272 closed and 179 open "
                          "test questions; options.closed = yes_no: the answer is yes or no, 251 and 200",
        splits=("train", "test"),
        default_roots=("/data/datasets/VQA_RAD", "~/datasets/VQA_RAD", "./data/VQA_RAD", "~/Downloads/VQA_RAD",
                       "./data/vqa_rad"),
        aliases=("rad_vqa",),
    )

    @cached_property
    def Options(self) -> type[BaseModel]:  # noqa: N802 - the protocol's name
        """The reader's options, built when first asked for: importing this file must not import pydantic."""
        from medvqa_cli.settings.section import Section

        class VQARadOptions(Section):
            """How VQA-RAD is read."""

            closed: Literal["answer_type", "yes_no"] = "answer_type"
            """What makes a question closed: the data set's own label, or an answer that is yes or no."""

        return VQARadOptions

    def find_root(self, root: Path | None) -> Path:
        """Return the folder with the JSON file and the picture folder; see `Dataset.find_root`."""
        return find_folder(self.card, root, _find_fault)

    def read(self, root: Path, options: Any) -> Iterator[VQASample]:
        """Yield all samples of both splits; see `Dataset.read`."""
        for row in read_json_rows(root / ANNOTATIONS):
            yield _make_sample(row, root / IMAGE_FOLDER, options.closed)


def _find_fault(root: Path) -> str:
    missing = [f"'{name}'" for name in (ANNOTATIONS, IMAGE_FOLDER) if not (root / name).exists()]
    return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing" if missing else ""


def _make_sample(row: Row, images: Path, closed: str) -> VQASample:
    answer = row.text_or_integer("answer")
    name = row.required_text("image_name")
    return VQASample(
        dataset="vqa_rad",
        split=SPLITS[row.choice("phrase_type", tuple(SPLITS))],
        question_id=row.text_or_integer("qid"),
        image_id=name.rpartition(".")[0] or name,
        question=row.required_text("question"),
        answer=answer,
        answer_type=_find_answer_type(row, answer, closed),
        images=(str(row.path("image_name", images)),),
        question_type=_read_question_type(row),
        organ=ORGANS[row.choice("image_organ", tuple(ORGANS))],
        extra={key: text for key in EXTRA_KEYS if (text := row.text(key, default="")) not in NOT_STATED},
    )


def _read_question_type(row: Row) -> str:
    parts = (part.strip().upper() for part in row.required_text("question_type").split(","))
    return ", ".join(sorted({QUESTION_TYPE_TYPOS.get(part, part) for part in parts}))


def _find_answer_type(row: Row, answer: str, closed: str) -> AnswerType:
    label = row.choice("answer_type", ("OPEN", "CLOSED"))
    is_closed = label == "CLOSED" if closed == "answer_type" else answer.lower() in {"yes", "no"}
    return "closed" if is_closed else "open"


PLUGIN = VQARad()

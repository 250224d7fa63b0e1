"""VQA-Med 2019: 15,292 questions on modality, plane, organ system and abnormality of 4,200 radiology pictures."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.protocol import DatasetCard
from medvqa_cli.data.reading import Row, find_folder, read_csv_rows
from medvqa_cli.records import VQASample

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CATEGORY_FILES = {"C1_Modality": "modality", "C2_Plane": "plane", "C3_Organ": "organ", "C4_Abnormality": "abnormality"}
SUFFIXES = {"train": "train", "validation": "val"}
TEST_FILE = "VQAMed2019_Test_Questions_w_Ref_Answers.txt"
IMAGE_FOLDERS = {"train": "Train_images", "validation": "Val_images", "test": "VQAMed2019_Test_Images"}
COLUMNS = ("image", "question", "answer")
TEST_COLUMNS = ("image", "category", "question", "answer")
DEPTHS = ("", "*/", "*/*/", "*/*/*/", "*/*/*/*/")
OPTIONAL_PART = re.compile(r"\(([^()]*)\)")


class VQAMed2019:
    """The three archives of the release, extracted into one folder or into folders of any name in it.

    ```
    ImageClef-2019-VQA-Med-Training/QAPairsByCategory/C1_Modality_train.txt  C2_Plane_...  C3_Organ_...
                                                      C4_Abnormality_train.txt          imageid|question|answer
                                    All_QA_Pairs_train.txt                              the same without categories
                                    Train_images/synpic371.jpg
    ImageClef-2019-VQA-Med-Validation/  the same with _val and Val_images/
    VQAMed2019Test/VQAMed2019_Test_Questions_w_Ref_Answers.txt                          imageid|category|question|answer
                   VQAMed2019_Test_Images/
    ```

    The files are searched for by name, at most four folders deep. Splits that are not there are left out; without
    files by category a split is read from All_QA_Pairs, and its questions have no question_type. A `|` in a text cannot
    be told from a separator: it is an error that names file and row.

    Reference answers: `#` separates answers that are all right; the first becomes `answer`, as it is written, the
    others alternatives. A part in brackets "could be ignored": each of these answers that has such parts adds two
    alternatives, one without them and one with them but without the brackets. "aml (angiomyolipoma)" thus gives "aml"
    and "aml angiomyolipoma". extra["written_answer"] keeps the whole where it has a `#`.
    Differs: the release says this of its test set; it is read the same way in every split.
    """

    card = DatasetCard(
        title="VQA-Med 2019",
        summary="15,292 questions on modality, plane, organ system and abnormality of 4,200 radiology pictures.",
        licence="none stated in its files or in its repository; see the record of the release (pictures: MedPix)",
        citation="Ben Abacha et al. 2019, VQA-Med: Overview of the Medical Visual Question Answering Task at ImageCLEF "
                 "2019, CLEF 2019 Working Notes, CEUR-WS 2380",
        homepage="https://github.com/abachaa/VQA-Med-2019",
        obtain="Download ImageClef-2019-VQA-Med-Training.zip, ImageClef-2019-VQA-Med-Validation.zip and "
               "VQAMed2019Test.zip from https://zenodo.org/records/10499039 and extract them, and the archive of test "
               "pictures in the last, into one folder.",
        closed_definition="the answer is yes or no (choices such as 'contrast or noncontrast' are open)",
        default_roots=("/data/datasets/VQA-Med-2019", "~/datasets/VQA-Med-2019", "./data/VQA-Med-2019",
                       "~/Downloads/VQA-Med-2019", "./data/vqa_med_2019"),
        aliases=("vqa_med", "vqa_med2019"),
    )
    Options = None

    def find_root(self, root: Path | None) -> Path:
        """Return the folder in which the three archives are extracted; see `Dataset.find_root`."""
        return find_folder(self.card, root, _find_fault)

    def read(self, root: Path, options: Any) -> Iterator[VQASample]:  # noqa: ARG002 - there are no options
        """Yield all samples of the splits that are there; see `Dataset.read`."""
        for split in IMAGE_FOLDERS:
            files, folder = _find_files(root, split), _find_images(root, split)
            columns = TEST_COLUMNS if split == "test" else COLUMNS
            for path, category in files.items():
                for row in read_csv_rows(path, delimiter="|", header=columns, quotes=False):
                    name = row.choice("category", tuple(CATEGORY_FILES.values())) if split == "test" else category
                    yield _make_sample(row, split, name, folder)


def _search(root: Path, name: str) -> Path | None:
    """Return the file or folder of that name that lies least deep."""
    return next((path for depth in DEPTHS for path in sorted(root.glob(depth + name))), None)


def _find_files(root: Path, split: str) -> dict[Path, str]:
    """Return the files of a split with their categories; none if the split is not there."""
    if split == "test":
        names = {TEST_FILE: ""}
    else:
        names = {f"{name}_{SUFFIXES[split]}.txt": category for name, category in CATEGORY_FILES.items()}
    found = {path: category for name, category in names.items() if (path := _search(root, name))}
    whole = None if found or split == "test" else _search(root, f"All_QA_Pairs_{SUFFIXES[split]}.txt")
    return {whole: ""} if whole else found


def _find_images(root: Path, split: str) -> Path:
    """Return the picture folder of a split; an archive extracted into a folder of its name holds another of it."""
    name = IMAGE_FOLDERS[split]
    folder = _search(root, name) or root / name
    return folder / name if (folder / name).is_dir() else folder


def _find_fault(root: Path) -> str:
    splits = {split: _find_files(root, split) for split in IMAGE_FOLDERS}
    if not any(splits.values()):
        return f"neither 'C1_Modality_train.txt', 'C1_Modality_val.txt' nor '{TEST_FILE}' is in it"
    for split, files in splits.items():
        missing = [name for name, category in CATEGORY_FILES.items() if category not in files.values()]
        if files and any(files.values()) and missing:
            return f"'{missing[0]}_{SUFFIXES[split]}.txt' is missing"
        if files and not _find_images(root, split).is_dir():
            return f"the picture folder '{IMAGE_FOLDERS[split]}' is missing"
    return ""


def _make_sample(row: Row, split: str, category: str, folder: Path) -> VQASample:
    image, written = row.required_text("image"), row.required_text("answer")
    answer, *others = [part.strip() for part in written.split("#") if part.strip()] or [written]
    forms = [form for part in (answer, *others) for form in _list_forms(part)]
    return VQASample(
        dataset="vqa_med_2019",
        split=split,
        question_id="-".join(filter(None, (split, category, str(row.number)))),
        image_id=image,
        question=row.required_text("question"),
        answer=answer,
        answer_type="closed" if answer.lower() in {"yes", "no"} else "open",
        images=(str(Row({"image": f"{image}.jpg"}, row.file, row.number).path("image", folder)),),
        question_type=category,
        alternatives=tuple(form for form in dict.fromkeys((*others, *forms)) if form != answer),
        extra={"written_answer": written} if written != answer else {},
    )


def _list_forms(answer: str) -> tuple[str, ...]:
    """Return an answer without its parts in brackets, and with them but without the brackets."""
    if not OPTIONAL_PART.search(answer):
        return ()
    forms = (" ".join(OPTIONAL_PART.sub(form, answer).split()) for form in (" ", r"\1"))
    return tuple(form for form in forms if form)


PLUGIN = VQAMed2019()

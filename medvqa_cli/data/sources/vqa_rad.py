"""VQA-RAD: 2,248 questions by clinicians about 314 radiology pictures of head, chest and abdomen."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from medvqa_cli.data.protocol import DatasetCard, HubCopy
from medvqa_cli.data.reading import Row, find_folder, is_hub_layout, read_hub_rows, read_json_rows
from medvqa_cli.errors import SettingsError
from medvqa_cli.records import AnswerType, VQASample

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic import BaseModel

Release = Literal["original", "mevf", "hub"]

ANNOTATIONS = "VQA_RAD Dataset Public.json"
MEVF_FILES = {"train": "trainset.json", "test": "testset.json"}
MEVF_FOLDERS = ("", "mevf_split")
IMAGE_FOLDERS = ("VQA_RAD Image Folder", "images")
SPLITS = {"freeform": "train", "para": "train", "test_freeform": "test", "test_para": "test"}
ORGANS = {"HEAD": "Head", "CHEST": "Chest", "ABD": "Abdomen"}
QUESTION_TYPE_TYPOS = {"ATRIB": "ATTRIB", "PRSE": "PRES"}
NOT_STATED = {"", "NULL", "NA"}
EXTRA_KEYS = ("phrase_type", "evaluation", "question_relation", "question_rephrase", "question_frame", "qid_linked_id",
              "image_case_url")
CLOSED_MEANINGS = {"answer_type": "the data set's own label, answer_type CLOSED",
                   "yes_no": "the answer is yes or no"}


class VQARad:
    """The original release, the re-split that came with MEVF, or the hub copy.

    ```
    VQA_RAD Dataset Public.json               original: one list of records; phrase_type decides the split
    trainset.json  testset.json               MEVF: fewer keys; beside the pictures or in mevf_split/
    VQA_RAD Image Folder/synpic676.jpg        the pictures of both; may be called images/
    hub.json  train.jsonl  test.jsonl         hub copy: image, question and answer alone
    ```

    Original: 1,797 training and 451 test questions, of which 272 are closed by the data set's label and 251 by their
    answer. MEVF: the same test questions; 3,064 training questions, for those filled into templates ("frame") are
    added; its qids are not the original ones. Hub copy: 1,793 training questions, for 3 repeated ones and one that is
    also a test question are left out; it has no label, so only a yes/no question can be closed.

    There is no validation split, and 202 of the 203 test pictures are training pictures too (MEVF: all). Tidied on
    reading: white space; ids and answers that are numbers; question types in any order or misspelt ("PRES, POS" and
    "POS, PRES" become "POS, PRES"); "NULL" and "NA", which say "not stated".
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
               f"'{IMAGE_FOLDERS[0]}' lie in one folder; or take the hub data set flaviagiammarino/vqa-rad.",
        closed_definition="options.closed = answer_type (default where there is the label): the data set's own label, "
                          "272 closed and 179 open test questions; options.closed = yes_no (default of the hub copy, "
                          "which has no label): the answer is yes or no, 251 and 200",
        splits=("train", "test"),
        default_roots=("/data/datasets/VQA_RAD", "~/datasets/VQA_RAD", "./data/VQA_RAD", "~/Downloads/VQA_RAD",
                       "./data/vqa_rad"),
        aliases=("rad_vqa",),
        hub=HubCopy(id="flaviagiammarino/vqa-rad", form="rows"),
    )

    @cached_property
    def Options(self) -> type[BaseModel]:  # noqa: N802 - the protocol's name
        """The reader's options, built when first asked for: importing this file must not import pydantic."""
        from medvqa_cli.settings.section import Section

        class VQARadOptions(Section):
            """How VQA-RAD is read."""

            closed: Literal["auto", "answer_type", "yes_no"] = "auto"
            """What makes a question closed: the data set's own label, or an answer that is yes or no; auto takes the
            label where there is one (the hub copy has none)."""
            release: Literal["auto", "original", "mevf"] = "auto"
            """Which annotations of a folder that has both: the original ones (auto), or the MEVF re-split."""

        return VQARadOptions

    def find_root(self, root: Path | None) -> Path:
        """Return the folder with the annotations and the pictures; see `Dataset.find_root`."""
        return find_folder(self.card, root, _find_fault)

    def describe_closed(self, root: Path, options: Any) -> str:
        """Return what makes a question closed, as these files are read with these options.

        Raises:
            SettingsError: If the files do not have what the options ask for.
        """
        closed = _choose_closed(_choose_release(root, options.release), options.closed)
        return f"{CLOSED_MEANINGS[closed]} (options.closed = {closed})"

    def read(self, root: Path, options: Any) -> Iterator[VQASample]:
        """Yield all samples of both splits; see `Dataset.read`."""
        release = _choose_release(root, options.release)
        closed = _choose_closed(release, options.closed)
        if release == "hub":
            yield from (_make_hub_sample(row, split, root) for split, row in read_hub_rows(root))
            return
        images, seen = root / _choose_name(root, IMAGE_FOLDERS), set()
        for split, row in _read_original(root) if release == "original" else _read_mevf(root):
            sample = _make_sample(row, split, images, closed)
            if sample.question_id in seen:
                raise row.error(f"the qid {sample.question_id} is that of an earlier question")
            seen.add(sample.question_id)
            yield sample


def _choose_name(root: Path, names: tuple[str, ...]) -> str:
    """Return the first name that exists below the root, or an empty text."""
    return next((name for name in names if (root / name).exists()), "")


def _find_mevf(root: Path) -> Path | None:
    """Return the folder with both files of the MEVF re-split."""
    folders = (root / name for name in MEVF_FOLDERS)
    return next((folder for folder in folders if all((folder / name).is_file() for name in MEVF_FILES.values())), None)


def _find_fault(root: Path) -> str:
    if is_hub_layout(root):
        return ""
    missing = [] if (root / ANNOTATIONS).exists() or _find_mevf(root) else [
        f"'{ANNOTATIONS}' (or '{MEVF_FILES['train']}' and '{MEVF_FILES['test']}')"]
    if not _choose_name(root, IMAGE_FOLDERS):
        missing.append(f"'{IMAGE_FOLDERS[0]}' (or '{IMAGE_FOLDERS[1]}')")
    return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing" if missing else ""


def _list_releases(root: Path) -> list[Release]:
    if is_hub_layout(root):
        return ["hub"]
    found: dict[Release, bool] = {"original": (root / ANNOTATIONS).exists(), "mevf": _find_mevf(root) is not None}
    return [release for release, exists in found.items() if exists]


def _choose_release(root: Path, wanted: str) -> Release:
    found = _list_releases(root)
    release = next((name for name in found if wanted in ("auto", name)), None)
    if release is None:
        files = " and ".join(MEVF_FILES.values()) if wanted == "mevf" else f"'{ANNOTATIONS}'"
        raise SettingsError(f"Setting 'data.options.release' is \"{wanted}\", but the annotations in '{root}' are: "
                            f"{', '.join(found) or 'none'}.", f"Leave it out, or name a folder that holds {files}.")
    return release


def _choose_closed(release: Release, wanted: str) -> str:
    if release == "hub" and wanted == "answer_type":
        raise SettingsError("Setting 'data.options.closed' is \"answer_type\", but the hub copy of VQA-RAD has no "
                            "such label: a question can only be closed by its answer, yes or no.",
                            f"Use data.options.closed=yes_no, or the original files ({VQARad.card.homepage}).")
    return ("yes_no" if release == "hub" else "answer_type") if wanted == "auto" else wanted


def _read_original(root: Path) -> Iterator[tuple[str, Row]]:
    for row in read_json_rows(root / ANNOTATIONS):
        yield SPLITS[row.choice("phrase_type", tuple(SPLITS))], row


def _read_mevf(root: Path) -> Iterator[tuple[str, Row]]:
    folder = _find_mevf(root) or root
    for split, name in MEVF_FILES.items():
        for row in read_json_rows(folder / name):
            yield split, row


def _make_sample(row: Row, split: str, images: Path, closed: str) -> VQASample:
    answer = row.text_or_integer("answer")
    name = row.required_text("image_name")
    return VQASample(
        dataset="vqa_rad",
        split=split,
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


def _make_hub_sample(row: Row, split: str, root: Path) -> VQASample:
    picture, answer = row.path("image", root), row.text_or_integer("answer")
    return VQASample(
        dataset="vqa_rad",
        split=split,
        question_id=f"{split}_{row.number}",
        image_id=picture.stem,
        question=row.required_text("question"),
        answer=answer,
        answer_type=_find_yes_no(answer),
        images=(str(picture),),
    )


def _read_question_type(row: Row) -> str:
    parts = (part.strip().upper() for part in row.required_text("question_type").split(","))
    return ", ".join(sorted({QUESTION_TYPE_TYPOS.get(part, part) for part in parts}))


def _find_answer_type(row: Row, answer: str, closed: str) -> AnswerType:
    label = row.choice("answer_type", ("OPEN", "CLOSED"))
    if closed == "yes_no":
        return _find_yes_no(answer)
    return "closed" if label == "CLOSED" else "open"


def _find_yes_no(answer: str) -> AnswerType:
    return "closed" if answer.lower() in {"yes", "no"} else "open"


PLUGIN = VQARad()

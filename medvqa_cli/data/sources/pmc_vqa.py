"""PMC-VQA: multiple-choice questions about figures of biomedical papers; version 1 has 227k, version 2 186k."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from medvqa_cli.data.protocol import DatasetCard, HubCopy
from medvqa_cli.data.reading import Row, find_folder, quote, read_csv_rows
from medvqa_cli.errors import DataError
from medvqa_cli.records import VQASample

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pydantic import BaseModel

LETTERS = ("A", "B", "C", "D")
EXTRA_COLUMNS = {"Caption": "caption", "index": "index"}


@dataclass(frozen=True, slots=True)
class Version:
    """File names of one release: those of each split, and those of the picture folder, first choice first."""

    files: Mapping[str, tuple[str, ...]]
    folders: tuple[str, ...]

    def find_files(self, root: Path) -> dict[str, Path]:
        """Return the splits that are there."""
        found = {split: next((root / name for name in names if (root / name).is_file()), None)
                 for split, names in self.files.items()}
        return {split: path for split, path in found.items() if path}

    def find_images(self, root: Path) -> Path:
        """Return the picture folder, or where it should be."""
        return next((root / name for name in self.folders if (root / name).is_dir()), root / self.folders[0])


VERSIONS = {
    "v1": Version({"train": ("train.csv",), "test": ("test.csv",), "test_clean": ("test_clean.csv",)},
                  ("images/images", "images")),
    "v2": Version({"train": ("train_2.csv", "train2.csv"), "test": ("test_2.csv", "test2.csv")},
                  ("figures", "images_2/figures", "images_2", "images2")),
}


class PMCVQA:
    """The CSV files of the hub repository beside its unpacked pictures, of either version or of both.

    ```
    train.csv  test.csv  test_clean.csv  images/    version 1: Figure_path, Question, Answer, Choice A..D, Answer_label
    train_2.csv  test_2.csv  figures/               version 2: index, Figure_path, Caption, Question, Choice A..D,
                                                    Answer (a letter), split
    ```

    Any of a version's splits may be missing. Choices lose their " A:" and the blanks around them; an empty choice is
    left out. `answer` is the text of the right choice, extra["letter"] its letter, extra["version"] the version. The
    pictures are those of version 1 with compound figures, of version 2 without; `test_clean` is the part of `test`
    that was checked by hand.

    Some rows of version 1 contradict themselves. With `conflicts=letter` they are kept, and can be counted: the letter
    counts, and extra["answer_text"] holds the text that differs; where there is no such letter the choice with that
    text counts, and extra["answer_label"] holds what stands for the letter. A row where neither helps is an error.
    """

    card = DatasetCard(
        title="PMC-VQA",
        summary="Multiple-choice questions about figures of biomedical papers: 227k (version 1) or 186k (version 2).",
        licence="CC BY-SA (no version named), as its hub card says; the papers are CC0 or CC BY",
        citation="Zhang et al. 2023, PMC-VQA: Visual Instruction Tuning for Medical Visual Question Answering, "
                 "arXiv:2305.10415",
        homepage="https://huggingface.co/datasets/xmcmic/PMC-VQA",
        obtain="Download the CSV files and images.zip (version 1, 19 GB) or images_2.zip (version 2, 2 GB) of the hub "
               "data set xmcmic/PMC-VQA, and extract the pictures beside the CSV files.",
        closed_definition="every question: each has options",
        splits=("train", "test", "test_clean"),
        default_roots=("/data/datasets/PMC-VQA", "~/datasets/PMC-VQA", "./data/PMC-VQA", "~/Downloads/PMC-VQA",
                       "./data/pmc_vqa"),
        aliases=("pmcvqa",),
        hub=HubCopy(id="xmcmic/PMC-VQA", form="files", patterns=("train*.csv", "test*.csv", "images*.zip")),
    )

    @cached_property
    def Options(self) -> type[BaseModel]:  # noqa: N802 - the protocol's name
        """The reader's options, built when first asked for: importing this file must not import pydantic."""
        from medvqa_cli.settings.section import Section

        class PMCVQAOptions(Section):
            """How PMC-VQA is read."""

            version: Literal["auto", "v1", "v2"] = "auto"
            """Which release; auto: version 1 where its files are there, else version 2."""
            conflicts: Literal["letter", "error"] = "letter"
            """A row whose letter and answer text differ: the letter counts and the row is marked; or an error."""

        return PMCVQAOptions

    def find_root(self, root: Path | None) -> Path:
        """Return the folder with the CSV files and the pictures; see `Dataset.find_root`."""
        return find_folder(self.card, root, _find_fault)

    def read(self, root: Path, options: Any) -> Iterator[VQASample]:
        """Yield all samples of all splits of one version; see `Dataset.read`."""
        version = _choose_version(root, options.version)
        folder = VERSIONS[version].find_images(root)
        for split, path in VERSIONS[version].find_files(root).items():
            for row in read_csv_rows(path):
                yield _make_sample(row, split, version, folder, options.conflicts)


def _find_fault(root: Path) -> str:
    faults = [_find_version_fault(root, version) for version in VERSIONS.values()]
    return "" if not all(faults) else f"{faults[0]} (version 1), and {faults[1]} (version 2)"


def _find_version_fault(root: Path, version: Version) -> str:
    if not version.find_files(root):
        return f"none of {', '.join(names[0] for names in version.files.values())} is there"
    folder = version.find_images(root)
    return "" if folder.is_dir() else f"the picture folder '{folder.name}' is missing"


def _choose_version(root: Path, wanted: str) -> str:
    faults = {name: _find_version_fault(root, version) for name, version in VERSIONS.items()}
    if wanted == "auto":
        return next(name for name, fault in faults.items() if not fault)
    if faults[wanted]:
        raise DataError(f"'{root}' does not hold version '{wanted}' of PMC-VQA: {faults[wanted]}.",
                        "Set data.options.version to another, or add the files.")
    return wanted


def _make_sample(row: Row, split: str, version: str, folder: Path, conflicts: str) -> VQASample:
    choices = {letter: _strip_letter(row.text(f"Choice {letter}"), letter) for letter in LETTERS}
    letter, marks = _find_letter(row, choices)
    if marks and conflicts == "error":
        raise row.error(_describe_conflict(row, choices))
    name = row.required_text("Figure_path")
    extra = {key: row.text(column) for column, key in EXTRA_COLUMNS.items() if column in row.values}
    return VQASample(
        dataset="pmc_vqa",
        split=split,
        question_id=f"{row.file.stem}-{row.number}",
        image_id=name.rpartition(".")[0] or name,
        question=row.required_text("Question"),
        answer=choices[letter],
        answer_type="closed",
        images=(str(row.path("Figure_path", folder)),),
        options=tuple(choice for choice in choices.values() if choice),
        extra={"letter": letter, "version": version, **extra, **marks},
    )


def _strip_letter(text: str, letter: str) -> str:
    return re.sub(rf"^{letter} ?: ?", "", text)


def _find_letter(row: Row, choices: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Return the letter of the right choice, and the marks of a row that contradicts itself."""
    text = row.text("Answer")
    label = row.text("Answer_label", default=text)
    letter = label.strip(".: ").upper()
    if choices.get(letter):
        is_agreed = text.strip(".: ").upper() in ("", letter) or _is_choice(text, letter, choices[letter])
        return letter, {} if is_agreed else {"answer_text": text}
    named = [letter for letter, choice in choices.items() if choice and _is_choice(text, letter, choice)]
    if len(named) != 1:
        raise row.error(_describe_conflict(row, choices))
    return named[0], {"answer_label": label} if "Answer_label" in row.values else {}


def _is_choice(text: str, letter: str, choice: str) -> bool:
    """Tell whether a text, with or without its letter, is a choice; case, quotes and full stops do not count."""
    forms, wanted = (text, _strip_letter(text, letter)), choice.casefold().strip(" .'\"")
    return any(form.casefold().strip(" .'\"") == wanted for form in forms)


def _describe_conflict(row: Row, choices: Mapping[str, str]) -> str:
    label = f"'Answer_label' is {quote(row.text('Answer_label'))} and " if "Answer_label" in row.values else ""
    offered = ", ".join(f"{letter}: {quote(choice)}" for letter, choice in choices.items())
    return f"{label}'Answer' is {quote(row.text('Answer'))}, but the choices are {offered}"


PLUGIN = PMCVQA()

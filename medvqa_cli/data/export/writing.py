"""The export of a data set: one file a split, and copies of its pictures if they are wanted."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from medvqa_cli.data.export.files import encode_columns, encode_json, write_lines, write_list, write_parquet
from medvqa_cli.data.export.forms import make_llava_row, make_plain_row, make_unimedvl_row
from medvqa_cli.data.export.pictures import PictureNames, find_common_folder
from medvqa_cli.data.images import MAX_PIXELS
from medvqa_cli.errors import DataError
from medvqa_cli.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from medvqa_cli.records import VQASample

Form = Literal["llava", "unimedvl", "parquet", "jsonl"]
FORMS: tuple[Form, ...] = get_args(Form)
@dataclass(frozen=True, slots=True)
class Writer:
    """How a form is written: a row of a sample, the row encoded, the file, and how the file's name ends."""

    make_row: Callable[[VQASample, PictureNames], dict[str, Any]]
    encode: Callable[[dict[str, Any]], Any]
    write: Callable[[Path, Iterator[Any]], int]
    ending: str


WRITERS = {"llava": Writer(make_llava_row, encode_json, write_list, "_llava_sft.json"),
           "unimedvl": Writer(make_unimedvl_row, encode_json, write_lines, "_unimedvl.jsonl"),
           "parquet": Writer(make_plain_row, encode_columns, write_parquet, ".parquet"),
           "jsonl": Writer(make_plain_row, encode_json, write_lines, ".jsonl")}


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export wrote.

    Attributes:
        files: The file of each split.
        counts: Questions of each split.
        image_root: Folder that the paths of pictures start from; None if there are no pictures, or all are absolute.
        num_pictures: Distinct pictures: images, masks and output images.
        num_outside: How many of them lie outside `image_root`, so that their absolute paths were written.
    """

    files: dict[str, Path]
    counts: dict[str, int]
    image_root: Path | None
    num_pictures: int
    num_outside: int


def export_samples(splits: Mapping[str, Iterable[VQASample]], directory: Path, form: Form, *, dataset: str,
                   images: Literal["reference", "copy"] = "reference", image_root: Path | None = None,
                   overwrite: bool = False, max_pixels: int = MAX_PIXELS, progress: Progress = SILENT) -> ExportReport:
    """Write samples in a form that other programs read, so that they can be read back without loss.

    Files are `{dataset}_{split}_llava_sft.json`, `{dataset}_{split}_unimedvl.jsonl`, `{dataset}_{split}.parquet` or
    `{dataset}_{split}.jsonl`. Nothing stands at its place before everything is written; an error or Ctrl-C leaves what
    was there. Samples that come as an iterator are held in memory only if the folder of their pictures is to be found.

    Args:
        splits: The samples of each split.
        directory: Folder to write to; made if it is not there.
        form: llava: LLaVA's conversation JSON; unimedvl: UniMedVL's JSON lines; parquet: a column for every field;
            jsonl: `records.to_json` rows.
        dataset: Name of the data set, for the files' names.
        images: reference: write the paths of the pictures where they are; copy: copy each picture once to
            `directory`/images, named after its content, and DICOM as PNG.
        image_root: Folder that written paths start from; the deepest one that holds all pictures if None. Pictures
            outside keep their absolute path, and a warning says so. Not to be given with copies.
        overwrite: Write into a folder that is not empty; files of the same name are replaced, others stay.
        max_pixels: Refuse pictures with more pixels, where they are looked at: for copies and for unimedvl.
        progress: Counts questions.

    Raises:
        DataError: If the folder is not empty, there is nothing to write, a sample has no place in the form, or a
            picture that is looked at is missing or unreadable.
    """
    if images == "copy" and image_root is not None:
        raise DataError(f"The paths of copied pictures start from the output folder, not from '{image_root}'.",
                        "Leave out the image root, or the copies.")
    directory = directory.expanduser().absolute()
    _check_target(directory, overwrite=overwrite)
    if images == "reference" and image_root is None:
        splits = {split: samples if isinstance(samples, Sequence) else list(samples)
                  for split, samples in splits.items()}
        root = find_common_folder(sample for samples in splits.values() for sample in samples)
    else:
        root = image_root.expanduser().absolute() if image_root else directory
    with _stage(directory) as part:
        names = PictureNames(root, part if images == "copy" else None, max_pixels)
        writer = WRITERS[form]
        files = {split: f"{dataset}_{split}{writer.ending}" for split in splits}
        counts = {split: writer.write(part / files[split], _encode_rows(samples, writer, names, progress))
                  for split, samples in splits.items()}
        if not sum(counts.values()):
            raise DataError(f"There is no question of '{dataset}' to export.", "Choose another split or other filters.")
    if names.num_outside:
        place = f"'{root}'" if root else "any common folder"
        progress.warn(f"{names.num_outside} of {names.num_pictures} pictures lie outside {place}: their absolute "
                      "paths, which name folders of this machine, were written. Avoid it with --copy-images.")
    return ExportReport({split: directory / name for split, name in files.items()}, counts,
                        root if names.num_pictures > names.num_outside else None, names.num_pictures,
                        names.num_outside)


def _check_target(directory: Path, *, overwrite: bool) -> None:
    if directory.exists() and not directory.is_dir():
        raise DataError(f"'{directory}' is a file.", "Name a folder to export to.")
    if directory.is_dir() and not overwrite and any(directory.iterdir()):
        raise DataError(f"The folder '{directory}' is not empty.",
                        "Name another one, or replace files of the same names with --overwrite.")


def _encode_rows(samples: Iterable[VQASample], writer: Writer, names: PictureNames,
                 progress: Progress) -> Iterator[Any]:
    progress.start("Exporting", len(samples) if isinstance(samples, Sequence) else None, "question")
    for sample in samples:
        try:
            row = writer.encode(writer.make_row(sample, names))
        except (TypeError, ValueError) as error:
            raise DataError(f"Question '{sample.question_id}' of data set '{sample.dataset}', split '{sample.split}', "
                            f"cannot be written: {error}.", "This is a fault of the data set's reader.") from error
        yield row
        progress.advance()
    progress.finish()


@contextlib.contextmanager
def _stage(directory: Path) -> Iterator[Path]:
    """Yield a folder whose content replaces, at the end, what has the same name in `directory`.

    A new directory appears whole; in one that is there, pictures are moved before the files that name them.
    """
    is_new = not directory.exists()
    part = (directory.parent if is_new else directory) / f".{directory.name}.{os.getpid()}.part"
    try:
        part.mkdir(parents=True)
        yield part
        if is_new:
            part.rename(directory)
        else:
            _move_into(part, directory)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _move_into(part: Path, directory: Path) -> None:
    files = [path for path in part.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.parent == part):
        target = directory / path.relative_to(part)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)

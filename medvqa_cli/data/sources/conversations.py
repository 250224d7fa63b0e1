"""Conversations: rows of human and gpt turns about pictures, in LLaVA's or UniMedVL's form."""

from __future__ import annotations

import codecs
import json
import os
from collections import Counter, defaultdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.exchange import MARKED_KEY, OWN_KEY, TURN_KEYS, Dialogue, read_dialogue, restore_sample
from medvqa_cli.data.protocol import DatasetCard
from medvqa_cli.data.reading import (
    SPLIT_WORDS,
    Row,
    find_folder,
    find_split_words,
    is_unicode,
    join_path,
    quote,
    read_json_rows,
    read_jsonl_rows,
)
from medvqa_cli.errors import DataError
from medvqa_cli.records import AnswerType, VQASample

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic import BaseModel

SUFFIXES = (".json", ".jsonl")
OWN_ENDINGS = ("_llava_sft.json", "_unimedvl.jsonl")
IMAGE_KEYS = ("image", "images")
FORMAT_KEYS = {*TURN_KEYS, *IMAGE_KEYS, "id", "answer_type", "input_img", "output_img", OWN_KEY}
TASKS = {"text_only": (False, False), "image_understanding": (True, False), "image_to_image": (True, True)}
"""Task type -> whether it has input images, and output images; any other type may have both, one or none."""
FIELDS_IN_ROWS = ("question_type", "modality", "organ", "language")
PATH_HINT = ("Paths must be relative to the folder of the file (or to options.image_root) and must not contain '..'; "
             "options.absolute_paths=true accepts absolute ones.")


class Conversations:
    r"""One file, or a folder with a file for each split, whose name has a word such as train, val or test in it.

    ```
    {"id": "7", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nIs it normal?"},
                                                    {"from": "gpt", "value": "Yes"}]}
    {"main_task_type": "image_understanding", "input_img": [{"path": "a.png", "height": 64, "width": 64}],
     "message": [{"from": "human", "value": "<image>\n\nIs it normal?"}, {"from": "gpt", "value": "Yes"}]}
    ```

    Rows stand in one JSON list or one a line, and may be of both forms. `image` is a path, a list of paths or absent;
    "user" and "assistant" are "human" and "gpt"; a system turn becomes context. Each human turn and its answer make one
    sample, with all pictures shown so far, and those of its own answer as output images. With `turns=history` the
    earlier pairs are its history, so the questions of a row do not share a prefix as plain questions about an image do.

    Marks: every `<image>` in a human turn stands for one input picture (in a gpt turn: an output picture), in order.
    They are taken out with the white space around them. At the start or the end of the first human turn nothing is
    lost; a question with marks elsewhere also stays as it was in extra["marked_question"]; where marks stood in a
    history, and the pictures that its answers gave, is lost.

    Rows without an id are numbered; an id that returns within a split (LLaVA's own files do that) gets "(2)" and so on,
    and several samples of one row "_1", "_2". Texts and numbers under other keys go to extra (modality, organ,
    question_type and language to these fields). Rows of our own export ("medvqa") give back the very samples exported,
    one a row.
    """

    card = DatasetCard(
        title="Conversations",
        summary="Your own LLaVA conversation JSON or UniMedVL JSONL: several turns, several images or none.",
        licence="that of your files",
        citation="Formats: Liu et al. 2023, Visual Instruction Tuning, arXiv:2304.08485; UniMedVL.",
        homepage="https://github.com/haotian-liu/LLaVA/blob/main/docs/Finetune_Custom_Data.md",
        obtain="It is a reader for your own files: name a .json or .jsonl file, or a folder with one file a split "
               "(train, validation or test stands in its name), with --root PATH.",
        closed_definition="options.closed = auto (default): the row's own answer_type, else an answer that is yes or "
                          "no; options.closed = yes_no: the answer is yes or no; options.closed = never: none",
        single_file=True,
    )

    @cached_property
    def Options(self) -> type[BaseModel]:  # noqa: N802 - the protocol's name
        """The reader's options, built when first asked for: importing this file must not import pydantic."""
        from typing import Literal

        from pydantic import Field

        from medvqa_cli.settings.section import Section

        class ConversationsOptions(Section):
            """How conversations are read."""

            image_root: Path | None = None
            """Folder that picture paths start from, absolute or relative to the files' folder; else that folder."""
            absolute_paths: bool = False
            """Accept absolute picture paths, which may lead anywhere on this machine."""
            split: str = Field("", pattern=r"^\w*$")
            """Split of a single file; not given: a split's name in the file's name, else train."""
            turns: Literal["history", "separate", "first"] = "history"
            """history: earlier turns stand before a question; separate: every question alone; first: only the first."""
            closed: Literal["auto", "yes_no", "never"] = "auto"
            """What makes a question closed: answer_type in the row, else a yes/no answer; the answer alone; nothing."""

        return ConversationsOptions

    def find_root(self, root: Path | None) -> Path:
        """Return the file, or the folder with the files of the splits; see `Dataset.find_root`."""
        return find_folder(self.card, root, _find_fault)

    def read(self, root: Path, options: Any) -> Iterator[VQASample]:
        """Yield all samples of all files; see `Dataset.read`."""
        reader = ConversationReader(root if root.is_dir() else root.parent, options)
        for path, split in _choose_files(root, options.split):
            for row in _read_rows(path):
                yield from reader.make_samples(row, split)


class ConversationReader:
    """Makes samples of rows."""

    def __init__(self, folder: Path, options: Any) -> None:
        self._options = options
        self._folder = folder / options.image_root.expanduser() if options.image_root else folder
        self._seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
        if not self._folder.is_dir():
            raise DataError(f"The folder of pictures '{self._folder}' does not exist.", "Correct options.image_root.")

    def make_samples(self, row: Row, split: str) -> Iterator[VQASample]:
        """Yield the samples of a row.

        Raises:
            DataError: If the row has a fault; file and row are named.
        """
        inputs, outputs = self._read_pictures(row)
        dialogue = read_dialogue(row, len(inputs), len(outputs))
        if OWN_KEY in row.values:
            yield self._restore(row, split, dialogue, inputs, outputs)
            return
        row_id, described = _read_id(row), _describe(row)
        count = 1 if self._options.turns == "first" else len(dialogue.pairs)
        for number, (question, answer) in enumerate(dialogue.pairs[:count]):
            if not question:
                raise row.error(f"question {number + 1} has no text")
            images = inputs[:dialogue.shown[number + 1]]
            kept = {MARKED_KEY: dialogue.marked[number]} if dialogue.has_marks_inside(number) else {}
            yield VQASample(
                dataset="conversations", split=split, question=question, answer=answer,
                question_id=self._make_id(split, f"{row_id}_{number + 1}" if count > 1 else row_id),
                image_id=self._name_images(images) or f"text {split} {row.number}",
                answer_type=_find_answer_type(row, answer, self._options.closed), images=images,
                output_images=outputs[dialogue.drawn[number]:dialogue.drawn[number + 1]],
                history=dialogue.pairs[:number] if self._options.turns == "history" else (),
                context=(dialogue.system,) if dialogue.system else (),
                **described | {"extra": described["extra"] | kept})

    def _restore(self, row: Row, split: str, dialogue: Dialogue, images: tuple[str, ...],
                 outputs: tuple[str, ...]) -> VQASample:
        """Return the sample that our own export made this row of: what the turns say, and the rest of its fields."""
        rest = row.value(OWN_KEY)
        if not isinstance(rest, dict):
            raise row.wrong(OWN_KEY, "an object")
        paths = {key: self._locate_all(row, rest[key], key) for key in ("masks", "output_images") if key in rest}
        question, answer = dialogue.pairs[-1]
        said = {"dataset": "conversations", "split": split, "question_id": _read_id(row), "question": question,
                "answer": answer, "answer_type": _find_answer_type(row, answer, self._options.closed),
                "history": dialogue.pairs[:-1], "images": images, "image_id": self._name_images(images),
                "output_images": outputs}
        chosen = {"split": self._options.split} if self._options.split else {}
        return restore_sample(row, said | rest | paths | chosen, OWN_KEY)

    def _read_pictures(self, row: Row) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if "message" not in row.values:
            key = next((key for key in IMAGE_KEYS if row.optional(key)), "")
            return self._locate_all(row, row.values[key], key) if key else (), ()
        found = [self._locate_all(row, row.optional(key, []), key) for key in ("input_img", "output_img")]
        task = row.required_text("main_task_type")
        expected = TASKS.get(task)
        if expected and expected != tuple(map(bool, found)):
            raise row.error(f"a row of main_task_type '{task}' has {len(found[0])} input pictures and {len(found[1])} "
                            "output pictures", "Correct main_task_type, input_img or output_img.")
        return found[0], found[1]

    def _locate_all(self, row: Row, entries: Any, key: str) -> tuple[str, ...]:
        if isinstance(entries, str):
            entries = [entries]
        if not isinstance(entries, list):
            raise row.error(f"'{key}' should be a path or a list of paths, but is {quote(entries)}")
        return tuple(self._locate(row, entry, key) for entry in entries)

    def _locate(self, row: Row, entry: Any, key: str) -> str:
        path = entry.get("path") if isinstance(entry, dict) else entry
        if not isinstance(path, str) or not is_unicode(path):
            raise row.error(f"a picture in '{key}' should be a path, or an object with one, but is {quote(entry)}")
        if self._options.absolute_paths and Path(path).is_absolute() and "\0" not in path:
            return path
        try:
            # UniMedVL joins a path to its folder of pictures without the leading '/'.
            return str(join_path(self._folder, path.removeprefix("/") if isinstance(entry, dict) else path))
        except DataError as error:
            raise row.error(f"the path {quote(path)} in '{key}' does not stay inside '{self._folder}'",
                            PATH_HINT) from error

    def _name_images(self, images: Iterable[str]) -> str:
        return " + ".join(image.removeprefix(f"{self._folder}{os.sep}").replace(os.sep, "/") for image in images)

    def _make_id(self, split: str, wanted: str) -> str:
        """Return an id that no other question of the split has."""
        seen = self._seen[split]
        name = wanted
        while name in seen:
            seen[wanted] += 1
            name = f"{wanted} ({seen[wanted]})"
        seen[name] = 1
        return name


def _choose_files(root: Path, split: str) -> list[tuple[Path, str]]:
    """Return the files to read and the split of each."""
    if root.is_file():
        return [(root, split or _find_split(root) or "train")]
    if split:
        raise DataError(f"options.split is '{split}', but '{root}' is a folder.", "Name one file with --root FILE.")
    return [(paths[0], found) for found, paths in _group_files(root).items()]


def _find_fault(root: Path) -> str:
    if root.is_file():
        return "" if root.suffix.lower() in SUFFIXES else f"its name should end in {' or '.join(SUFFIXES)}"
    groups = _group_files(root)
    twice = next((f"'{paths[0].name}' and '{paths[1].name}' are both of the split '{split}'"
                  for split, paths in groups.items() if len(paths) > 1), "")
    return twice or ("" if groups else "no .json or .jsonl file there has train, validation or test in its name")


def _group_files(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each split; a file of our own export always counts, as its rows know their split."""
    groups: defaultdict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            groups[_find_split(path) or (path.name if path.name.endswith(OWN_ENDINGS) else "")].append(path)
    order = [*dict.fromkeys(SPLIT_WORDS.values()), *sorted(set(groups) - {"", *SPLIT_WORDS.values()})]
    return {split: groups[split] for split in order if split in groups}


def _find_split(path: Path) -> str:
    """Return the one split that a file's name speaks of, or an empty text."""
    found = find_split_words(path)
    return found.pop() if len(found) == 1 else ""


def _read_rows(path: Path) -> Iterable[Row]:
    """Return the rows of a JSON list or of JSON lines: what it is says its first character."""
    try:
        with path.open("rb") as stream:
            start = stream.read(1 << 16).removeprefix(codecs.BOM_UTF8).lstrip()
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror}.", "Check its permissions.") from error
    return read_jsonl_rows(path) if start.startswith(b"{") else read_json_rows(path)


def _read_id(row: Row) -> str:
    return (row.text_or_integer("id") if row.optional("id") is not None else "") or str(row.number)


def _describe(row: Row) -> dict[str, Any]:
    """Return what a row says besides its conversation, as fields of a sample."""
    plain = {key: value if isinstance(value, str) else json.dumps(value) for key, value in row.values.items()
             if key not in FORMAT_KEYS and isinstance(value, str | int | float)}
    if not is_unicode("".join((*plain, *plain.values()))):
        raise row.error("a text in it is not valid Unicode")
    fields = {key: plain.pop(key) for key in FIELDS_IN_ROWS if plain.get(key)}
    return {"extra": plain, **fields}


def _find_answer_type(row: Row, answer: str, closed: str) -> AnswerType:
    if closed == "auto" and row.optional("answer_type"):
        return "closed" if row.choice("answer_type", ("OPEN", "CLOSED")) == "CLOSED" else "open"
    return "closed" if closed != "never" and answer.lower().rstrip(". ") in {"yes", "no"} else "open"


PLUGIN = Conversations()

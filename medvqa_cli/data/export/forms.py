"""A sample as one row of LLaVA's, UniMedVL's and our own form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.data.exchange import MARK, MARKED_KEY, OWN_KEY, remove_marks
from medvqa_cli.data.prepared.rows import PICTURES
from medvqa_cli.errors import DataError
from medvqa_cli.records import to_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from medvqa_cli.data.export.pictures import PictureNames
    from medvqa_cli.records import VQASample

SAID = ("question", "answer", "question_id", "answer_type", "images", "history")
"""Fields that the parts of a row which other programs read already say."""


def make_llava_row(sample: VQASample, names: PictureNames) -> dict[str, Any]:
    """Return a sample as a row of LLaVA's conversation JSON.

    `image` is one path or a list of them; `<image>` stands once for each at the start of the first human turn.
    `answer_type` is OPEN or CLOSED, as LLaVA-Med's own evaluation wants it. What is left of the sample stands under
    "medvqa", which other programs pass over. Source of the form: Liu et al. 2023, arXiv:2304.08485.

    Raises:
        DataError: If a text of the sample has `<image>` in it.
    """
    paths = [names.name(path) for path in sample.images]
    image = {"image": paths[0] if len(paths) == 1 else paths} if paths else {}
    return {"id": sample.question_id, **image, "conversations": _write_turns(sample, "", ""),
            "answer_type": sample.answer_type.upper(), OWN_KEY: _find_rest(sample, names, SAID)}


def make_unimedvl_row(sample: VQASample, names: PictureNames) -> dict[str, Any]:
    """Return a sample as a row of UniMedVL's JSON lines; `<image>` in the answer stands for an output image.

    Raises:
        DataError: If a text of the sample has `<image>` in it, or the size of an image cannot be read.
    """
    pictures = {key: [_describe_picture(path, names) for path in paths]
                for key, paths in (("input_img", sample.images), ("output_img", sample.output_images)) if paths}
    shapes = {"": "text_only", "input_img": "image_understanding", "input_img output_img": "image_to_image"}
    return {"main_task_type": shapes.get(" ".join(pictures), "multimodal_input_output"), **pictures,
            "message": _write_turns(sample, "\n", f" {MARK}" * len(sample.output_images)),
            "id": sample.question_id, "answer_type": sample.answer_type.upper(),
            OWN_KEY: _find_rest(sample, names, (*SAID, "output_images"))}


def make_plain_row(sample: VQASample, names: PictureNames) -> dict[str, Any]:
    """Return a sample as `records.to_json` writes it, with the paths that are written for its pictures."""
    row = to_json(sample)
    return row | {key: [names.name(path) for path in row[key]] for key in PICTURES if key in row}


def _describe_picture(path: str, names: PictureNames) -> dict[str, Any]:
    width, height = names.measure(path)
    return {"path": names.name(path), "height": height, "width": width}


def _write_turns(sample: VQASample, separator: str, ending: str) -> list[dict[str, str]]:
    """Return the turns: the marks stand before the first question, or where the question's reader found them."""
    texts = [text for pair in (*sample.history, (sample.question, sample.answer)) for text in pair]
    if any(MARK in text for text in texts):
        raise DataError(f"Question '{sample.question_id}' of data set '{sample.dataset}', split '{sample.split}', has "
                        f"'{MARK}' in its text, which stands for a picture in this form.",
                        "Export it as parquet or jsonl.")
    marked = sample.extra.get(MARKED_KEY, "")
    if sample.images and marked.count(MARK) == len(sample.images) and remove_marks(marked) == sample.question:
        texts[-2] = marked
    elif sample.images:
        texts[0] = f"{MARK}\n" * len(sample.images) + separator + texts[0]
    texts[-1] += ending
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


def _find_rest(sample: VQASample, names: PictureNames, said: Iterable[str]) -> dict[str, Any]:
    """Return the fields that the rest of the row does not say, or not with every blank."""
    blurred = {name for name in ("question", "answer") if getattr(sample, name) != getattr(sample, name).strip()}
    if not sample.question_id or sample.question_id != " ".join(sample.question_id.split()):
        blurred.add("question_id")
    if any(text != text.strip() for pair in sample.history for text in pair):
        blurred.add("history")
    hidden = set(said) - blurred
    return {key: value for key, value in make_plain_row(sample, names).items() if key not in hidden}

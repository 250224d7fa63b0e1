"""`medvqa eval answers --diagnose`: a folder that shows why answers are wrong; needs no weights."""

from __future__ import annotations

import itertools
import re
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.prompts import choose_style, render_prompt
from medvqa_cli.data.selection import draw_subsample
from medvqa_cli.errors import DataError, MedVQAError, ModelError
from medvqa_cli.evaluation.diagnosis import diagnose_answers, is_right
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import write_atomically, write_json, write_jsonl
from medvqa_cli.workflows.asking import identify
from medvqa_cli.workflows.controls import NEEDED, read_meta, restore_settings
from medvqa_cli.workflows.evaluate import read_predictions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from medvqa_cli.models.encoding import SampleEncoder
    from medvqa_cli.records import Prediction, VQASample
    from medvqa_cli.runs import Run
    from medvqa_cli.settings.schema import Settings

EXAMPLES = 25
PROMPTS = 4
"""Prompts shown of each answer type and style."""
OTHER_WAYS = ("knowledge-", "mask-")
"""Tags of answers made with other facts or another part of the image than the run was trained with."""


def diagnose_run(run: Run, settings: Settings, *, tag: str = "", examples: int = EXAMPLES,
                 progress: Progress = SILENT) -> tuple[Path, dict[str, Any]]:
    """Write `diagnosis/` (`diagnosis-TAG/`) of a run's answers; return the folder and its numbers.

    It holds `diagnosis.json`, `prompts.txt` (as text, and as the model's own tokens where its processor is at hand),
    `errors.jsonl` and `errors/` (wrong answers, drawn with the seed, with the image as it is and as the model saw it).
    What was there before is replaced.

    Raises:
        RunError: If there are no answers, or a row is damaged.
    """
    suffix = f"-{tag}" if tag else ""
    predictions, meta = read_predictions(run.path / f"predictions{suffix}.jsonl"), read_meta(run, tag)
    folder = run.path / f"diagnosis{suffix}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    found = diagnose_answers(predictions)
    found["answers"] = {"file": f"predictions{suffix}.jsonl", "made": meta}
    found["other_ways"] = _compare_ways(run, predictions, settings) if not tag else {}
    made = restore_settings(settings, meta) if all(key in meta for key in NEEDED) else None
    if made is None:
        progress.warn("The answers do not tell how they were asked: there is no prompts.txt.")
    else:
        write_atomically(folder / "prompts.txt", _write_prompts(run, predictions, made, progress))
    errors = _choose_errors(predictions, examples, settings.seed)
    found["errors"] = _write_errors(folder, errors, _find_originals(made, predictions), settings.data.max_pixels,
                                    progress)
    write_json(folder / "diagnosis.json", found)
    return folder, found


def _compare_ways(run: Run, predictions: Sequence[Prediction], settings: Settings) -> dict[str, Any]:
    """Return what is left of each measure in answers made with other facts, or another part of the image."""
    from medvqa_cli.evaluation.controls import compare_control

    known = {identify(p.sample) for p in predictions}
    found = {}
    for path in sorted(run.path.glob("predictions-*.jsonl")):
        tag = path.stem.removeprefix("predictions-")
        if tag.startswith(OTHER_WAYS) and path.stat().st_size:
            others = read_predictions(path)
            if any(identify(p.sample) in known for p in others):
                found[tag] = compare_control(predictions, others, settings.evaluation, seed=settings.seed)
    return found


def _choose_errors(predictions: Sequence[Prediction], number: int, seed: int) -> list[Prediction]:
    """Return wrong answers drawn with the seed, closed and open ones in equal parts as far as there are as many."""
    wrong = {identify(p.sample): p for p in predictions if not is_right(p)}
    drawn = [draw_subsample([p.sample for p in wrong.values() if p.sample.answer_type == kind], number, seed)
             for kind in ("closed", "open")]
    mixed = [sample for pair in itertools.zip_longest(*drawn) for sample in pair if sample is not None]
    return [wrong[identify(sample)] for sample in mixed[:number]]


def _find_originals(made: Settings | None, predictions: Sequence[Prediction]) -> dict[tuple[str, str, str], VQASample]:
    """Return the questions with their images as they are, where the model saw them otherwise."""
    if made is None or made.mask.mode == "none":
        return {}
    from medvqa_cli.workflows.data import choose_samples

    return {identify(sample): sample for sample in choose_samples(made, predictions[0].sample.split)}


def _write_errors(folder: Path, errors: Sequence[Prediction], originals: Mapping[tuple[str, str, str], VQASample],
                  max_pixels: int, progress: Progress) -> dict[str, Any]:
    rows, unread = [], 0
    for number, prediction in enumerate(errors):
        sample = prediction.sample
        name = f"errors/{number:03d}_{re.sub(r'[^A-Za-z0-9_-]', '', sample.question_id)[:40] or 'x'}.jpg"
        original = originals.get(identify(sample))
        before = original.images if original and original.images != sample.images else ()
        shown = replace(sample, images=(*before, *sample.images), context=(*sample.context, _describe(prediction)),
                        boxes=original.boxes if original else sample.boxes)
        try:
            _draw(shown, folder / name, max_pixels)
        except DataError as error:
            unread, name = unread + 1, ""
            progress.warn(f"Question '{sample.question_id}' is shown without its picture: {error.message}")
        rows.append({"question_id": sample.question_id, "image_id": sample.image_id, "question": sample.question,
                     "answer_type": sample.answer_type, "gold": sample.answer, "answer": prediction.answer,
                     "text": prediction.text, "margin": prediction.margin, "logprob": prediction.logprob,
                     "picture": name, "images": list(shown.images)})
    write_jsonl(folder / "errors.jsonl", rows)
    return {"shown": len(rows), "without_picture": unread}


def _describe(prediction: Prediction) -> str:
    margin = "" if prediction.margin is None else f" (margin {prediction.margin:.3f} nats a token)"
    return f"Answered: {prediction.answer or '(nothing)'}{margin}"


def _draw(sample: VQASample, path: Path, max_pixels: int) -> None:
    from medvqa_cli.data.drawing import draw_sample

    path.parent.mkdir(exist_ok=True)
    draw_sample(sample, max_pixels).save(path, quality=85)


def _write_prompts(run: Run, predictions: Sequence[Prediction], settings: Settings, progress: Progress) -> str:
    """Return the first few prompts of each answer type and style, as text and as the model's own tokens."""
    groups: dict[tuple[str, str], list[VQASample]] = {}
    for sample in (p.sample for p in predictions):
        groups.setdefault((sample.answer_type, choose_style(sample, settings.prompt)), []).append(sample)
    encoder, reason = _open_encoder(run, settings)
    if reason:
        progress.warn(f"prompts.txt shows no tokens: {reason}.")
    parts = [f"Tokens: {reason or 'as the model reads them; what stands three times or more in a row is counted'}."]
    for (kind, style), samples in groups.items():
        for sample in samples[:PROMPTS]:
            parts.append(f"=== question {sample.question_id}, {kind}, style {style}\n"
                         f"{render_prompt(sample, settings.prompt)}")
            if encoder:
                parts.append(_show_tokens(encoder, sample))
    return "\n\n".join(parts) + "\n"


def _open_encoder(run: Run, settings: Settings) -> tuple[SampleEncoder | None, str]:
    """Return what turns samples into the model's inputs, or why there is none."""
    from medvqa_cli import plugins
    from medvqa_cli.data.images import read_image
    from medvqa_cli.models.encoding import SampleEncoder
    from medvqa_cli.models.loading import read_config
    from medvqa_cli.workflows.models import choose_family, choose_model, choose_trained

    if settings.infer.engine == "openai":
        return None, "the server applies a template of its own"
    try:
        choice = choose_trained(run) if run.weights else choose_model(settings)
        family = plugins.models.get(choose_family(choice, read_config(choice.checkpoint, choice.commit or None)))
        processor = family.load_processor(choice.checkpoint)
    except (MedVQAError, OSError) as error:
        return None, f"the processor cannot be loaded ({str(error).splitlines()[0]})"
    return SampleEncoder(family, processor, read_image, prompt=settings.prompt), ""


def _show_tokens(encoder: SampleEncoder, sample: VQASample) -> str:
    """Return a prompt as its tokenizer spells it, runs of one token shortened, with the number of tokens."""
    try:
        ids = encoder.encode_text(sample, encoder.encode_images(sample)).prompt
    except (DataError, ModelError) as error:
        return f"tokens: {error.message}"
    return f"tokens ({len(ids)}): {_spell(ids, encoder.processor.tokenizer.decode)}"


def _spell(ids: Sequence[int], decode: Any) -> str:
    """Return tokens as text, in which a token that stands three times or more in a row is written once."""
    pieces: list[str] = []
    plain: list[int] = []
    for token, same in itertools.groupby(ids):
        number = len(list(same))
        if number < 3:
            plain += [token] * number
        else:
            pieces += [decode(plain), f"[{decode([token])} x {number}]"]
            plain = []
    return "".join([*pieces, decode(plain)])

"""`medvqa infer`: a model and questions to prediction rows."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.replies import read_reply
from medvqa_cli.errors import DataError, RunError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import JsonlWriter, Prediction, VQASample, read_jsonl, write_json, write_jsonl
from medvqa_cli.runs import Run, create_run, latest_run, now, open_run
from medvqa_cli.settings.data import KnowledgeSettings, MaskSettings, PromptSettings
from medvqa_cli.settings.schema import Settings, to_tree
from medvqa_cli.workflows.analysis import find_warnings
from medvqa_cli.workflows.baselines import measure_baselines
from medvqa_cli.workflows.data import load_presented, load_samples, open_data
from medvqa_cli.workflows.lengths import find_answer_bound, keep_readable
from medvqa_cli.workflows.models import build_encoder, choose_model, describe_model, load_choice, open_run_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from medvqa_cli.inference.transformers_engine import TransformersEngine
    from medvqa_cli.models.protocol import LoadedModel
    from medvqa_cli.workflows.presentation import Presented

MASK_KEYS = ("mode", "classes", "pad_ratio")
NOT_COMPARED = ("expected", "too_long", "baselines", "data_warnings", "presentation")
"""What may change between two calls that answer the same questions in the same way."""


def infer_split(settings: Settings, *, run: str | None = None, split: str | None = None, tag: str = "",
                overwrite: bool = False, progress: Progress = SILENT) -> Run:
    """Answer a split and append the answers to `predictions.jsonl` (`predictions-TAG.jsonl`) of a run.

    Questions answered before are not asked again, so a killed run resumes. Without `run`, the model of
    `settings.model` answers in a run of its own; without either, the latest trained run does.

    Raises:
        RunError: If the file holds answers made in another way (other model, split, decoding...).
        MedVQAError: On bad settings, data or model.
    """
    split = split or settings.data.test_split
    load_samples(settings, split, progress=progress)  # a fault in the data is found before a large model is loaded
    target, loaded = open_model(settings, run, progress)
    tag = tag or _default_tag(settings, split, target)
    answer_split(settings, target, loaded, split=split, tag=tag, overwrite=overwrite, progress=progress)
    return target


def answer_split(settings: Settings, target: Run, loaded: LoadedModel, *, split: str, tag: str = "",
                 overwrite: bool = False, progress: Progress = SILENT) -> None:
    """Answer the questions of a split that have no answer yet, with a loaded model.

    Raises:
        RunError: If the file holds answers made in another way (other model, split, decoding...).
    """
    presented = load_presented(settings, split, progress)
    engine = build_engine(loaded, settings)
    samples = keep_readable(presented.samples, find_answer_bound(settings, loaded), engine.encoder, settings, progress,
                            with_answer=False)
    meta = describe_job(settings, split, loaded) | describe_data(settings, target, presented) | {
        "expected": len(samples), "too_long": len(presented.samples) - len(samples),
        "baselines": measure_baselines(settings, samples)}
    path = prepare_rows(target, "predictions" + (f"-{tag}" if tag else ""), meta, overwrite=overwrite)
    rest = leave_out_done(samples, path)
    progress.say(f"{len(samples)} questions of {settings.data.dataset}/{split}"
                 + (f", {len(samples) - len(rest)} answered before" if len(rest) < len(samples) else ""))
    with JsonlWriter(path) as writer:
        for prediction in answer_samples(engine, rest, settings, progress):
            writer.write(prediction)


def infer_image(settings: Settings, image: Path, questions: Sequence[str], *, run: str | None = None,
                progress: Progress = SILENT) -> list[Prediction]:
    """Answer questions about one picture.

    Raises:
        DataError: If the picture cannot be read, or no question is given.
        MedVQAError: On a bad model.
    """
    if not questions:
        raise DataError("There is no question about the image.", 'Ask with --question "Is there a lesion?".')
    from medvqa_cli.data.images import read_image

    read_image(image, max_pixels=settings.data.max_pixels)
    samples = [VQASample(dataset="image", split="image", question_id=str(number), image_id=image.name,
                         question=question, answer="", answer_type="open", images=(str(image.resolve()),))
               for number, question in enumerate(questions)]
    loaded = open_model(settings, run, progress, create=False)[1]
    return list(answer_samples(build_engine(loaded, settings), samples, settings, SILENT))


def open_model(settings: Settings, run: str | None, progress: Progress, *,
               create: bool = True) -> tuple[Run, LoadedModel]:
    """Return a run to write to and its model.

    That is the named run's, else the named model in a run of its own, else the latest trained run's.

    Raises:
        RunError: If the run is unknown, or nothing is named and there is no trained run.
        ModelError: If the model cannot be had.
    """
    runs = settings.paths.runs
    if run is None and settings.model.name:
        loaded = load_choice(choose_model(settings), settings, progress)
        if not create:
            return Run(runs), loaded
        target = _reuse_or_create(settings, loaded)
        return target, loaded
    target = open_run(runs, run) if run else latest_run(runs)
    if run is None:
        progress.say(f"No model named: taking the latest run, '{target.name}'.")
    return target, open_run_model(target, settings, progress)


def build_engine(loaded: LoadedModel, settings: Settings) -> TransformersEngine:
    """Return the engine that answers: one prefill for an image where the family allows it."""
    from medvqa_cli.inference.transformers_engine import TransformersEngine

    packs = loaded.family.capabilities.packs and settings.model.attention != "flash"
    return TransformersEngine(loaded, build_encoder(loaded, settings),
                              shared_prefix=packs and settings.infer.shared_prefix != "off",
                              batch_size=settings.infer.batch_size)


def answer_samples(engine: TransformersEngine, samples: Sequence[VQASample], settings: Settings,
                   progress: Progress) -> Iterator[Prediction]:
    """Yield one prediction for each sample, the questions of an image together; the answer is read from its reply."""
    from medvqa_cli.inference.protocol import Decoding
    from medvqa_cli.inference.seeds import seed_for

    malformed = 0
    progress.start("Answering", len(samples), "question")
    for group in group_samples(samples):
        decoding = Decoding(settings.infer.max_new_tokens, settings.infer.temperature,
                            seed_for(settings.seed, group[0].images))
        for sample, written in zip(group, engine.generate(group, decoding), strict=True):
            reply = read_reply(written.text, sample, settings.prompt)
            malformed += not reply.is_well_formed
            yield Prediction(sample=sample, answer=reply.answer, logprob=written.logprob, num_tokens=written.num_tokens,
                             text="" if reply.answer == written.text else written.text)
        progress.advance(len(group))
    progress.finish()
    warn_malformed(malformed, len(samples), progress)


def warn_malformed(number: int, total: int, progress: Progress) -> None:
    """Say how many replies are not in the form that the prompt asks for, if any."""
    if number:
        progress.warn(f"{number} of {total} replies are not in the form that prompt.style asks for: each counts as its "
                      "whole text. Was there room for it (--max-new-tokens)?")


def group_samples(samples: Sequence[VQASample]) -> list[list[VQASample]]:
    """Return samples grouped by their images, in order of appearance; one without an image is a group of its own."""
    groups: dict[tuple[str, ...], list[VQASample]] = {}
    for number, sample in enumerate(samples):
        groups.setdefault(sample.images or (str(number),), []).append(sample)
    return list(groups.values())


def prepare_rows(run: Run, name: str, meta: dict[str, Any], *, overwrite: bool) -> Path:
    """Return the path of a row file whose side file says how its rows were made; the two must agree.

    Raises:
        RunError: If rows made in another way are there and `overwrite` is not set.
    """
    path, side = run.path / f"{name}.jsonl", run.path / f"{name}.meta.json"
    if overwrite:
        path.unlink(missing_ok=True)
    if side.exists() and path.exists():
        _check_same_job(run.read_json(side.name), meta, path)
    write_json(side, meta | {"created": now()})
    return path


def leave_out_done(samples: Sequence[VQASample], path: Path) -> list[VQASample]:
    """Return the samples of all images that are not wholly answered in a row file yet.

    The rows of an image that was under way when the run was killed are dropped: its questions share one prefill and
    one stream of random numbers, so only the whole image gives the same answers again.
    """
    rows = list(read_jsonl(path)) if path.exists() else []
    done = {row["sample"]["question_id"] for row in rows}
    rest = [sample for group in group_samples(samples) for sample in group
            if any(member.question_id not in done for member in group)]
    again = {sample.question_id for sample in rest} & done
    if again:
        write_jsonl(path, [row for row in rows if row["sample"]["question_id"] not in again])
    return rest


def _check_same_job(known: dict[str, Any], meta: dict[str, Any], path: Path) -> None:
    known = _upgrade_job(known, meta)
    for key, wanted in meta.items():
        if key not in NOT_COMPARED and _canonical(known.get(key)) != _canonical(wanted):
            raise RunError(f"'{path}' holds rows made with another {key}: {known.get(key)!r}, now {wanted!r}.",
                           ("Use --tag NAME to keep both, or --overwrite" if path.name.startswith("predictions")
                            else "Use --overwrite") + " to make the rows anew.")


def _upgrade_job(known: dict[str, Any], meta: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a job in today's form; where an older version did not state one, `meta` is believed."""
    if "instruction" not in known:
        return known
    before = {"prompt": to_tree(PromptSettings(instruction=known["instruction"])),
              "mask": MaskSettings().model_dump(include=set(MASK_KEYS)), "knowledge": to_tree(KnowledgeSettings())}
    return meta | known | before


def _describe_mask(mask: MaskSettings) -> dict[str, Any]:
    return {key: value for key, value in to_tree(mask).items() if key in MASK_KEYS}


def _canonical(value: Any) -> str:
    return json.dumps(value, default=str, sort_keys=True)


def _default_tag(settings: Settings, split: str, target: Run) -> str:
    """Return the tag of answers that are not the run's main ones.

    That is, those to blank images, to another split, with other facts or another part of the image than trained with.
    """
    parts = ["blank"] if settings.infer.blank_images else []
    if split != settings.data.test_split:
        parts.append(split)
    own = target.read_json("settings.json")
    for section, mode in (("mask", settings.mask.mode), ("knowledge", settings.knowledge.mode)):
        if mode != own.get(section, {}).get("mode", mode):
            parts.append(f"{section}-{mode}")
    return "-".join(parts)


def describe_job(settings: Settings, split: str, loaded: LoadedModel) -> dict[str, Any]:
    """Return everything that decides the answers, as plain JSON values: data, model, prompt, decoding, seed."""
    prepared = open_data(settings, SILENT)
    return {"dataset": prepared.name, "split": split, "fingerprint": prepared.fingerprint,
            "closed_definition": prepared.closed_definition,
            "data_options": settings.data.options,
            "language": settings.data.language, "question_type": settings.data.question_type,
            "limit": settings.data.limit, "model": describe_model(loaded),
            "decoding": {"max_new_tokens": settings.infer.max_new_tokens, "temperature": settings.infer.temperature},
            "prompt": to_tree(settings.prompt), "mask": _describe_mask(settings.mask),
            "knowledge": to_tree(settings.knowledge), "blank_images": settings.infer.blank_images,
            "seed": settings.seed}


def describe_data(settings: Settings, target: Run, presented: Presented) -> dict[str, Any]:
    """Return what belongs beside every number made from these answers: findings about the data, what images show.

    Returns:
        "data_warnings": findings about the data that the run was trained on and about these; "presentation": see
        `Presented.notes`.
    """
    trained = target.read_json("manifest.json").get("data", {}).get("warnings", [])
    return {"data_warnings": list(dict.fromkeys([*trained, *find_warnings(settings), *presented.warnings])),
            "presentation": presented.notes}


def _reuse_or_create(settings: Settings, loaded: LoadedModel) -> Run:
    """Return the run in which this model answered before, or a new one."""
    name = f"infer-{_slug(loaded.adapter or loaded.checkpoint)}"
    with contextlib.suppress(RunError):
        known = open_run(settings.paths.runs, name)
        if known.read_json("manifest.json").get("model") == describe_model(loaded):
            return known
    run = create_run(settings.paths.runs, name)
    write_json(run.settings, to_tree(settings))
    run.update_manifest(model=describe_model(loaded))
    return run


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "._" else "-" for c in text.lower()).strip("-._")[-60:].strip("-._")

"""What there is to know of a model before it is loaded: its card, its parts, its files, the memory it takes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli import plugins
from medvqa_cli.errors import MedVQAError, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

    from medvqa_cli.models.memory import Workload
    from medvqa_cli.models.protocol import ModelFamily
    from medvqa_cli.models.shapes import ModelShape, PictureSize
    from medvqa_cli.settings.schema import Settings

JOBS: dict[str, dict[str, Any]] = {
    "inference": {},
    "inference, 4-bit": {"quantization": "4bit"},
    "LoRA": {"tuning": "lora"},
    "QLoRA, 4-bit": {"tuning": "lora", "quantization": "4bit"},
    "full training": {"tuning": "full"},
}
"""What memory is estimated for."""
REAL = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is shown to the model at once, beside what the settings say.

    Attributes:
        resolution: Width and height of the picture, in pixels.
        tokens: Text tokens of one question with its prompt and answer.
        answer_tokens: Those of them that are answer.
        questions: Questions that share a picture, where the family packs.
    """

    resolution: tuple[int, int] = (336, 336)
    tokens: int = 64
    answer_tokens: int = 16
    questions: int = 1


def list_families() -> list[dict[str, Any]]:
    """Return every family with what helps to choose one; one that does not load says why. Imports no framework."""
    rows = []
    for name in plugins.models.names():
        row: dict[str, Any] = {"name": name, "origin": plugins.models.origin(name),
                               "summary": plugins.models.summary(name)}
        if problem := plugins.models.failure(name):
            rows.append(row | {"problem": problem})
            continue
        family = plugins.models.get(name)
        rows.append(row | {"checkpoint": next(iter(family.card.checkpoints.values()), ""),
                           "shares_images": family.capabilities.packs, "licence": family.card.licence})
    return rows


def describe_family(name: str) -> dict[str, Any]:
    """Return a family's card, capabilities, layout, LoRA targets and own options."""
    family = plugins.models.get(name)
    return {"name": name, "origin": plugins.models.origin(name), **dataclasses.asdict(family.card),
            **dataclasses.asdict(family.layout), **dataclasses.asdict(family.capabilities),
            "options": describe_options(family.Options)}


def describe_options(options: type[BaseModel] | None) -> dict[str, Any]:
    """Return a plugin's own options: name -> default and documentation."""
    fields = options.model_fields if options else {}
    return {name: {"default": field.get_default(call_default_factory=True), "help": field.description}
            for name, field in fields.items()}


def describe_model(settings: Settings, load: Load | None = None, *, download: bool = False) -> dict[str, Any]:
    """Return all facts about the model that `model.name` names, without loading weights.

    Args:
        settings: `model.name` is a family, checkpoint, folder, or a run's trained folder; `model` and `train` say how
            it is used.
        load: What it is shown at once.
        download: Fetch the checkpoint's small files (configuration, tokenizer) from the hub; never weights.

    Returns:
        The family's facts, and `checkpoint`: its id, and its folder if it is on this machine. If it is, also `parts`
        (parameters), `files` (bytes, number formats, findings), `picture` (tokens and patches) and `memory` (job ->
        term -> bytes).

    Raises:
        ModelError: If nothing goes by the name, or the checkpoint's config.json describes no model of a known family.
    """
    from medvqa_cli.workflows.models import choose_family, choose_model

    choice = choose_model(settings)
    folder = find_folder(choice.checkpoint, choice.commit or settings.model.revision, download=download)
    checkpoint = {"checkpoint": choice.checkpoint, "adapter": choice.adapter, "folder": folder}
    if folder is None:
        if choice.family_name is None:
            raise ModelError(f"The family of '{choice.checkpoint}' is not known: its config.json is not on this "
                             "machine.", "Add --download-config, or name its family with --family.")
        return describe_family(choice.family_name) | {"checkpoint": checkpoint}
    from medvqa_cli.models.loading import read_config

    family_name = choose_family(choice, read_config(folder))
    return describe_family(family_name) | {"checkpoint": checkpoint} | describe_folder(
        plugins.models.get(family_name), folder, settings, load or Load())


def find_folder(checkpoint: str, revision: str | None, *, download: bool) -> str | None:
    """Return the folder with a checkpoint's config.json: its own, or the hub's cache; None if there is none.

    Raises:
        ModelError: If `download` is asked for and the hub does not give it.
    """
    if Path(checkpoint).is_dir():
        return checkpoint
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    from medvqa_cli.models.hub import DESCRIPTIONS, explained_hub_failures

    with explained_hub_failures(checkpoint, revision):
        if download:
            snapshot_download(checkpoint, revision=revision, allow_patterns=list(DESCRIPTIONS))
        found = try_to_load_from_cache(checkpoint, "config.json", revision=revision)
    return str(Path(found).parent) if isinstance(found, str) else None


def describe_folder(family: ModelFamily, folder: str, settings: Settings, load: Load) -> dict[str, Any]:
    """Return parts, files, picture and memory of a checkpoint that is on this machine; what cannot be told is said."""
    from medvqa_cli.models.adapters import find_full_parts
    from medvqa_cli.models.loading import silence_libraries
    from medvqa_cli.models.shapes import build_empty, read_shape
    from medvqa_cli.models.targets import find_targets

    silence_libraries()
    model = build_empty(family, folder)
    find_full_parts(model, family.layout, settings.train)  # an error if more layers are asked for than there are
    shape = read_shape(model, family.layout, find_targets(model, family.layout, settings.train.lora))
    facts = {"parts": shape.parameters, "files": describe_files(folder, sum(shape.parameters.values()))}
    try:
        picture = read_picture(family, folder, load.resolution, shape)
    except MedVQAError as error:
        return facts | {"picture": None, "memory": {},
                        "note": f"Memory is not estimated, as the processor cannot be loaded: {error.message}"}
    jobs = {job: plan_work(picture, settings, load, packs=family.capabilities.packs, **changes)
            for job, changes in JOBS.items()}
    return facts | {"picture": dataclasses.asdict(picture), "load": describe_load(jobs["LoRA"], load),
                    "memory": estimate_jobs(shape, jobs)}


def estimate_jobs(shape: ModelShape, jobs: Mapping[str, Workload]) -> dict[str, dict[str, int]]:
    """Return job -> term -> bytes, `total` last."""
    from medvqa_cli.models.memory import estimate_memory

    terms = {job: estimate_memory(shape, work) for job, work in jobs.items()}
    return {job: {**parts, "total": sum(parts.values())} for job, parts in terms.items()}


def read_picture(family: ModelFamily, folder: str, size: tuple[int, int], shape: ModelShape) -> PictureSize:
    """Return what a picture of a size becomes under a checkpoint's own processor.

    Raises:
        ModelError: If the processor cannot be loaded, or takes no such picture.
    """
    from medvqa_cli.models.loading import explained_failures
    from medvqa_cli.models.shapes import measure_picture

    with explained_failures(folder):
        return measure_picture(family, family.load_processor(folder), size, shape)


def plan_work(picture: PictureSize | None, settings: Settings, load: Load, *, packs: bool,
              **changes: Any) -> Workload:
    """Return a step of this size; an open number format is bfloat16, or float32 where the CPU is asked for."""
    from medvqa_cli.models.memory import Workload

    train, on_gpu = settings.train, settings.model.device != "cpu"
    dtype = settings.model.dtype if settings.model.dtype != "auto" else "bfloat16" if on_gpu else "float32"
    return Workload(picture=picture, rows=train.batch_size, questions=load.questions if packs else 1,
                    text_tokens=load.tokens, answer_tokens=min(load.answer_tokens, load.tokens), dtype=dtype,
                    checkpointing=train.gradient_checkpointing, freeze_vision_tower=train.freeze_vision_tower,
                    tune_projector=train.tune_projector, last_layers=train.unfreeze_last_layers, rank=train.lora.r,
                    dropout=train.lora.dropout, on_gpu=on_gpu, **changes)


def describe_load(work: Workload, load: Load) -> dict[str, Any]:
    """Return what an estimate is for."""
    return {"resolution": "x".join(map(str, load.resolution)), "batch_size": work.rows, "questions": work.questions,
            "text_tokens": work.text_tokens, "answer_tokens": work.answer_tokens, "row_tokens": work.tokens,
            "dtype": work.dtype, "gradient_checkpointing": work.checkpointing, "lora_r": work.rank,
            "device": "GPU" if work.on_gpu else "CPU"}


def describe_files(folder: str, expected: int) -> dict[str, Any]:
    """Return a checkpoint's weight files: bytes, numbers by format, and findings such as missing or spare weights.

    Args:
        folder: Where they lie.
        expected: Parameters of the model that config.json describes.
    """
    from medvqa_cli.models.headers import read_weights

    files = [file for suffix in ("safetensors", "bin") for file in Path(folder).glob(f"*model*.{suffix}")]
    facts: dict[str, Any] = {"bytes": sum(file.stat().st_size for file in files), "formats": {}, "findings": []}
    try:
        stored = read_weights(Path(folder), allow_pickle=True)
    except ModelError as error:
        return facts | {"findings": [error.message]}
    if stored is None:
        return facts | {"findings": ["There are no weight files here: the parts are counted from config.json."]}
    for kind, shape in stored.tensors.values():
        facts["formats"][kind] = facts["formats"].get(kind, 0) + math.prod(shape)
    return facts | {"findings": compare_count(facts["formats"], expected, pickled=bool(stored.pickled_bytes))}


def compare_count(formats: Mapping[str, int], expected: int, *, pickled: bool = False) -> list[str]:
    """Return what is odd about the numbers in weight files, against the parameters of config.json's model."""
    stored = sum(formats.values())
    if pickled:
        return ["The weights are pickle files, whose numbers are not counted."]
    if packed := sorted(set(formats) - REAL):
        return [f"The weights are stored quantised ({', '.join(packed)}), so their numbers cannot be compared."]
    if stored == expected:
        return []
    difference = f"{abs(stored - expected):,} {'more' if stored > expected else 'fewer'}"
    return [f"The weight files hold {stored:,} numbers, but config.json describes {expected:,}: {difference}."]

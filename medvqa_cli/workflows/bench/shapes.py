"""What a benchmark runs on: a real checkpoint, or random weights of a family's architecture, and drawn questions."""

from __future__ import annotations

import itertools
import math
import random
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli import plugins
from medvqa_cli.errors import ModelError, SettingsError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import VQASample
from medvqa_cli.runs import open_run
from medvqa_cli.workflows.bench.likeness import build_like
from medvqa_cli.workflows.models import (
    ModelChoice,
    build_encoder,
    choose_model,
    describe_model,
    load_choice,
    recall_choice,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from medvqa_cli.models.encoding import SampleEncoder
    from medvqa_cli.models.protocol import LoadedModel, ModelFamily
    from medvqa_cli.settings.schema import Settings

PATCH = 14
SIDES = range(2, 74)
"""Patches along a picture's edge that a model of random weights may have: up to 1022 pixels."""
PICTURE_SIDE = 448
CACHE_MB = 256
STOCK_VOCABULARY = 1000
ORGANS = ("liver", "left lung", "right lung", "heart", "spleen", "left kidney", "right kidney", "brain", "spine",
          "bladder", "trachea", "aorta", "pancreas", "stomach", "gallbladder", "diaphragm")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchShape:
    """Sizes of the work, and of a model of random weights.

    Attributes:
        questions: Questions about an image; SLAKE's average is 11.
        images: Images in an optimiser step.
        image_tokens: Tokens an image takes in the prompt. This and what follows is of random weights only.
        hidden: Width of vision tower and language model.
        layers: Layers of the language model.
        vision_layers: Layers of the vision tower.
        heads: Attention heads of both.
        vocabulary: Tokens of the vocabulary.
        like: The checkpoint whose sizes random weights take instead of these; empty for none.
    """

    questions: int = 11
    images: int = 1
    image_tokens: int = 576
    hidden: int = 512
    layers: int = 8
    vision_layers: int = 6
    heads: int = 8
    vocabulary: int = 32_000
    like: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """A loaded model, what feeds it, and the questions of each image. `facts` go into the report."""

    loaded: LoadedModel
    encoder: SampleEncoder
    groups: list[list[VQASample]]
    facts: dict[str, Any]

    @property
    def packs(self) -> bool:
        """Whether the family shares an image between questions."""
        return self.loaded.family.capabilities.packs


def prepare_subject(settings: Settings, shape: BenchShape, folder: Path, progress: Progress = SILENT, *,
                    trainable: bool = False) -> Subject:
    """Load the model that settings name, else build one of random weights, and draw its images and questions.

    Args:
        settings: `model.name` is a checkpoint or a run; without it, `model.family` is built at random. Neither counts
            where the shape is like a checkpoint's.
        shape: The sizes.
        folder: Where weights and pictures are written.
        progress: Where to report.
        trainable: Whether it will be trained.

    Raises:
        SettingsError: If neither model nor family is named, or the sizes do not fit together.
        PluginError: If the family is unknown.
        ModelError: If the checkpoint cannot be loaded, the family cannot be built from random weights, or the sizes
            of the checkpoint it is to be like are not known or do not fit into memory.
    """
    loaded, groups = _load(settings, shape, folder, progress, trainable=trainable)
    encoder = build_encoder(loaded, settings, cache_mb=CACHE_MB)
    tokens = sum(encoder.encode_images(groups[0][0]).num_tokens)
    if not settings.model.name and not shape.like and tokens != shape.image_tokens:
        progress.warn(f"An image takes {tokens} tokens, not {shape.image_tokens}: the nearest this family comes to it.")
    counted = sum(parameter.numel() for parameter in loaded.model.parameters())
    facts = {**describe_model(loaded), "weights": "random" if shape.like or not settings.model.name else "checkpoint",
             "parameters": counted, "image_tokens": tokens, "questions": shape.questions, "images": shape.images}
    if shape.like:
        facts["like"] = facts.pop("checkpoint")
    elif not settings.model.name:
        del facts["checkpoint"]  # a temporary folder
        facts |= {"hidden": shape.hidden, "layers": shape.layers, "vision_layers": shape.vision_layers,
                  "heads": shape.heads, "vocabulary": len(loaded.tokenizer)}
    return Subject(loaded, encoder, groups, facts)


def _load(settings: Settings, shape: BenchShape, folder: Path, progress: Progress, *,
          trainable: bool) -> tuple[LoadedModel, list[list[VQASample]]]:
    """Return the model and the questions of each image."""
    if shape.like:
        groups = draw_groups(folder, shape, PICTURE_SIDE)
        return build_like(shape.like, settings, groups, progress, trainable=trainable), groups
    side = PICTURE_SIDE
    if settings.model.name:
        choice = _choose(settings)
    else:
        choice, side = build_random(settings, shape, folder, progress)
    return load_choice(choice, settings, progress, trainable=trainable), draw_groups(folder, shape, side)


def _choose(settings: Settings) -> ModelChoice:
    """Return the model that is named: what a run has trained, or a checkpoint."""
    name = str(settings.model.name)
    if not (settings.paths.runs / name / "manifest.json").is_file():
        return choose_model(settings)
    run = open_run(settings.paths.runs, name)
    return recall_choice(run.read_json("manifest.json")["model"], run.weights)


def build_random(settings: Settings, shape: BenchShape, folder: Path, progress: Progress = SILENT, *,
                 texts: Sequence[str] = ()) -> tuple[ModelChoice, int]:
    """Write a model of random weights whose images take as near to `shape.image_tokens` as the family can.

    Its tokenizer knows the words of `texts`, beside those of the drawn questions.

    Returns:
        The model, and the side of the square pictures it wants, in pixels.
    """
    if not settings.model.family:
        raise SettingsError("No model is named to measure.",
                            "Name a family for random weights (--family llava), a checkpoint to be like (--like "
                            "llava_1.5_7b), or a checkpoint or run (--model).")
    name = plugins.models.resolve(settings.model.family)
    family: ModelFamily = plugins.models.get(name)
    if family.Options is None or "text_layers" not in family.Options.model_fields:
        raise ModelError(f"The family '{name}' cannot be built from random weights of a given size.",
                         "Name a checkpoint with --model.")
    progress.say(f"Building a {name} of random weights")
    side = PATCH * find_side(family, shape.image_tokens, folder)
    checkpoint = folder / "checkpoint"
    try:
        options = family.Options(image_size=side, patch_size=PATCH, width=shape.hidden, heads=shape.heads,
                                 vision_layers=shape.vision_layers, text_layers=shape.layers,
                                 vocabulary_size=shape.vocabulary)
        family.build_tiny(checkpoint, texts=[*texts, *_fill_vocabulary(shape)], options=options, seed=settings.seed)
    except ValueError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise SettingsError(f"A {name} of this shape cannot be built: {'; '.join(lines[:3])}.",
                            "--hidden must be a multiple of 16 and of --heads.") from error
    return ModelChoice(str(checkpoint), name), side


def find_side(family: ModelFamily, image_tokens: int, folder: Path) -> int:
    """Return how many patches along the edge bring a square picture nearest to `image_tokens` tokens.

    The two usual cases are tried first: a token a patch, and a token for each two by two patches.
    """
    counts: dict[int, float] = {}
    root = math.isqrt(image_tokens)
    for patches in itertools.chain((root, 2 * root), _bisect(counts, image_tokens)):
        if patches in SIDES and patches not in counts:
            counts[patches] = _count_tokens(family, patches, folder / f"side-{patches}")
        if counts.get(patches) == image_tokens:
            return patches
    return min(counts, key=lambda patches: (abs(counts[patches] - image_tokens), patches))


def _bisect(counts: dict[int, float], wanted: int) -> Iterator[int]:
    """Yield even numbers of patches, halving the range by the count of the one before."""
    low, high = SIDES.start // 2, SIDES.stop // 2
    while low <= high:
        middle = (low + high) // 2
        yield 2 * middle
        low, high = (middle + 1, high) if counts.get(2 * middle, math.inf) < wanted else (low, middle - 1)


def _count_tokens(family: ModelFamily, patches: int, folder: Path) -> float:
    """Return the tokens of a square picture; infinity where the family takes no such size."""
    from PIL import Image

    side = PATCH * patches
    try:
        family.build_tiny(folder, options=family.Options(  # type: ignore[misc]
            image_size=side, patch_size=PATCH, width=32, heads=2, vision_layers=1, text_layers=1, vocabulary_size=300))
        inputs = family.encode_images(family.load_processor(str(folder)), [Image.new("RGB", (side, side))])
    except ValueError:
        return math.inf
    return sum(inputs.num_tokens)


def _fill_vocabulary(shape: BenchShape) -> Iterator[str]:
    """Yield the questions, and made-up words enough for the tokenizer to reach its size."""
    yield from map(_word_question, range(shape.questions))
    yield from ("yes", "no")
    draw = random.Random(0)
    if shape.vocabulary > STOCK_VOCABULARY:
        yield from ("".join(draw.choices(string.ascii_lowercase, k=8)) for _ in range(shape.vocabulary))


def draw_groups(folder: Path, shape: BenchShape, side: int) -> list[list[VQASample]]:
    """Return yes/no questions about noisy pictures: for each image its group."""
    return [_draw_group(folder / f"{number}.png", shape.questions, side) for number in range(shape.images)]


def _draw_group(path: Path, questions: int, side: int) -> list[VQASample]:
    from PIL import Image

    noise = random.Random(path.stem).randbytes(side * side)
    Image.frombytes("L", (side, side), noise).convert("RGB").save(path)
    return [VQASample(dataset="bench", split="test", question_id=f"{path.stem}-{number}", image_id=path.stem,
                      images=(str(path),), question=_word_question(number), answer="no" if number % 2 else "yes",
                      answer_type="closed") for number in range(questions)]


def _word_question(number: int) -> str:
    return f"Question {number + 1}: is there an abnormality of the {ORGANS[number % len(ORGANS)]} in this image?"

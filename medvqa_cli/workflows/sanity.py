"""`medvqa sanity-check`: does everything from settings to a generated answer work here?"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli import plugins
from medvqa_cli.errors import MedVQAError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.records import VQASample
from medvqa_cli.settings.schema import Settings, make_settings, to_tree
from medvqa_cli.workflows.models import ModelChoice, build_encoder, build_scratch, choose_model, load_choice

if TYPE_CHECKING:
    from collections.abc import Callable

    from medvqa_cli.models.protocol import LoadedModel

SMALL_DEMO = {"train_images": 8, "validation_images": 2, "test_images": 2}


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check."""

    name: str
    passed: bool
    detail: str


def check_sanity(settings: Settings, *, tiny: bool = False, basic: bool = False,
                 progress: Progress = SILENT) -> list[Check]:
    """Run the checks and return their outcomes; a failed one does not hide the others.

    Args:
        settings: Checks `settings.model`; without a model, a small one on the demo data.
        tiny: Check a small random checkpoint of the family instead of a real one.
        basic: Check settings, data and metrics only; loads no model.
        progress: Where to report.
    """
    with tempfile.TemporaryDirectory(prefix="medvqa-sanity-") as folder:
        checks = [_attempt("plugins", _check_plugins), _attempt("metrics", _check_metrics),
                  _attempt("data", lambda: _check_data(settings, Path(folder)))]
        if basic:
            return checks
        return [*checks, *_check_model(settings, Path(folder), tiny=tiny, progress=progress)]


def _attempt(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, passed=True, detail=check())
    except MedVQAError as error:
        return Check(name, passed=False, detail=f"{error.message} {error.hint}".strip())
    except (AssertionError, RuntimeError, ValueError) as error:
        return Check(name, passed=False, detail=f"{type(error).__name__}: {error}")


def _check_plugins() -> str:
    for registry in (plugins.datasets, plugins.models):
        for name in registry.names():
            registry.get(name)
    return f"{len(plugins.datasets.names())} data sets, {len(plugins.models.names())} model families load"


def _check_metrics() -> str:
    """Compare metrics with values worked out by hand."""
    from medvqa_cli.scoring.answers import match_exactly, parse_yes_no, score_tokens
    from medvqa_cli.scoring.calibration import bin_confidences, expected_calibration_error

    _expect("yes/no parsing", [parse_yes_no(text) for text in ("Yes, there is a nodule", "The image is normal")],
            ["yes", None])
    _expect("exact match", match_exactly("Left  Lung.", ["left lung"]), expected=True)
    _expect("token F1", round(score_tokens("left lung", ["left upper lung"]).f1, 6), 0.8)
    error = expected_calibration_error(bin_confidences([0.7, 0.7, 0.9, 0.9], [True, False, True, True], 10))
    _expect("calibration error", round(error, 6), 0.15)
    return "yes/no parsing, exact match, token F1 and calibration error agree with values worked out by hand"


def _expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise ValueError(f"{what}: expected {expected!r}, found {found!r}")


def _check_data(settings: Settings, folder: Path) -> str:
    from medvqa_cli.workflows.data import load_samples

    tree = to_tree(settings)
    if settings.data.dataset == "demo":
        tree["data"]["options"] = SMALL_DEMO
        tree["paths"]["prepared"] = str(folder / "prepared")
    checked = make_settings(tree)
    samples = load_samples(checked, checked.data.test_split, progress=SILENT)
    from medvqa_cli.data.images import read_image

    first = read_image(samples[0].images[0], max_pixels=settings.data.max_pixels)
    return (f"{settings.data.dataset}: {len(samples)} test questions; the first picture is "
            f"{first.width} x {first.height} pixels")


def _check_model(settings: Settings, folder: Path, *, tiny: bool, progress: Progress) -> list[Check]:
    sample = _draw_sample(folder)
    loaded: list[LoadedModel] = []

    def load() -> str:
        loaded.append(load_choice(_choose(settings, folder, sample, tiny=tiny), settings, progress))
        return f"{loaded[0].family_name} from {_title(settings, tiny=tiny)}, {type(loaded[0].model).__name__}"

    first = _attempt("load", load)
    if not loaded:
        return [first]
    encoder = build_encoder(loaded[0], settings)
    steps: list[tuple[str, Callable[[], str]]] = [
        ("image tokens", lambda: _check_image_tokens(loaded[0], encoder, sample)),
        ("loss", lambda: _check_loss(loaded[0], encoder, sample)),
        ("generation", lambda: _check_generation(loaded[0], settings, sample)),
        ("parameters", lambda: _check_parameters(loaded[0], settings)),
    ]
    return [first, *(_attempt(name, step) for name, step in steps)]


def _title(settings: Settings, *, tiny: bool) -> str:
    if tiny:
        return "a tiny random checkpoint"
    return settings.model.name or "the demo's model (no model is configured)"


def _choose(settings: Settings, folder: Path, sample: VQASample, *, tiny: bool) -> ModelChoice:
    if not tiny and not settings.model.scratch and settings.model.name:
        return choose_model(settings)
    tree = to_tree(settings)
    tree["model"]["family"] = _family(settings)
    return build_scratch(make_settings(tree), [sample], folder / "checkpoint")


def _family(settings: Settings) -> str:
    if settings.model.family:
        return plugins.models.resolve(settings.model.family)
    if settings.model.name:
        return choose_model(settings).family_name or "llava"
    return "llava"


def _draw_sample(folder: Path) -> VQASample:
    from PIL import Image

    path = folder / "picture.png"
    Image.linear_gradient("L").convert("RGB").save(path)
    return VQASample(dataset="sanity", split="test", question_id="0", image_id="picture", images=(str(path),),
                     question="Is there a lesion in the image?", answer="yes", answer_type="closed")


def _check_image_tokens(loaded: LoadedModel, encoder: Any, sample: VQASample) -> str:
    """Compare the placeholders in the prompt with the features the model makes of the picture."""
    import torch

    from medvqa_cli.models.batches import to_device

    inputs = encoder.encode_images(sample)
    prompt = encoder.encode_text(sample, inputs).prompt
    placed = sum(token == loaded.processor.image_token_id for token in prompt)
    with torch.no_grad():
        features = loaded.model.get_image_features(**to_device(dict(inputs.tensors), loaded.model)).pooler_output
    made = sum(len(feature) for feature in features)
    if placed != made:
        raise ValueError(f"the prompt holds {placed} image tokens, the model makes {made} features")
    return f"{placed} in the prompt, {made} features from the vision tower"


def _check_loss(loaded: LoadedModel, encoder: Any, sample: VQASample) -> str:
    import math

    import torch

    from medvqa_cli.models.batches import build_batch, sum_answer_loss, to_device

    with torch.no_grad():
        batch = to_device(build_batch(encoder, [[sample]], packed=False), loaded.model)
        total, tokens = sum_answer_loss(loaded.model, batch)
    loss = (total / tokens).item()
    if not math.isfinite(loss):
        raise ValueError(f"the loss is {loss}")
    return f"{loss:.3f} nats a token over {int(tokens)} answer tokens"


def _check_generation(loaded: LoadedModel, settings: Settings, sample: VQASample) -> str:
    from medvqa_cli.inference.protocol import Decoding
    from medvqa_cli.workflows.infer import build_engine

    answer = build_engine(loaded, settings).generate([sample], Decoding(max_new_tokens=8))[0]
    return f"{answer.num_tokens} tokens: {answer.text!r}"


def _check_parameters(loaded: LoadedModel, settings: Settings) -> str:
    from medvqa_cli.models.adapters import count_parameters, prepare_training

    lora = settings.train.tuning != "full"
    model = prepare_training(loaded.model, loaded.family.layout, settings.train, lora=lora)
    counts = count_parameters(model, loaded.family.layout)
    if not sum(trainable for trainable, _ in counts.values()):
        raise ValueError("no parameter would be trained")
    return f"{'LoRA' if lora else 'full'} training: " + "; ".join(
        f"{part} {trainable:,} of {total:,}" for part, (trainable, total) in counts.items())

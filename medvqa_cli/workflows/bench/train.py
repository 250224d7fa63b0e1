"""`medvqa bench train`: shared-image packing against separate rows, the same optimiser step in turn."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import ModelError, SettingsError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.workflows.bench.peaks import count_flops, find_peak
from medvqa_cli.workflows.bench.shapes import BenchShape, Subject, prepare_subject
from medvqa_cli.workflows.bench.timing import Arm, alternate, attempt, summarize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.schema import Settings

SINGLE = "one row at a time"
TOLERANCE = {"float32": 1e-4}
TOLERANCE_OF_HALVES = 3e-2


@dataclass(frozen=True, slots=True)
class Step:
    """What an optimiser step saw: its loss in nats a supervised token, the norm of its gradient, supervised tokens."""

    loss: float
    gradient_norm: float
    tokens: int


def bench_train(settings: Settings, shape: BenchShape, *, rounds: int = 3, rows: int | None = None,
                progress: Progress = SILENT) -> dict[str, Any]:
    """Measure one optimiser step by each way there is: one row at a time, several rows, packed.

    LoRA without dropout, forward, backward, clipping and AdamW at learning rate 0: every round starts from the same
    weights, so that every round of every way must have the same loss.

    Args:
        settings: Model, number format, device, LoRA.
        shape: Questions, images, and the size of random weights.
        rounds: Times each way is measured, in turn.
        rows: Rows of the batched way; a row for each question of an image if not given.
        progress: Where to report.

    Returns:
        What was measured: see `describe_ways`; `packs` is False for a family that shares nothing.

    Raises:
        SettingsError: If neither model nor family is named, or the sizes do not fit together.
        ModelError: If the ways differ in loss or gradient: then their times say nothing.
    """
    _check(settings)
    settings = _fix_dropout(settings)
    with tempfile.TemporaryDirectory(prefix="medvqa-bench-") as folder:
        subject = prepare_subject(settings, shape, Path(folder), progress, trainable=True)
        if not subject.packs:
            progress.say(f"The family '{subject.loaded.family_name}' cannot share an image between questions: only "
                         "plain rows are measured.")
        arms = build_arms(subject, settings, rows or shape.questions)
        flops = {arm.name: _warm_up(arm, progress) for arm in arms}
        alternate(arms, rounds, subject.loaded.device, progress)
        check_steps(arms, subject.facts["dtype"])
        return describe_ways(subject, arms, flops, rounds)


def _check(settings: Settings) -> None:
    if settings.train.tuning == "full":
        raise SettingsError("bench train measures LoRA; train.tuning is 'full'.", "Leave --tuning out.")


def _fix_dropout(settings: Settings) -> Settings:
    """Return settings without dropout, which would give every way other losses."""
    lora = settings.train.lora.model_copy(update={"dropout": 0.0})
    train = settings.train.model_copy(update={"lora": lora, "tuning": "lora"})
    return settings.model_copy(update={"train": train})


def build_arms(subject: Subject, settings: Settings, rows: int) -> list[Arm[Step]]:
    """Return the ways to train on the subject's questions, the plainest first."""
    import torch

    from medvqa_cli.models.adapters import prepare_training

    loaded = subject.loaded
    model = loaded.model
    if not loaded.adapter:
        torch.manual_seed(settings.seed)
        model = prepare_training(loaded.model, loaded.family.layout, settings.train, lora=True)
    model.eval()  # some models bring dropout of their own, which would give every way other losses
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=0.0)

    def make(name: str, batches: list[list[list[VQASample]]], *, packed: bool) -> Arm[Step]:
        return Arm(name, lambda: take_step(model, optimizer, [
            _builder(subject, groups, packed=packed) for groups in batches]))

    samples = [sample for group in subject.groups for sample in group]
    arms = [make(SINGLE, [[[sample]] for sample in samples], packed=False)]
    if rows > 1:
        cut = [group[start: start + rows] for group in subject.groups for start in range(0, len(group), rows)]
        arms.append(make(f"{rows} rows in a batch", [[part] for part in cut], packed=False))
    if subject.packs:
        arms.append(make("packed", [subject.groups], packed=True))
    return arms


def _builder(subject: Subject, groups: Sequence[Sequence[VQASample]], *, packed: bool) -> Callable[[], dict[str, Any]]:
    from medvqa_cli.models.batches import build_batch

    return lambda: build_batch(subject.encoder, groups, packed=packed, max_tokens=10**9)


def take_step(model: Any, optimizer: Any, batches: Sequence[Callable[[], dict[str, Any]]]) -> Step:
    """Do one optimiser step over batches, each built when it is its turn; the loss is the mean over all tokens."""
    import torch

    from medvqa_cli.models.batches import sum_answer_loss, to_device

    optimizer.zero_grad(set_to_none=True)  # a step that ran out of memory has left its own
    total, tokens = 0.0, 0
    learned = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for build in batches:
        loss, count = sum_answer_loss(model, to_device(build(), model))
        loss.backward()  # type: ignore[no-untyped-call]
        total, tokens = total + loss.item(), tokens + int(count)
    for parameter in learned:
        if parameter.grad is not None:
            parameter.grad /= tokens
    norm = torch.nn.utils.clip_grad_norm_(learned, 1.0).item()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return Step(total / tokens, norm, tokens)


def _warm_up(arm: Arm[Step], progress: Progress) -> int | None:
    """Run an arm once and return its operations."""
    progress.say(f"Warming up: {arm.name}")
    return attempt(arm, lambda: count_flops(arm.work))


def check_steps(arms: Sequence[Arm[Step]], dtype: str) -> None:
    """Refuse ways that do not do the same thing.

    Raises:
        ModelError: If losses or gradients differ by more than rounding.
    """
    tolerance = TOLERANCE.get(dtype, TOLERANCE_OF_HALVES)
    measured = [(arm.name, step) for arm in arms for step in arm.outcomes]
    if not measured:
        raise ModelError("No way to train fits into the GPU's memory.", "Take fewer questions, images or layers.")
    name, wanted = measured[0]
    for other, step in measured[1:]:
        for what, first, second in (("loss", wanted.loss, step.loss),
                                    ("gradient norm", wanted.gradient_norm, step.gradient_norm)):
            if not abs(first - second) <= tolerance * abs(first):
                raise ModelError(f"The ways are not equal: {what} {first:.6f} by '{name}', {second:.6f} by '{other}'.",
                                 "Times of unequal things cannot be compared. Please report this model.")


def describe_ways(subject: Subject, arms: Sequence[Arm[Step]], flops: dict[str, int | None],
                  rounds: int) -> dict[str, Any]:
    """Return the report: facts, the device's peak, and for each way what it took.

    `tokens_per_second` counts the tokens of the separate samples, images and all, whichever way they went: so it is
    comparable. `share_of_peak` is of the operations really done.
    """
    loaded = subject.loaded
    number = next(parameter.dtype for parameter in loaded.model.parameters() if parameter.is_floating_point())
    peak = find_peak(loaded.device, number)
    samples = sum(map(len, subject.groups))
    tokens = count_tokens(subject)
    ways = summarize(arms)
    for way, arm in zip(ways, arms, strict=True):
        if "seconds" in way:
            seconds = way["seconds"]
            operations = flops[arm.name] or 0
            way |= {"samples_per_second": samples / seconds, "tokens_per_second": tokens / seconds,
                    "flops": operations, "share_of_peak": operations / seconds / peak.flops_per_second,
                    "loss": arm.outcomes[0].loss, "gradient_norm": arm.outcomes[0].gradient_norm}
    return {"benchmark": "train", "subject": subject.facts, "samples": samples, "tokens": tokens, "rounds": rounds,
            "packs": subject.packs, "peak_flops_per_second": peak.flops_per_second, "peak_source": peak.source,
            "ways": ways}


def count_tokens(subject: Subject) -> int:
    """Return the tokens of all samples as separate rows: prompt, image and answer."""
    encoder = subject.encoder
    encoded = [encoder.encode_text(sample, encoder.encode_images(sample))
               for group in subject.groups for sample in group]
    return sum(len(sample.prompt) + len(sample.answer) for sample in encoded)

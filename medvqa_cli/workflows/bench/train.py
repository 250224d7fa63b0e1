"""`medvqa bench train`: shared-image packing against separate rows, the same optimiser step in turn."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import ModelError, SettingsError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.workflows.bench.needs import measure_need
from medvqa_cli.workflows.bench.peaks import count_flops, find_peak
from medvqa_cli.workflows.bench.shapes import BenchShape, Subject, prepare_subject
from medvqa_cli.workflows.bench.timing import Arm, alternate, attempt, summarize

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.schema import Settings

SINGLE = "one row at a time"
TOLERANCE = {"float32": 1e-4}
TOLERANCE_OF_HALVES = 3e-2


@dataclass(frozen=True, slots=True)
class Way:
    """How a step is taken: batch after batch, each of groups of samples that share a picture; packed, or a row each."""

    name: str
    batches: list[list[list[VQASample]]]
    packed: bool = False

    @property
    def rows(self) -> int:
        """Rows of the largest batch."""
        return max(len(groups) if self.packed else sum(map(len, groups)) for groups in self.batches)

    @property
    def questions(self) -> int:
        """Questions of the fullest row."""
        return max(len(group) for groups in self.batches for group in groups) if self.packed else 1


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
    settings = _simplify(settings, progress)
    with tempfile.TemporaryDirectory(prefix="medvqa-bench-") as folder:
        subject = prepare_subject(settings, shape, Path(folder), progress, trainable=True)
        if not subject.packs:
            progress.say(f"The family '{subject.loaded.family_name}' cannot share an image between questions: only "
                         "plain rows are measured.")
        ways = list_ways(subject, rows or shape.questions)
        needs = estimate_ways(subject, settings, ways)
        arms = build_arms(subject, settings, ways)
        leave_out(arms, needs, subject)
        flops = {arm.name: _warm_up(arm, progress) for arm in arms}
        alternate(arms, rounds, subject.loaded.device, progress)
        check_steps(arms, subject.facts["dtype"])
        return describe_ways(subject, arms, flops, rounds, needs)


def _check(settings: Settings) -> None:
    if settings.train.tuning == "full":
        raise SettingsError("bench train measures LoRA; train.tuning is 'full'.", "Leave --tuning out.")


def _simplify(settings: Settings, progress: Progress) -> Settings:
    """Return settings without dropout, which would give every way other losses, and without checkpointing."""
    if settings.train.gradient_checkpointing:
        progress.warn("Steps are measured without gradient checkpointing, whatever the settings say.")
    lora = settings.train.lora.model_copy(update={"dropout": 0.0})
    train = settings.train.model_copy(update={"lora": lora, "tuning": "lora", "gradient_checkpointing": False})
    return settings.model_copy(update={"train": train})


def list_ways(subject: Subject, rows: int) -> list[Way]:
    """Return the ways to train on the subject's questions, the plainest first."""
    ways = [Way(SINGLE, [[[sample]] for group in subject.groups for sample in group])]
    if rows > 1:
        cut = [group[start: start + rows] for group in subject.groups for start in range(0, len(group), rows)]
        ways.append(Way(f"{rows} rows in a batch", [[part] for part in cut]))
    return [*ways, Way("packed", [subject.groups], packed=True)] if subject.packs else ways


def estimate_ways(subject: Subject, settings: Settings, ways: Sequence[Way]) -> dict[str, int]:
    """Return the bytes each way will take, weights and all; nothing for a model that carries an adapter already."""
    from medvqa_cli.models.attention import find_dtype

    loaded = subject.loaded
    if loaded.adapter:
        return {}
    need = measure_need(loaded, subject.encoder, subject.groups, settings, device=loaded.device,
                        dtype=find_dtype(loaded.model), trainable=True)
    return {way.name: need.estimate(way.rows, way.questions) for way in ways}


def leave_out(arms: Sequence[Arm[Step]], needs: Mapping[str, int], subject: Subject) -> None:
    """Give up ways that would not fit into a CPU's memory, where the system ends the process without a word.

    On a GPU all are tried: running out of its memory is an error like any other.
    """
    from medvqa_cli.models.placement import as_gib, find_free_memory

    device = subject.loaded.device
    free = find_free_memory(device) if device.type == "cpu" else None
    held = sum(parameter.nbytes for parameter in subject.loaded.model.parameters())
    for arm in arms:
        need = needs.get(arm.name, 0)
        if free is not None and need > free + held:
            arm.failure = f"does not fit: about {as_gib(need)} of {as_gib(free + held)}"


def build_arms(subject: Subject, settings: Settings, ways: Sequence[Way]) -> list[Arm[Step]]:
    """Return an arm for each way, all of one model with fresh adapters."""
    import torch

    from medvqa_cli.models.adapters import prepare_training
    from medvqa_cli.models.precision import raise_masters

    loaded = subject.loaded
    model = loaded.model
    if not loaded.adapter:
        torch.manual_seed(settings.seed)
        model = raise_masters(prepare_training(loaded.model, loaded.family.layout, settings.train, lora=True))
    model.eval()  # some models bring dropout of their own, which would give every way other losses
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=0.0)
    return [Arm(way.name, partial(take_step, model, optimizer, [
        _builder(subject, groups, packed=way.packed) for groups in way.batches])) for way in ways]


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
    """Run an arm once and return its operations; None for one that is given up."""
    if arm.failure:
        return None
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
        raise ModelError("No way to train fits into memory.", "Take fewer questions, images or layers.")
    name, wanted = measured[0]
    for other, step in measured[1:]:
        for what, first, second in (("loss", wanted.loss, step.loss),
                                    ("gradient norm", wanted.gradient_norm, step.gradient_norm)):
            if not abs(first - second) <= tolerance * abs(first):
                raise ModelError(f"The ways are not equal: {what} {first:.6f} by '{name}', {second:.6f} by '{other}'.",
                                 "Times of unequal things cannot be compared. Please report this model.")


def describe_ways(subject: Subject, arms: Sequence[Arm[Step]], flops: Mapping[str, int | None], rounds: int,
                  needs: Mapping[str, int]) -> dict[str, Any]:
    """Return the report: facts, the device's peak, and for each way what it took.

    `tokens_per_second` counts the tokens of the separate samples, images and all, whichever way they went: so it is
    comparable. `share_of_peak` is of the operations really done. `estimated_bytes` is what `models.memory` says of a
    way's peak, weights and all, without what the process holds besides.
    """
    loaded = subject.loaded
    number = next(parameter.dtype for parameter in loaded.model.parameters() if parameter.is_floating_point())
    peak = find_peak(loaded.device, number)
    samples = sum(map(len, subject.groups))
    tokens = count_tokens(subject)
    ways = summarize(arms)
    for way, arm in zip(ways, arms, strict=True):
        way["estimated_bytes"] = needs.get(arm.name)
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

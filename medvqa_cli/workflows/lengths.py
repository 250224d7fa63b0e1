"""Questions longer than a model reads: found before anything runs, refused or left out, never cut off."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from medvqa_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.models.encoding import SampleEncoder
    from medvqa_cli.models.lengths import LengthFinder
    from medvqa_cli.models.protocol import LoadedModel
    from medvqa_cli.progress import Progress
    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.schema import Settings
    from medvqa_cli.workflows.training_data import TrainingData

SKIP = "leave such questions out with --too-long skip."


@dataclass(frozen=True, slots=True)
class Bound:
    """Most tokens of a question, what sets this bound, and what to do about a longer one."""

    tokens: int
    reason: str
    advice: str


def find_training_bound(settings: Settings, loaded: LoadedModel) -> Bound | None:
    """Return the bound of questions with their answers: the model's, or a smaller pack length; None if there is none.

    The pack length counts where packing is not ruled out, and only if it is set: else a long question is a pack.
    """
    bound, most = _find_model_bound(loaded), settings.train.pack_length
    packs = (settings.train.packing != "off" and settings.model.attention != "flash"
             and loaded.family.capabilities.packs)
    if most is None or not packs or (bound and bound.tokens <= most):
        return bound
    return Bound(most, f"a pack holds {most:,} (train.pack_length)", f"Raise --pack-length, or {SKIP}")


def find_answer_bound(settings: Settings, loaded: LoadedModel, new_tokens: int | None = None) -> Bound | None:
    """Return the bound of questions that leave room for an answer; None if the model has none.

    Args:
        settings: `infer.max_new_tokens` counts.
        loaded: The model.
        new_tokens: Most tokens of an answer, if others than those of the settings.
    """
    bound, room = _find_model_bound(loaded), new_tokens or settings.infer.max_new_tokens
    if bound is None:
        return None
    return Bound(bound.tokens - room, f"{bound.reason}, {room:,} of them for the answer",
                 f"Lower --max-new-tokens, or {SKIP}")


def _find_model_bound(loaded: LoadedModel) -> Bound | None:
    from medvqa_cli.models.lengths import find_limit

    limit = find_limit(loaded.model)
    return None if limit is None else Bound(limit, f"the model reads {limit:,} (max_position_embeddings)",
                                            f"Take a model that reads more, make its pictures smaller, or {SKIP}")


def keep_readable(samples: Sequence[VQASample], bound: Bound | None, encoder: SampleEncoder, settings: Settings,
                  progress: Progress, *, with_answer: bool) -> list[VQASample]:
    """Return the samples within a bound; those left out are said.

    Args:
        samples: The questions.
        bound: Most tokens of one.
        encoder: The encoder that will feed the model.
        settings: `model.too_long` and `data.max_pixels` count.
        progress: Where to report.
        with_answer: Whether the answer counts too.

    Raises:
        DataError: If one is longer and `model.too_long` is "error", or none is left.
    """
    from medvqa_cli.data.images import measure_image
    from medvqa_cli.models.lengths import LengthFinder

    if bound is None:
        return list(samples)
    finder = LengthFinder(encoder, functools.partial(measure_image, max_pixels=settings.data.max_pixels))
    kept, longest = [], 0
    for sample in samples:
        encoded = finder.encode(sample)
        length = len(encoded.prompt) + (len(encoded.answer) if with_answer else 0)
        if length <= bound.tokens:
            kept.append(sample)
            continue
        if settings.model.too_long == "error":
            raise _refuse(sample, length, bound, finder)
        longest = max(longest, length)
    if len(kept) < len(samples):
        progress.warn(f"{len(samples) - len(kept):,} of {len(samples):,} questions left out as too long: up to "
                      f"{longest:,} tokens, and {bound.reason}.")
    if samples and not kept:
        raise DataError(f"All {len(samples):,} questions are too long: up to {longest:,} tokens, and {bound.reason}.",
                        bound.advice.replace(f", or {SKIP}", "."))
    return kept


def _refuse(sample: VQASample, length: int, bound: Bound, finder: LengthFinder) -> DataError:
    return DataError(f"Question '{sample.question_id}' of {sample.dataset}/{sample.split} is {length:,} tokens long, "
                     f"{finder.count_image_tokens(sample):,} of them for its pictures; {bound.reason}.", bound.advice)


def keep_trainable(settings: Settings, loaded: LoadedModel, data: TrainingData, encoder: SampleEncoder,
                   progress: Progress) -> tuple[TrainingData, dict[str, int]]:
    """Return training data without too long questions, and what the manifest says of these: bound and numbers.

    Raises:
        DataError: As `keep_readable`; and if leaving questions out would tear apart the fixed batches of a mixture.
    """
    bound = find_training_bound(settings, loaded)
    if bound is None:
        return data, {}
    train, validation = (keep_readable(samples, bound, encoder, settings, progress, with_answer=True)
                         for samples in (data.train, data.validation))
    if data.block and len(train) < len(data.train):
        raise DataError(f"{len(data.train) - len(train):,} questions of the mixture are too long, and leaving them out "
                        "would shift its mandatory batches.", "Leave them out of its data sets, or take a model that "
                        "reads more.")
    return replace(data, train=train, validation=validation), {
        "bound": bound.tokens, "train_skipped": len(data.train) - len(train),
        "validation_skipped": len(data.validation) - len(validation)}

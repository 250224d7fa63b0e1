"""`medvqa bench infer` and `bench sample`: answers over a shared prefix against transformers' own generate."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import ModelError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.workflows.bench.shapes import BenchShape, Subject, prepare_subject
from medvqa_cli.workflows.bench.timing import Arm, alternate, attempt, summarize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from medvqa_cli.inference.protocol import Decoding
    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.schema import Settings

MEASURED_SEPARATELY = 5
"""Samples that are really drawn by separate calls of generate; the time of all is this one's, scaled up."""
Answers = list[list[str]]
"""For each question its answers; all samples of it, or the one greedy answer."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for: answers a question, their length and temperature, and rounds."""

    samples: int = 1
    max_new_tokens: int = 8
    temperature: float = 0.0
    rounds: int = 3


def bench_infer(settings: Settings, shape: BenchShape, wanted: Wanted, progress: Progress = SILENT) -> dict[str, Any]:
    """Measure greedy answers to all questions: generate one by one, and the shared prefix where the family allows it.

    Raises:
        SettingsError: If neither model nor family is named, or the sizes do not fit together.
        ModelError: If in float32 the answers differ: then the times say nothing.
    """
    with tempfile.TemporaryDirectory(prefix="medvqa-bench-") as folder:
        subject = _prepare(settings, shape, Path(folder), progress)
        decoding = _decoding(wanted, 0.0)
        arms = [Arm("generate, one question at a time", partial(_generate_all, subject, decoding, 1))]
        if subject.packs:
            arms.append(Arm("shared prefix", partial(_share, subject, decoding, 1)))
        _run(arms, wanted.rounds, subject, progress)
        equal = _count_equal(arms, strict=subject.facts["dtype"] == "float32")
        return {**_describe("infer", subject, arms, wanted), "equal_answers": equal}


def bench_sample(settings: Settings, shape: BenchShape, wanted: Wanted, progress: Progress = SILENT) -> dict[str, Any]:
    """Measure `wanted.samples` draws for every question, and one greedy answer beside them.

    Separate calls of generate are measured on a few samples and scaled up: their row has `measured_share`.

    Raises:
        SettingsError: If neither model nor family is named, or the sizes do not fit together.
    """
    with tempfile.TemporaryDirectory(prefix="medvqa-bench-") as folder:
        subject = _prepare(settings, shape, Path(folder), progress)
        decoding = _decoding(wanted, wanted.temperature or 1.0)
        arms = _list_sampling_arms(subject, decoding, wanted)
        _run(arms, wanted.rounds, subject, progress)
        ways = _describe("sample", subject, arms, wanted)
        for way, arm in zip(ways["ways"], arms, strict=True):
            if arm.outcomes:
                way["distinct"] = sum(len(set(answers)) for answers in arm.outcomes[0])
        return ways


def _prepare(settings: Settings, shape: BenchShape, folder: Path, progress: Progress) -> Subject:
    subject = prepare_subject(settings, shape, folder, progress)
    if not subject.packs:
        progress.say(f"The family '{subject.loaded.family_name}' cannot share an image between questions: only "
                     "transformers' generate is measured.")
    return subject


def _decoding(wanted: Wanted, temperature: float) -> Decoding:
    from medvqa_cli.inference.protocol import Decoding

    return Decoding(max_new_tokens=wanted.max_new_tokens, temperature=temperature)


def _list_sampling_arms(subject: Subject, decoding: Decoding, wanted: Wanted) -> list[Arm[Answers]]:
    count = wanted.samples
    few = min(MEASURED_SEPARATELY, count)
    greedy = _decoding(wanted, 0.0)
    arms = [Arm("separate generates", partial(_generate_separately, subject, decoding, few), scale=count / few),
            Arm(f"num_return_sequences={count}", partial(_generate_all, subject, decoding, count))]
    if subject.packs:
        arms.append(Arm("sample tree", partial(_share, subject, decoding, count)))
    answer: Callable[[], Answers] = partial(_share, subject, greedy, 1) if subject.packs else partial(
        _generate_all, subject, greedy, 1)
    return [*arms, Arm("one greedy answer", answer)]


def _run(arms: Sequence[Arm[Answers]], rounds: int, subject: Subject, progress: Progress) -> None:
    for arm in arms:
        progress.say(f"Warming up: {arm.name}")
        attempt(arm, arm.work)
    alternate(arms, rounds, subject.loaded.device, progress)


def _generate_separately(subject: Subject, decoding: Decoding, times: int) -> Answers:
    drawn = [_generate_all(subject, decoding, 1) for _ in range(times)]
    return [[draw[question][0] for draw in drawn] for question in range(len(drawn[0]))]


def _generate_all(subject: Subject, decoding: Decoding, count: int) -> Answers:
    """Answer each question by itself with transformers' generate, `count` times in one call."""
    return [_generate(subject, sample, decoding, count) for group in subject.groups for sample in group]


def _generate(subject: Subject, sample: VQASample, decoding: Decoding, count: int) -> list[str]:
    import torch
    from transformers import GenerationConfig

    from medvqa_cli.inference.transformers_engine import PLAIN_DECODING, find_end_ids
    from medvqa_cli.models.batches import to_device

    loaded, encoder = subject.loaded, subject.encoder
    images = encoder.encode_images(sample)
    ids = torch.tensor([encoder.encode_text(sample, images).prompt])
    marks = loaded.family.mark_tokens(loaded.processor, ids, torch.zeros_like(ids, dtype=torch.bool))
    batch = to_device({"input_ids": ids, "attention_mask": torch.ones_like(ids), **marks, **images.tensors},
                      loaded.model)
    drawn = {"do_sample": True, "temperature": decoding.temperature} if decoding.temperature > 0 else {}
    config = GenerationConfig(max_new_tokens=decoding.max_new_tokens, num_return_sequences=count,
                              eos_token_id=sorted(find_end_ids(loaded)), pad_token_id=encoder.padding_id,
                              **PLAIN_DECODING | drawn)
    with torch.inference_mode():
        rows = loaded.model.generate(**batch, generation_config=config)
    start = 0 if loaded.family.layout.task_type == "SEQ_2_SEQ_LM" else ids.shape[1]
    texts = loaded.tokenizer.batch_decode(rows[:, start:], skip_special_tokens=True)
    return [text.strip() for text in texts]


def _share(subject: Subject, decoding: Decoding, count: int) -> Answers:
    """Answer the questions of each image over its one prefilled prefix."""
    from medvqa_cli.inference.transformers_engine import TransformersEngine

    engine = TransformersEngine(subject.loaded, subject.encoder, shared_prefix=True)
    if decoding.temperature == 0:
        return [[answer.text] for group in subject.groups for answer in engine.generate(group, decoding)]
    return [[answer.text for answer in answers for _ in range(answer.count)]
            for group in subject.groups for answers in engine.sample(group, count, decoding)]


def _count_equal(arms: Sequence[Arm[Answers]], *, strict: bool) -> int:
    """Return how many questions every way answers alike, in every round."""
    rounds = [answers for arm in arms for answers in arm.outcomes]
    if not rounds:
        raise ModelError("The model does not fit into the GPU's memory with these questions.", "Take fewer of them.")
    different = [number for number, answers in enumerate(zip(*rounds, strict=True))
                 if any(answer != answers[0] for answer in answers)]
    if strict and different:
        number = different[0]
        found = next(answers for answers in rounds if answers[number] != rounds[0][number])
        raise ModelError(f"The answers are not equal: question {number + 1} gets '{rounds[0][number][0]}' one way, "
                         f"'{found[number][0]}' the other.",
                         "Times of unequal things cannot be compared. Please report this model.")
    return len(rounds[0]) - len(different)


def _describe(benchmark: str, subject: Subject, arms: Sequence[Arm[Answers]], wanted: Wanted) -> dict[str, Any]:
    samples = sum(map(len, subject.groups))
    ways = summarize(arms)
    for way in ways:
        if "seconds" in way:
            way["questions_per_second"] = samples / way["seconds"]
    return {"benchmark": benchmark, "subject": subject.facts, "samples": samples, "draws": wanted.samples,
            "max_new_tokens": wanted.max_new_tokens, "temperature": wanted.temperature, "rounds": wanted.rounds,
            "packs": subject.packs, "ways": ways}

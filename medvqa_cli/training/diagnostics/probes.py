"""Fixed questions answered again and again while a model learns, without a trace left in its training."""

from __future__ import annotations

import random
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medvqa_cli.data.replies import read_reply
from medvqa_cli.inference.protocol import Decoding
from medvqa_cli.scoring.answers import is_closed_correct, is_yes_no, match_exactly, score_tokens
from medvqa_cli.scoring.collapse import TopAnswer, find_top_answer
from medvqa_cli.training.order import group_by_image

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from medvqa_cli.inference.protocol import Engine
    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.data import PromptSettings

PER_IMAGE = 2
"""Questions of each kind taken from one image at first: answers to different images tell more."""


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """What the model answers to a probe now; `is_ended`: it was not cut off at the most tokens allowed."""

    sample: VQASample
    answer: str
    num_tokens: int
    is_ended: bool

    @property
    def is_correct(self) -> bool:
        """Whether the answer is right: parsed for yes or no where the question is closed, else an exact match."""
        sample = self.sample
        if sample.answer_type == "closed":
            return is_closed_correct(self.answer, sample.answer, sample.alternatives)
        return self.is_exact

    @property
    def is_exact(self) -> bool:
        """Whether the answer is one of the gold answers, both normalized."""
        return match_exactly(self.answer, (self.sample.answer, *self.sample.alternatives))

    def to_json(self) -> dict[str, Any]:
        """Return it as it stands in events.jsonl."""
        return {"question_id": self.sample.question_id, "type": self.sample.answer_type,
                "question": self.sample.question, "gold": self.sample.answer, "answer": self.answer,
                "correct": self.is_correct, "tokens": self.num_tokens, "ended": self.is_ended}


def choose_probes(samples: Sequence[VQASample], number: int, seed: int) -> list[VQASample]:
    """Return probe questions drawn with a seed, half of them closed as far as there are such, in the order of samples.

    They come from as many images as can be had with two questions of each kind an image.
    """
    draw = random.Random(f"{seed} probes")
    closed = _deal([sample for sample in samples if sample.answer_type == "closed"], draw)
    others = _deal([sample for sample in samples if sample.answer_type != "closed"], draw)
    wanted = max(number // 2, number - len(others))
    chosen = closed[:wanted]
    kept = {id(sample) for sample in [*chosen, *others[: number - len(chosen)]]}
    return [sample for sample in samples if id(sample) in kept]


def _deal(samples: Sequence[VQASample], draw: random.Random) -> list[VQASample]:
    """Return samples in random order: first a few of each image, then the rest."""
    by_image: dict[tuple[str, ...], list[VQASample]] = defaultdict(list)
    for sample in draw.sample(samples, len(samples)):
        by_image[sample.images].append(sample)
    first = [sample for members in by_image.values() for sample in members[:PER_IMAGE]]
    return first + [sample for members in by_image.values() for sample in members[PER_IMAGE:]]


def ask_probes(engine: Engine, samples: Sequence[VQASample], prompt: PromptSettings,
               max_new_tokens: int) -> list[ProbeAnswer]:
    """Return the greedy answers to probes, the questions of an image together."""
    decoding = Decoding(max_new_tokens)
    return [ProbeAnswer(sample, read_reply(written.text, sample, prompt).answer, written.num_tokens or 0,
                        written.is_ended)
            for group in group_by_image(samples, len(samples))
            for sample, written in zip(group, engine.generate(group, decoding), strict=True)]


def find_top_closed(answers: Iterable[ProbeAnswer]) -> TopAnswer | None:
    """Return the most frequent answer to the closed probes, or None without such."""
    return find_top_answer((answer.sample.answer, answer.answer) for answer in answers
                           if answer.sample.answer_type == "closed")


def measure_probes(answers: Sequence[ProbeAnswer]) -> dict[str, float]:
    """Return the metrics of probe answers by name, shares in 0-1; those of a kind that is not asked are left out."""
    kinds = {"open": [a for a in answers if a.sample.answer_type != "closed"],
             "closed": [a for a in answers if a.sample.answer_type == "closed"],
             "yes_no": [a for a in answers if a.sample.answer_type == "closed" and is_yes_no(a.sample.answer)]}
    found: dict[str, list[float]] = {
        "open/exact_match": [a.is_exact for a in kinds["open"]],
        "open/token_f1": [score_tokens(a.answer, (a.sample.answer, *a.sample.alternatives)).f1 for a in kinds["open"]],
        "closed/exact_match": [a.is_exact for a in kinds["closed"]],
        "closed/accuracy": [a.is_correct for a in kinds["closed"]],
        "closed/yes_no_accuracy": [a.is_correct for a in kinds["yes_no"]],
        "length/mean": [a.num_tokens for a in answers],
        "stop/ended": [a.is_ended for a in answers],
        "stop/cut_off": [not a.is_ended for a in answers],
    }
    metrics = {name: fmean(values) for name, values in found.items() if values}
    if top := find_top_closed(answers):
        metrics |= {"closed/top_share": top.share, "closed/gold_top_share": top.gold_share}
    return metrics


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Put a model in evaluation mode for a while; every module's mode and all random states are as before after it."""
    modes = [(module, module.training) for module in model.modules()]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global state is what must stay
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002

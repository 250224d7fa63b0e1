"""Steps of GRPO by TRL's own path and behind shared prefixes: same trainer, model and questions, in turn, in one run.

    python examples/benchmarks/grpo_vs_trl.py [--rounds 3] [--questions 4] [--tokens 16]

A LLaVA of random weights with 576 image tokens (frozen tower of 2 layers, language model of 4, width 256, 8,192
tokens), LoRA on every linear layer of the language model, float32; pictures are noise. A step draws 8 completions of
`--tokens` tokens for each of `--questions` questions of one image, rates them, and takes one optimiser step. Both are
`medvqa_cli.training.grpo.GroupTrainer`, once with shared prefixes and once on TRL's own path: its `generate` on one row
a completion, each with its own copy of the pixels, and its log-probabilities of the same rows. TRL's rows go through
the model `--trl-rows` at a time (8, one group, unless told otherwise) in as many forward passes as it takes; ours go
through together. Weights of the language model are scaled so that completions differ and do not end by themselves.

Last figures: TRL 1.16, torch 2.13, one thread of 2 cores that other jobs used too, `--rounds 2 --steps 1`; seconds of
processor time a step. A part of TRL's time is its loss, which on a CPU computes logits at every position.

| | TRL | shared prefixes | ratio |
|---|---|---|---|
| 8 completions of one question (`--questions 1`) | 8.09 | 0.99 | 8.1 |
| 8 completions of each of 4 questions of an image | 32.5 | 2.08 | 15.7 (one round, one step) |

The arms take turns; each one's first step is its warm-up and not counted. On a machine that others use too, read the
ratio of processor time. Seconds are medians of all rounds' steps.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

SIDE, PATCH = 336, 14
QUESTIONS = ("Is there a lesion?", "Which organ is shown?", "Where is the lesion?", "Is the heart enlarged?",
             "Which modality is this?", "Is the picture normal?", "How many lesions are there?", "Is there fluid?")


def build_model(folder: Path) -> Any:
    """Return a LLaVA of random weights."""
    import torch

    from medvqa_cli import plugins
    from medvqa_cli.models.loading import load_checkpoint
    from medvqa_cli.settings.model import ModelSettings

    family = plugins.models.get("llava")
    sizes = family.Options(image_size=SIDE, patch_size=PATCH, width=256, vision_layers=2, text_layers=4, heads=8,
                           vocabulary_size=8192)
    chance = random.Random(0)
    words = [" ".join("".join(chance.choices("abcdefghijklmnop", k=6)) for _ in range(200)) for _ in range(60)]
    family.build_tiny(folder / "model", texts=[*QUESTIONS, *words], options=sizes, seed=0)
    loaded = load_checkpoint(family, "llava", str(folder / "model"), ModelSettings(dtype="float32", device="cpu"))
    with torch.no_grad():
        loaded.model.get_output_embeddings().weight.mul_(3.0)
        for end in {loaded.tokenizer.eos_token_id, loaded.tokenizer.pad_token_id} - {None}:
            loaded.model.get_output_embeddings().weight[end].zero_()
    return loaded


def write_pictures(folder: Path, count: int) -> list[str]:
    """Write pictures of noise."""
    from PIL import Image

    paths = [str(folder / f"{number}.png") for number in range(count)]
    for number, path in enumerate(paths):
        Image.frombytes("RGB", (SIDE, SIDE), random.Random(number).randbytes(3 * SIDE * SIDE)).save(path)
    return paths


def build_trainer(loaded: Any, samples: list[Any], folder: Path, options: argparse.Namespace, *, shared: bool) -> Any:
    """Return one arm's trainer."""
    from PIL import Image

    from medvqa_cli import plugins
    from medvqa_cli.models.encoding import SampleEncoder
    from medvqa_cli.progress import SILENT
    from medvqa_cli.settings.grpo import GRPOSettings
    from medvqa_cli.settings.train import TrainSettings
    from medvqa_cli.training.group_plan import GroupPlan, build_group_trainer
    from medvqa_cli.training.sft import TrainingPlan

    rows = 8 * options.questions
    passes = 1 if shared else max(1, rows // options.trl_rows)
    settings = GRPOSettings(rewards=("length",), num_generations=8, batch_size=rows // passes,
                            gradient_accumulation=passes, max_completion_length=options.tokens,
                            image_questions=options.questions, learning_rate=1e-6)
    read = lambda path: Image.open(path).convert("RGB")  # noqa: E731
    encoder = SampleEncoder(loaded.family, loaded.processor, read, cache_bytes=2**28)
    plan = TrainingPlan(loaded.model, encoder, samples, [], shared,
                        TrainSettings(max_steps=options.steps + 1, log_steps=1, save_fraction=0.0, warmup=0.0,
                                      pack_length=8192), 0, folder / f"out-{shared}")
    rewards = {"length": plugins.rewards.get("length")}
    return build_group_trainer(plan, GroupPlan(settings, rewards, loaded, read, "bench"), None, SILENT)[0]


def time_steps(trainer: Any) -> list[tuple[float, float]]:
    """Train; return wall and processor seconds of each step but the first."""
    from transformers import TrainerCallback

    marks = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append((time.perf_counter(), time.process_time()))

    trainer.add_callback(Clock())
    trainer.train()
    return [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(marks)]


def main() -> None:
    """Time both arms in turn and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="steps counted in each round")
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--trl-rows", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        measure(Path(place), options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    """Take turns, and print seconds and ratios."""
    from medvqa_cli.models.adapters import prepare_training
    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.train import LoRASettings, TrainSettings

    paths = write_pictures(folder, 4)
    samples = [VQASample(dataset="noise", split="train", question_id=f"{n}-{q}", image_id=str(n), images=(path,),
                         question=QUESTIONS[q], answer="yes", answer_type="closed")
               for n, path in enumerate(paths) for q in range(options.questions)]
    loaded = build_model(folder)
    loaded.model = prepare_training(loaded.model, loaded.family.layout, TrainSettings(lora=LoRASettings(dropout=0.0)),
                                    lora=True)
    found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for number in range(options.rounds):
        for shared, steps in found.items():
            steps.extend(time_steps(build_trainer(loaded, samples, folder, options, shared=shared)))
            print(f"round {number + 1}, {'shared' if shared else 'TRL'}: {steps[-options.steps:]}", flush=True)
    medians = {shared: [statistics.median(column) for column in zip(*steps, strict=True)]
               for shared, steps in found.items()}
    for shared, (wall, cpu) in medians.items():
        print(f"{'shared prefixes' if shared else 'TRL':16} {wall:7.2f} s a step, {cpu:7.2f} s of processor time")
    ratios = [a / b for a, b in zip(medians[False], medians[True], strict=True)]
    print(f"TRL / shared: {ratios[0]:.1f} by the clock, {ratios[1]:.1f} by processor time")


if __name__ == "__main__":
    main()

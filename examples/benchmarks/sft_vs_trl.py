"""Training by TRL's SFTTrainer and by medvqa: the same model, data, order and objective, in turn, in one run.

    python examples/benchmarks/sft_vs_trl.py timing --slake DIR [--questions 11] [--images 40] [--trl-images N]
    python examples/benchmarks/sft_vs_trl.py timing --slake DIR --questions 1
    python examples/benchmarks/sft_vs_trl.py accuracy --slake DIR [--seeds 0,1,2] [--epochs 10] [--batches grouped]

DIR is SLAKE's folder (train.json, imgs/); nothing of it is kept. Needs `pip install 'medvqa-cli[grpo]'` for TRL.

**timing**: a LLaVA of random weights with 576 image tokens (frozen tower of 6 layers, language model of 8, width 512,
32,000 tokens), LoRA on every linear layer of the language model, float32, AdamW, clipping at 1. The first `--images`
images of the training split that have enough English questions, `--questions` of each. An optimiser step is one
image's questions (with --questions 1: four images), so that both see the same tokens at every step and their losses
must be equal, step by step: that is checked, and a difference ends the benchmark. Each arm runs in a process of its
own, one after the other, in `--rounds` rounds. A step's time is that between two ends of steps; each process's first
step is its warm-up and not counted. Our arm trains a whole epoch. TRL's trains on the first `--trl-images` images, and
its epoch is extrapolated from these: the table says so (`--trl-images 40` measures all of it). On a machine that others
use too, read the ratio of processor time: it hardly moves with what they do.

How TRL (1.16) is used, so that it is as fast as it can be: its own prompt-completion data for vision models with
`completion_only_loss`, which supervises exactly our tokens (checked); its default loss, never all logits at once; no
gradient checkpointing (its default is on), no evaluation, saving or tracking; `--trl-batch` rows a forward pass, 1 by
default: in `medvqa bench train` several plain rows were slower than one on a CPU; try others. It refuses packing and
padding-free batches of images. The very same LoRA weights are handed to both. Its pictures are decoded from SLAKE's
files by `datasets`. On a CPU its loss computes logits at every position, in chunks (on CUDA where labels are, as ours
does everywhere): that is a part of the ratio here and would not be on a GPU.

**accuracy**: does it cost accuracy that the questions of an image come together? A small LLaVA (48 px, width 64, from
random weights, all weights) learns SLAKE English with image-grouped, packed batches, with packs of at most four
questions, and with shuffled questions, as many questions an optimiser step, for each seed, and answers the test split.

Last figures, share of 1,061 test questions answered exactly, seeds 0 to 5 (2026-11-21):

    10 epochs   grouped    0.6447   0.6343   0.6456   0.6532   0.6466   0.6437   mean 0.6447
                mixed      0.6579   0.6400   0.6560   0.6550   0.6475   0.6569   mean 0.6522
                shuffled   0.6541   0.6626   0.6541   0.6758   0.6513   0.6682   mean 0.6610
    15 epochs   grouped    0.6795   0.6786   0.6824                              mean 0.6802

Four images a step are less varied than 44: at equal epochs grouping costs 1.6 points (standard deviation over seeds
1.0), packs of four 0.9 (1.1). Half as many epochs again, at a fraction of a shuffled epoch's price, more than make up
for it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 0
STEP_OF_SINGLES = 4
TOLERANCE = 2e-3
BATCHES = {"grouped": {"packing": "on", "grouping": "image", "batch_size": 4},
           "mixed": {"packing": "on", "grouping": "image", "pack_questions": 4, "batch_size": 12},
           "shuffled": {"packing": "off", "grouping": "none", "batch_size": 44}}
"""About as many questions a step: SLAKE English has 10.9 an image, which make three groups of at most 4."""


@dataclass(frozen=True)
class Arm:
    """What a child process measured: seconds, processor seconds and losses of its steps; its tokens and peak memory."""

    name: str
    seconds: list[float]
    cpu_seconds: list[float]
    losses: list[float]
    tokens: int
    peak_bytes: int


def read_slake(folder: Path, images: int, questions: int) -> list[Any]:
    """Return the first English questions of the first images that have enough of them."""
    from medvqa_cli.records import VQASample

    rows = [row for row in json.loads((folder / "train.json").read_text(encoding="utf-8")) if row["q_lang"] == "en"]
    groups: dict[str, list[Any]] = {}
    for row in rows:
        groups.setdefault(row["img_name"], []).append(row)
    chosen = [(name, group) for name, group in groups.items() if len(group) >= questions][:images]
    if len(chosen) < images:
        raise SystemExit(f"Only {len(chosen)} images have {questions} English questions; ask for fewer images.")
    return [VQASample(dataset="slake", split="train", question_id=str(row["qid"]), image_id=name,
                      images=(str(folder / "imgs" / name),), question=row["question"], answer=row["answer"],
                      answer_type=row["answer_type"].lower()) for name, group in chosen for row in group[:questions]]


def make_settings(options: argparse.Namespace, model: str) -> Any:
    """Return the settings of both arms."""
    from medvqa_cli.settings.schema import make_settings as make

    singles = options.questions == 1
    return make({"seed": SEED, "model": {"name": model, "family": "llava", "device": "cpu", "dtype": "float32"},
                 "train": {"tuning": "lora", "lora": {"dropout": 0.0}, "epochs": 1, "batch_size": 1, "warmup": 0.0,
                           "gradient_accumulation": STEP_OF_SINGLES if singles else 1, "scheduler": "constant",
                           "eval_fraction": 0, "save_fraction": 0, "log_steps": 1}})


def load_parts(options: argparse.Namespace) -> tuple[Any, Any, Any, list[Any]]:
    """Return settings, the model with its adapters, the encoder, and the samples in the order both are trained in."""
    import torch

    from medvqa_cli.models.adapters import prepare_training
    from medvqa_cli.progress import SILENT
    from medvqa_cli.training.order import TrainingOrder
    from medvqa_cli.workflows.models import ModelChoice, build_encoder, load_choice

    settings = make_settings(options, options.model)
    loaded = load_choice(ModelChoice(options.model, "llava"), settings, SILENT, trainable=True)
    torch.manual_seed(SEED)
    model = prepare_training(loaded.model, loaded.family.layout, settings.train, lora=True)
    loaded.model = model
    samples = read_slake(options.slake, options.images, options.questions)
    order = TrainingOrder(samples, settings.train.pack_questions, seed=SEED)
    ordered = [sample for block in (order[n] for n in range(len(order))) for group in block for sample in group]
    return settings, loaded, build_encoder(loaded, settings, cache_mb=64), ordered


def train_ours(options: argparse.Namespace) -> Arm:
    """Train a whole epoch by our trainer, packed."""
    from medvqa_cli.progress import SILENT
    from medvqa_cli.training.sft import TrainingPlan, build_trainer

    settings, loaded, encoder, ordered = load_parts(options)
    samples = read_slake(options.slake, options.images, options.questions)
    with tempfile.TemporaryDirectory() as folder:
        plan = TrainingPlan(loaded.model, encoder, samples, [], True, settings.train, SEED, Path(folder))
        trainer, stop = build_trainer(plan, None, SILENT)
        try:
            return run_trainer("medvqa, packed", trainer, count_tokens(encoder, ordered))
        finally:
            stop.release()


def train_trl(options: argparse.Namespace) -> Arm:
    """Train on the first images by TRL's trainer."""
    from trl import SFTConfig, SFTTrainer

    settings, loaded, encoder, ordered = load_parts(options)
    step = options.questions * settings.train.gradient_accumulation
    steps = (options.trl_images or (6 if options.questions > 1 else 24)) * options.questions // step
    if steps < 2:
        raise SystemExit("The first step is the warm-up: --trl-images must make at least two.")
    ordered = ordered[: steps * step]
    batch = min(options.trl_batch, step)
    if step % batch:
        raise SystemExit(f"--trl-batch {batch} does not divide the {step} questions of a step.")
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder, num_train_epochs=1, per_device_train_batch_size=batch,
            gradient_accumulation_steps=step // batch, learning_rate=settings.train.learning_rate,
            weight_decay=settings.train.weight_decay, max_grad_norm=settings.train.max_grad_norm,
            lr_scheduler_type="constant", train_sampling_strategy="sequential", completion_only_loss=True,
            max_length=None, gradient_checkpointing=False, bf16=False, use_cpu=True, logging_steps=1,
            save_strategy="no", eval_strategy="no", report_to="none", disable_tqdm=True, seed=SEED)
        trainer = SFTTrainer(model=loaded.model, args=config, train_dataset=make_dataset(loaded, encoder, ordered),
                             processing_class=loaded.processor)
        check_tokens(trainer, encoder, ordered)
        return run_trainer("TRL SFTTrainer", trainer, count_tokens(encoder, ordered))


def make_dataset(loaded: Any, encoder: Any, samples: list[Any]) -> Any:
    """Return TRL's prompt-completion rows: our prompt's text with one image token, and the answer with its end."""
    from datasets import Dataset, Features, Image, List, Value

    tokenizer, image_token = loaded.tokenizer, loaded.processor.image_token
    rows: dict[str, list[Any]] = {"images": [], "prompt": [], "completion": []}
    for sample in samples:
        images = encoder.encode_images(sample)
        encoded = encoder.encode_text(sample, images)
        prompt = tokenizer.decode(encoded.prompt, skip_special_tokens=False)
        rows["images"].append(list(sample.images))
        rows["prompt"].append(prompt.replace(image_token * sum(images.num_tokens), image_token))
        rows["completion"].append(tokenizer.decode(encoded.answer, skip_special_tokens=False))
    return Dataset.from_dict(rows, features=Features({"images": List(Image()), "prompt": Value("string"),
                                                      "completion": Value("string")}))


def check_tokens(trainer: Any, encoder: Any, samples: list[Any]) -> None:
    """Refuse data that TRL makes other tokens or labels of than we do."""
    for row, sample in zip(trainer.train_dataset, samples, strict=True):
        batch = trainer.data_collator([row])
        ours = encoder.encode_text(sample, encoder.encode_images(sample))
        labels = batch["labels"][0]
        if batch["input_ids"][0].tolist() != [*ours.prompt, *ours.answer]:
            raise SystemExit(f"TRL has other tokens than we for question {sample.question_id}.")
        if labels[labels != -100].tolist() != list(ours.answer):
            raise SystemExit(f"TRL supervises other tokens than we for question {sample.question_id}.")


def count_tokens(encoder: Any, samples: list[Any]) -> int:
    """Return the supervised tokens."""
    return sum(len(encoder.encode_text(sample, encoder.encode_images(sample)).answer) for sample in samples)


def run_trainer(name: str, trainer: Any, tokens: int) -> Arm:
    """Train, and return the seconds of every step after the first, and the loss of every step."""
    from transformers import TrainerCallback

    ends: list[tuple[float, float]] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append((time.perf_counter(), time.process_time()))

    trainer.add_callback(Clock())
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    wall, busy = ([end[clock] - start[clock] for start, end in itertools.pairwise(ends)] for clock in (0, 1))
    return Arm(name, wall, busy, losses, tokens, peak)


def compare_times(options: argparse.Namespace) -> None:
    """Run both arms in turn and print the table."""
    from medvqa_cli.settings.schema import make_settings as make
    from medvqa_cli.workflows.bench.shapes import BenchShape, build_random

    samples = read_slake(options.slake, options.images, options.questions)
    with tempfile.TemporaryDirectory() as folder:
        shape = BenchShape(questions=options.questions, hidden=options.hidden, layers=options.layers,
                           vision_layers=options.vision_layers)
        choice, _ = build_random(make({"seed": SEED, "model": {"family": "llava"}}), shape, Path(folder),
                                 texts=[text for sample in samples for text in (sample.question, sample.answer)])
        arms: dict[str, list[Arm]] = {"trl": [], "ours": []}
        for number in range(options.rounds):
            for name in ("trl", "ours") if number % 2 == 0 else ("ours", "trl"):
                arms[name].append(run_child(options, name, choice.checkpoint))
    report(options, arms["trl"], arms["ours"])


def run_child(options: argparse.Namespace, arm: str, model: str) -> Arm:
    """Run one arm in a process of its own."""
    command = [sys.executable, __file__, "child", "--arm", arm, "--model", model, *sys.argv[2:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False,
                          env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
    if done.returncode:
        raise SystemExit(f"The arm '{arm}' failed:\n{done.stderr[-3000:]}")
    found = Arm(**json.loads(done.stdout.splitlines()[-1]))
    if options.verbose:
        print(f"{found.name}: {[round(second, 2) for second in found.seconds]} s a step, of the processor "
              f"{[round(second, 2) for second in found.cpu_seconds]}", file=sys.stderr, flush=True)
    return found


def report(options: argparse.Namespace, trl: list[Arm], ours: list[Arm]) -> None:
    """Check that both did the same thing and print time, memory and losses."""
    shared = min(len(trl[0].losses), len(ours[0].losses))
    worst = max(abs(first - second) / abs(first)
                for first, second in zip(trl[0].losses, ours[0].losses, strict=False))
    if not worst <= TOLERANCE:
        raise SystemExit(f"The losses differ by {worst:.2%}: these are not the same training.\n"
                         f"TRL {trl[0].losses}\nours {ours[0].losses[:shared]}")
    steps = len(ours[0].losses)
    each = {name: [statistics.median(arm.seconds) for arm in arms] for name, arms in (("trl", trl), ("ours", ours))}
    print(f"{options.images} images x {options.questions} questions of SLAKE English, 576 image tokens, "
          f"{options.rounds} rounds; {ours[0].tokens} supervised tokens in our epoch, {trl[0].tokens} in TRL's part")
    for name, arms in (("trl", trl), ("ours", ours)):
        measured = len(arms[0].losses)
        label = "" if measured == steps else f" (extrapolated from {measured} of {steps} steps)"
        print(f"{arms[0].name}: {statistics.median(each[name]):.2f} s a step "
              f"({', '.join(f'{second:.2f}' for second in each[name])}), epoch "
              f"{statistics.median(each[name]) * steps:.0f} s{label}, peak memory "
              f"{max(arm.peak_bytes for arm in arms) / 2**30:.2f} GiB, loss after {shared} steps "
              f"{arms[0].losses[shared - 1]:.4f}, at its end {arms[0].losses[-1]:.4f}")
    ratios = sorted(slow / fast for slow, fast in zip(each["trl"], each["ours"], strict=True))
    busy = sum(sum(arm.cpu_seconds) for arm in trl) / sum(len(arm.cpu_seconds) for arm in trl) / (
        sum(sum(arm.cpu_seconds) for arm in ours) / sum(len(arm.cpu_seconds) for arm in ours))
    print(f"medvqa is {statistics.median(ratios):.2f} times faster ({ratios[0]:.2f} to {ratios[-1]:.2f} by round); "
          f"{busy:.2f} times by processor time; losses of all {shared} common steps equal within {worst:.1e}")


def compare_accuracy(options: argparse.Namespace) -> None:
    """Train with image-grouped and with shuffled batches for each seed, and print held-out accuracy."""
    from medvqa_cli.settings.schema import make_settings as make
    from medvqa_cli.workflows.data import prepare_data

    found: dict[str, list[float]] = {name: [] for name in options.batches}
    with tempfile.TemporaryDirectory() as folder:
        data = {"dataset": "slake", "root": str(options.slake), "language": "en", "skip_check": True,
                "analyze": "never"} | ({"limit": options.limit} if options.limit else {})
        tree = {"data": data, "paths": {"runs": f"{folder}/runs", "prepared": f"{folder}/prepared"},
                "model": {"family": "llava", "scratch": True, "device": "cpu"}}
        prepare_data(make(tree))
        for seed in options.seeds:
            for name in options.batches:
                train = {"epochs": options.epochs, "learning_rate": 1e-3, "eval_fraction": 0, "save_fraction": 0}
                settings = make({**tree, "seed": seed, "train": {**train, **BATCHES[name]}})
                found[name].append(measure_accuracy(settings, f"{name}-{seed}"))
    *others, last = found
    for name, values in found.items():
        print(f"{name}: mean {statistics.mean(values):.4f} ({', '.join(f'{value:.4f}' for value in values)})")
    for name in others:
        differences = [one - other for one, other in zip(found[name], found[last], strict=True)]
        print(f"{name} minus {last}: {statistics.mean(differences):+.4f} "
              f"({', '.join(f'{difference:+.4f}' for difference in differences)})")


def measure_accuracy(settings: Any, name: str) -> float:
    """Train, answer the test split, and return the share of answers equal to the gold one after normalisation."""
    from medvqa_cli.scoring.answers import normalize_answer
    from medvqa_cli.workflows.evaluate import read_predictions
    from medvqa_cli.workflows.infer import infer_split
    from medvqa_cli.workflows.train import train_sft

    start = time.perf_counter()
    run = train_sft(settings, name=name)
    seconds = time.perf_counter() - start
    infer_split(settings, run=str(run.path))
    predictions = read_predictions(run.path / "predictions.jsonl")
    right = [normalize_answer(item.answer) == normalize_answer(item.sample.answer) for item in predictions]
    manifest = run.read_json("manifest.json")
    print(f"{name}: accuracy {statistics.mean(right):.4f} of {len(right)} test questions; {manifest['steps']} steps, "
          f"{manifest['data']['train_questions']} training questions, trained in {seconds:.0f} s", flush=True)
    return statistics.mean(right)


def parse() -> argparse.Namespace:
    """Return what was typed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["timing", "accuracy", "child"])
    parser.add_argument("--slake", type=Path, required=True, help="SLAKE's folder: train.json, imgs/")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--questions", type=int, default=11, help="questions of each image; 1 is the second mode")
    parser.add_argument("--trl-images", type=int, help="images of TRL's arm; 6, with --questions 1 24")
    parser.add_argument("--trl-batch", type=int, default=1, help="rows of a forward pass of TRL's arm")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vision-layers", type=int, default=6)
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--batches", type=lambda text: text.split(","), default=list(BATCHES),
                        help="accuracy: which to compare; the last is what the others are compared with")
    parser.add_argument("--limit", type=int, help="accuracy: use only so many questions of each split")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--arm", choices=["trl", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run a mode."""
    options = parse()
    if options.mode == "child":
        arm = (train_trl if options.arm == "trl" else train_ours)(options)
        print(json.dumps({field: getattr(arm, field) for field in Arm.__dataclass_fields__}))
    elif options.mode == "timing":
        compare_times(options)
    else:
        compare_accuracy(options)


if __name__ == "__main__":
    main()

"""One image, many questions: training and sampling with a shared prefix against the usual way, in one run.

    python examples/benchmarks/shared_image.py [--questions 11] [--samples 100] [--device cpu]

The model is a random LLaVA of the real architecture with 576 image tokens: ViT-S-sized tower, 8 layers of width 512.
Every figure is a ratio of two times taken in turn in the same process; the equality of the results is checked first.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from medvqa_cli.data.images import read_image
from medvqa_cli.inference.protocol import Decoding
from medvqa_cli.inference.transformers_engine import TransformersEngine
from medvqa_cli.models.adapters import attach_lora
from medvqa_cli.models.batches import build_batch, sum_answer_loss, to_device
from medvqa_cli.models.encoding import SampleEncoder
from medvqa_cli.models.loading import load_checkpoint
from medvqa_cli.plugins import models
from medvqa_cli.records import VQASample
from medvqa_cli.settings.model import ModelSettings
from medvqa_cli.settings.train import LoRASettings, TrainSettings

ORGANS = ("liver", "left lung", "right lung", "heart", "spleen", "left kidney", "right kidney", "brain", "spine",
          "bladder", "trachea", "aorta", "pancreas", "stomach", "gallbladder", "diaphragm")


def build_model(folder: Path, device: str):
    family = models.get("llava")
    options = family.Options(image_size=336, patch_size=14, width=512, vision_layers=6, text_layers=8, heads=8,
                             vocabulary_size=32_000)
    family.build_tiny(folder, options=options)
    return load_checkpoint(family, "llava", str(folder), ModelSettings(device=device))


def make_samples(folder: Path, count: int) -> list[VQASample]:
    from PIL import Image

    path = folder / "picture.png"
    Image.effect_noise((336, 336), 60).convert("RGB").save(path)
    return [VQASample(dataset="bench", split="test", question_id=str(n), image_id="0", images=(str(path),),
                      question=f"Is there an abnormality of the {ORGANS[n % len(ORGANS)]} in this image ({n})?",
                      answer="yes" if n % 2 else "no", answer_type="closed") for n in range(count)]


def clock(work, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def train_once(model, encoder, groups, *, packed: bool) -> float:
    total = 0.0
    for group in groups:
        loss, _ = sum_answer_loss(model, to_device(build_batch(encoder, [group], packed=packed), model))
        loss.backward()
        total += loss.item()
    model.zero_grad(set_to_none=True)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=11, help="questions about the image (SLAKE: 11)")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loaded = build_model(folder, options.device)
        samples = make_samples(folder, options.questions)
        encoder = SampleEncoder(loaded.family, loaded.processor, lambda path: read_image(path, max_pixels=10**7),
                                cache_bytes=2**28)
        print(f"{sum(p.numel() for p in loaded.model.parameters()) / 1e6:.0f} M parameters, 576 image tokens, "
              f"{options.questions} questions, {loaded.device}, {next(loaded.model.parameters()).dtype}")
        compare_answers(loaded, encoder, samples, options)
        compare_training(loaded, encoder, samples, options)


def compare_training(loaded, encoder, samples, options) -> None:
    model = attach_lora(loaded.model, loaded.family.layout, TrainSettings(lora=LoRASettings(dropout=0.0))).train()
    single = [[sample] for sample in samples]
    plain = train_once(model, encoder, single, packed=False)
    packed = train_once(model, encoder, [samples], packed=True)
    assert abs(plain - packed) < 1e-3 * abs(plain) or loaded.device.type == "cuda", (plain, packed)
    slow = clock(lambda: train_once(model, encoder, single, packed=False), options.repeats)
    fast = clock(lambda: train_once(model, encoder, [samples], packed=True), options.repeats)
    print(f"LoRA forward + backward: one row at a time {slow:.2f} s, packed {fast:.2f} s: "
          f"{slow / fast:.1f} times faster (loss {plain:.4f} and {packed:.4f})")


def compare_answers(loaded, encoder, samples, options) -> None:
    tree = TransformersEngine(loaded, encoder, shared_prefix=True)
    plain = TransformersEngine(loaded, encoder, shared_prefix=False, batch_size=1)
    greedy = Decoding(max_new_tokens=8)
    assert [a.text for a in tree.generate(samples, greedy)] == [a.text for a in plain.generate(samples, greedy)]
    slow = clock(lambda: plain.generate(samples, greedy), options.repeats)
    fast = clock(lambda: tree.generate(samples, greedy), options.repeats)
    print(f"greedy answers of 8 tokens: generate one by one {slow:.2f} s, shared prefix {fast:.2f} s: "
          f"{slow / fast:.1f} times faster")
    for temperature in (0.05, 1.0):
        drawn = Decoding(max_new_tokens=8, temperature=temperature)
        distinct = len(tree.sample(samples[:1], options.samples, drawn)[0])
        slow = clock(lambda d=drawn: plain.sample(samples[:1], options.samples, d), 1)
        fast = clock(lambda d=drawn: tree.sample(samples[:1], options.samples, d), options.repeats)
        print(f"{options.samples} samples of one question, {distinct} distinct: num_return_sequences {slow:.2f} s, "
              f"merged tree {fast:.2f} s: {slow / fast:.1f} times faster")


if __name__ == "__main__":
    main()

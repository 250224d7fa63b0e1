"""When keeping vision features pays: a training step with and without, packed and not, 1 and 11 questions an image.

    python examples/benchmarks/vision_cache.py [--device cuda --dtype bfloat16] [--tower-layers 12] [--text-layers 4]

A LLaVA of random weights: a tower of width 768 at 336 px (576 image tokens), LoRA on the language model. `kept` reads
features that are in memory; `files` reads them from files; `first` computes and keeps them, as the first epoch does.
Time is that of a batch from pixels to gradients, the pictures being processed already: the median of --repeats, taken
in turn.

Last figures, 2 CPU cores under heavy other load (times swing by several times: read them as a direction, not as a
measurement), float32, torch 2.13, --tower-layers 4 --text-layers 1 --questions 1 11 --repeats 2 (2026-11-21); the last
case, 11 separate rows, did not end in its time, and no GPU was at hand:

     1 question,  packed     off 2.64 s, kept 1.26 s (2.1x), files 1.53 s (1.7x), first 2.65 s
     1 question,  separate   off 0.63 s, kept 0.17 s (3.8x), files 0.19 s (3.4x), first 0.43 s
    11 questions, packed     off 0.44 s, kept 0.22 s (2.0x), files 0.24 s (1.9x), first 0.89 s

So it pays from the second epoch on, the more the tower weighs against the language model; nothing is sure of the first.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from medvqa_cli.models.adapters import prepare_training
from medvqa_cli.models.batches import build_batch, sum_answer_loss, to_device
from medvqa_cli.models.encoding import SampleEncoder
from medvqa_cli.models.feature_files import FeatureFiles
from medvqa_cli.models.features import FeatureCache, FeatureMemory, hash_vision
from medvqa_cli.models.loading import load_checkpoint
from medvqa_cli.plugins import models
from medvqa_cli.records import VQASample
from medvqa_cli.settings.model import ModelSettings
from medvqa_cli.settings.train import LoRASettings, TrainSettings

ROOM = 2**32


def build_model(folder, arguments):
    family = models.get("llava")
    options = family.Options(image_size=336, patch_size=14, width=768, heads=12, text_layers=arguments.text_layers,
                             vision_layers=arguments.tower_layers, vocabulary_size=4096)
    family.build_tiny(folder, texts=["Is there a lesion on the left? yes no"], options=options)
    wanted = ModelSettings(device=arguments.device, dtype=arguments.dtype)
    loaded = load_checkpoint(family, "llava", str(folder), wanted)
    settings = TrainSettings(lora=LoRASettings(dropout=0.0))
    loaded.model = prepare_training(loaded.model, family.layout, settings, lora=True).train()
    return loaded


def make_group(path, count):
    return [VQASample(dataset="d", split="train", question_id=str(number), image_id="i", answer="yes", images=(path,),
                      question=f"Is there a lesion on the left {number}?", answer_type="closed")
            for number in range(count)]


def take_step(model, batch):
    model.zero_grad(set_to_none=True)
    total, tokens = sum_answer_loss(model, batch)
    (total / tokens).backward()


def time_call(call, device):
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(loaded, encoder, group, folder, arguments, *, packed):
    """Return the median seconds of each way."""
    base = loaded.model.get_base_model()
    weights = hash_vision(base, loaded.family.layout)
    memory, files = (FeatureCache(base, store, weights) for store in (FeatureMemory(ROOM), FeatureFiles(folder, ROOM)))
    joined, apart = (build_batch(encoder, [group], packed=packed, apart=apart) for apart in (False, True))
    for cache in (memory, files):
        cache.fill(apart)
    ways = {
        "off": lambda: take_step(loaded.model, to_device(joined, loaded.model)),
        "kept": lambda: take_step(loaded.model, memory.fill(apart)),
        "files": lambda: take_step(loaded.model, files.fill(apart)),
        "first": lambda: take_step(loaded.model, FeatureCache(base, FeatureMemory(ROOM), weights).fill(apart)),
    }
    times = {name: [] for name in ways}
    for _ in range(arguments.repeats + 1):
        for name, way in ways.items():
            times[name].append(time_call(way, arguments.device))
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tower-layers", type=int, default=12)
    parser.add_argument("--text-layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--questions", type=int, nargs="+", default=[1, 11])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loaded = build_model(folder / "model", arguments)
        Image.effect_noise((336, 336), 60).convert("RGB").save(folder / "image.png")
        encoder = SampleEncoder(loaded.family, loaded.processor, lambda path: Image.open(path).convert("RGB"),
                                cache_bytes=2**26)
        print(f"{torch.get_num_threads()} threads, {arguments.device}, {arguments.dtype}, torch {torch.__version__}")
        for count in arguments.questions:
            for packed in (True, False):
                seconds = compare(loaded, encoder, make_group(str(folder / "image.png"), count), folder / "cache",
                                  arguments, packed=packed)
                off = seconds.pop("off")
                gains = ", ".join(f"{name} {found:.3f} s ({off / found:.2f}x)" for name, found in seconds.items())
                way = "packed" if packed else "separate"
                print(f"{count:3} questions, {way}: off {off:.3f} s, {gains}", flush=True)


if __name__ == "__main__":
    main()

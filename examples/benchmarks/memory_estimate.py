"""The memory estimate of `medvqa models info` against what is really allocated, on random LLaVAs.

    python examples/benchmarks/memory_estimate.py [--device cuda] [--dtype bfloat16] [--sizes 10M,60M] [--jobs LoRA]

Every measurement is a process of its own, so that nothing is left over. On a GPU it is the allocator's peak
(torch.cuda.max_memory_allocated). On a CPU it is the peak of torch's own allocations, summed from the profiler's
memory events, and the weights: exact to the byte and free of what the process's size (ru_maxrss) holds besides,
such as libraries, thread pools and freed memory that was not given back. Training is an optimiser step and a second
forward and backward pass beside its gradients, as with gradient accumulation, and beside AdamW's states.

Last figures, estimated / measured in MB (a 336 px picture of 576 tokens and about 80 of text, LoRA r=16 with dropout;
the estimate holds an allowance of 5 % for the allocator). CPU (x86-64, 2 cores shared with other work), float32,
torch 2.13, transformers 5.23, bitsandbytes for QLoRA (2026-11-21); no GPU was at hand:

    parameters             10.0 M               61.8 M                216.9 M
    inference              64 / 57     1.13     323 / 299     1.08    1,044 / 977    1.07
    LoRA                  185 / 165    1.12     765 / 706     1.08    2,138 / 1,999  1.07
    LoRA, 8 packed        242 / 213    1.14     902 / 821     1.10    not run
    LoRA, 2 rows          349 / 307    1.14   1,290 / 1,180   1.09    not run
    LoRA, checkpointed     89 / 78     1.15     385 / 355     1.08    1,151 / 1,081  1.06
    QLoRA                 171 / 151    1.13     633 / 577     1.10    not run
    full                  285 / 267    1.07   1,434 / 1,362   1.05    4,587 / 4,364  1.05
    full, checkpointed    213 / 184    1.16   1,148 / 1,053   1.09    not run

    bfloat16, 10.0 M: inference 33 / 29 (1.14), LoRA 137 / 126 (1.09), LoRA, 8 packed 181 / 161 (1.13)
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from medvqa_cli.models.adapters import prepare_training
from medvqa_cli.models.batches import build_batch, sum_answer_loss, to_device
from medvqa_cli.models.encoding import SampleEncoder
from medvqa_cli.models.loading import load_checkpoint
from medvqa_cli.models.memory import Workload, estimate_memory
from medvqa_cli.models.quantization import find_quantization, prepare_kbit_training
from medvqa_cli.models.shapes import build_empty, measure_picture, read_shape
from medvqa_cli.models.targets import find_targets
from medvqa_cli.plugins import models
from medvqa_cli.records import VQASample
from medvqa_cli.settings.model import ModelSettings
from medvqa_cli.settings.train import TrainSettings

SIZES = {
    "10M": {"width": 256, "vision_layers": 3, "text_layers": 6},
    "60M": {"width": 640, "vision_layers": 4, "text_layers": 9},
    "200M": {"width": 1024, "vision_layers": 6, "text_layers": 14},
}
JOBS = {
    "inference": {"tuning": "none"},
    "LoRA": {"tuning": "lora"},
    "LoRA, 8 packed": {"tuning": "lora", "questions": 8},
    "LoRA, 2 rows": {"tuning": "lora", "rows": 2},
    "LoRA, checkpointed": {"tuning": "lora", "checkpointing": True},
    "QLoRA": {"tuning": "lora", "quantization": "4bit"},
    "full": {"tuning": "full"},
    "full, checkpointed": {"tuning": "full", "checkpointing": True},
}
NEW_TOKENS = 16


def load_model(folder: Path, size: str, job: dict, device: str, dtype: str):
    family = models.get("llava")
    texts = [f"{number:x}{number * 7919:o}" for number in range(6000)]
    options = family.Options(image_size=336, patch_size=14, heads=8, vocabulary_size=8000, **SIZES[size])
    family.build_tiny(folder, texts=texts, options=options)
    settings = ModelSettings(device=device, dtype=dtype, quantization=job.get("quantization", "none"))
    return load_checkpoint(family, "llava", str(folder), settings)


def make_encoder(loaded):
    from PIL import Image

    picture = Image.effect_noise((336, 336), 60).convert("RGB")
    return SampleEncoder(loaded.family, loaded.processor, lambda _: picture)


def make_groups(rows: int, questions: int):
    """Rows of unlike lengths, so that they are padded as real ones are."""
    def ask(row: int, number: int) -> VQASample:
        return VQASample(dataset="bench", split="train", question_id=f"{row}-{number}", image_id="0", images=("x",),
                         question="Is there an abnormality of the liver in this image?" + " Look." * row,
                         answer="yes, there is one", answer_type="open")

    return [[ask(row, number) for number in range(questions)] for row in range(rows)]


def train(model, batch) -> None:
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad],
                                  lr=1e-5, fused=True)
    for number in range(2):
        total, tokens = sum_answer_loss(model, to_device(batch, model))
        (total / tokens).backward()
        del total
        if number == 0:
            optimizer.step()


@torch.no_grad()
def answer(model, batch) -> None:
    inputs = {name: value for name, value in to_device(batch, model).items() if name != "labels"}
    model.generate(**inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)


def measure_peak(work, model) -> int:
    """Return the peak of allocated bytes while `work` runs, the model's weights included."""
    if next(model.parameters()).is_cuda:
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    current = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    tensors = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
               for tensor in (*model.parameters(), *model.buffers())}
    return peak + sum(tensors.values())


def compare(size: str, name: str, device: str, dtype: str) -> dict:
    job = JOBS[name]
    settings = TrainSettings()
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_model(Path(folder), size, job, device, dtype)
        family, model = loaded.family, loaded.model
        empty = build_empty(family, folder)
        shape = read_shape(empty, family.layout, find_targets(empty, family.layout, settings.lora))
    picture = measure_picture(family, loaded.processor, (336, 336), shape)
    rows, questions = job.get("rows", 1), job.get("questions", 1)
    batch = build_batch(make_encoder(loaded), make_groups(rows, questions), packed=questions > 1)
    text = (batch["input_ids"].shape[1] - picture.tokens) // questions
    answers = int((batch["labels"] >= 0).sum()) // (rows * questions)
    if job["tuning"] == "none":
        text += NEW_TOKENS
    else:
        if find_quantization(model) != "none":
            prepare_kbit_training(model, gradient_checkpointing=False)
        model = prepare_training(model, family.layout, settings, lora=job["tuning"] == "lora").train()
        if job.get("checkpointing"):
            model.gradient_checkpointing_enable({"use_reentrant": False})
    work = Workload(picture=picture, text_tokens=text, answer_tokens=answers, dtype=dtype, on_gpu=device == "cuda",
                    rank=settings.lora.r, dropout=settings.lora.dropout, **job)
    peak = measure_peak(lambda: (answer if job["tuning"] == "none" else train)(model, batch), model)
    terms = estimate_memory(shape, work)
    return {"parameters": sum(shape.parameters.values()), "tokens": work.tokens, "measured": peak,
            "estimated": sum(terms.values()), "terms": terms}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--jobs", default=";".join(JOBS), help="separated by ;")
    parser.add_argument("--one", action="store_true", help="measure in this process and print JSON")
    parser.add_argument("--terms", action="store_true", help="show every term")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(compare(options.sizes, options.jobs, options.device, options.dtype)))
        return
    print(f"{torch.cuda.get_device_name() if options.device == 'cuda' else 'CPU'}, {options.dtype}, "
          f"torch {torch.__version__}; MB")
    for size in options.sizes.split(","):
        for job in options.jobs.split(";"):
            arguments = ["--one", "--sizes", size, "--jobs", job, "--device", options.device, "--dtype", options.dtype]
            done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            print(f"{size:5} {job:20} {found['parameters'] / 1e6:6.1f} M, {found['tokens']:4} tokens: estimated "
                  f"{found['estimated'] / 1e6:8.1f}, measured {found['measured'] / 1e6:8.1f}, ratio "
                  f"{found['estimated'] / found['measured']:.2f}", flush=True)
            if options.terms:
                print("      " + ", ".join(f"{name} {value / 1e6:.1f}" for name, value in found["terms"].items()))


if __name__ == "__main__":
    main()

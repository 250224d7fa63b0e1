"""What an analysis costs at the scale of large data sets: time and peak memory, on data made on the spot.

    python examples/benchmarks/analysis_scale.py [QUESTIONS] [IMAGES]

The questions are made one at a time and not kept; their texts and answers hardly repeat, which is the dear case. Each
part runs in a process of its own. Pictures are not decoded here: that takes as long as reading them.

Last figures, 2 CPU cores shared with other work, numpy 2.4 (2026-11-21):

    100,000 questions, 10,000 pictures      counted in 1.9 s, 131 MB; near-duplicates in 0.2 s, 60 MB
    1,000,000 questions, 500,000 pictures   counted in 44 s, 1,061 MB; near-duplicates in 30 s, 384 MB
"""

from __future__ import annotations

import multiprocessing
import random
import resource
import sys
import time

import numpy as np

from medvqa_cli.data.analysis.audit import ImageReport, audit_samples
from medvqa_cli.data.analysis.image_hashes import find_near_pairs
from medvqa_cli.records import VQASample

WORDS = ("the", "left", "right", "lung", "heart", "liver", "shows", "is", "there", "any", "lesion", "in", "of", "this",
         "image", "scan", "what", "which", "organ", "mass", "seen", "on", "upper", "lower", "lobe")


def make_samples(split, count, images):
    draw = random.Random(split)
    for number in range(count):
        is_closed = draw.random() < 0.5
        answer = draw.choice(("yes", "no")) if is_closed else " ".join(draw.choices(WORDS, k=draw.randint(1, 5)))
        yield VQASample(dataset="d", split=split, question_id=str(number), image_id="", answer=answer,
                        question=" ".join(draw.choices(WORDS, k=draw.randint(5, 12))) + f" {number % 1000}?",
                        answer_type="closed" if is_closed else "open", images=(f"/data/{number % images:07d}.jpg",))


def make_looks(count):
    """Hashes as unlike each other as those of a mixed data set: 1,000 kinds of pictures, one bit in ten changed."""
    draw = np.random.default_rng(0)
    kinds = draw.random((1000, 256)) < 0.5
    parts = (kinds[draw.integers(0, 1000, size)] ^ (draw.random((size, 256)) < 0.1)
             for size in [10_000] * (count // 10_000) + [count % 10_000])
    return [row.tobytes().hex() for part in parts for row in np.packbits(part, axis=1)]


def count_questions(questions, images):
    hashes = {f"/data/{number:07d}.jpg": f"{number:064x}" for number in range(images)}
    splits = {"train": make_samples("train", questions * 9 // 10, images),
              "test": make_samples("test", questions // 10, images)}
    audit_samples(splits, ImageReport(hashes))


def search_pairs(_, images):
    print(f"{sum(len(first) for first, _, _ in find_near_pairs(make_looks(images))):,} pairs, ", end="")


def measure(title, work, sizes):
    start = time.perf_counter()
    print(f"{title}: ", end="")
    work(*sizes)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{time.perf_counter() - start:.1f} s, {memory:,.0f} MB at the peak", flush=True)


def main():
    questions, images = (int(argument) for argument in [*sys.argv[1:], "100000", "10000"][:2])
    parts = {f"make {questions:,} questions": make_only, f"count {questions:,} questions (made again)": count_questions,
             f"search {images:,} pictures for near-duplicates": search_pairs}
    for title, work in parts.items():
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(title, work, (questions, images)))
        process.start()
        process.join()


def make_only(questions, images):
    for _ in make_samples("train", questions, images):
        pass


if __name__ == "__main__":
    main()

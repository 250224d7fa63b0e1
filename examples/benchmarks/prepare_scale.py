"""What preparing costs: time and memory against the number of questions.

    python examples/benchmarks/prepare_scale.py [--rows 10000 100000 1000000] [--images 50000] [--workers 0] [--embed]

Questions come from a JSON-lines file through the streaming reader; 20 questions an image, up to `--images` distinct
images (PNG, 64 x 64, noise). Each size is a fresh process; its peak memory is that of the whole process, with Python,
pyarrow and datasets (`resource.getrusage`), workers not counted. "fingerprint" is the hash of the original files,
"read" is `read_split` of everything, "stream" is `iterate_split`.

Last run (2 CPU cores shared with other work, Python 3.11, pyarrow 26.0.1, datasets 5.2.0):

| rows | prepare, s | rows/s | peak, MB | fingerprint, s | stream, s | read, s | peak after read, MB |
|---|---|---|---|---|---|---|---|
| 10,000 | 1.42 | 7,042 | 161 | 0.01 | 0.04 | 0.04 | 162 |
| 100,000 | 6.18 | 16,181 | 177 | 0.05 | 0.73 | 0.72 | 234 |
| 1,000,000 | 55.08 | 18,155 | 274 | 0.62 | 12.28 | 6.37 | 932 |

Importing datasets and pyarrow is about 1 s of each "prepare". Profiled, two thirds of the rest is the reader.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

QUESTIONS_PER_IMAGE = 20
ORGANS = ("liver", "lung", "heart", "spleen", "kidney", "brain", "bladder", "aorta")


def make_files(root: Path, num_rows: int, num_images: int) -> None:
    """Write rows.jsonl and the images it names."""
    from PIL import Image

    rng = random.Random(0)
    num_images = max(1, min(num_images, num_rows // QUESTIONS_PER_IMAGE))
    for number in range(num_images):
        path = root / "images" / f"{number // 1000:03d}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("L", (64, 64), rng.randbytes(64 * 64)).save(path, compress_level=1)
    with (root / "rows.jsonl").open("w", encoding="utf-8") as stream:
        for number in range(num_rows):
            image, organ = number % num_images, ORGANS[number % len(ORGANS)]
            row = {"id": f"q{number:07d}", "image": f"images/{image // 1000:03d}/{image}.png",
                   "question": f"Is there an abnormality of the {organ} in picture {image} (case {number})?",
                   "answer": "yes" if number % 3 else "no", "modality": "CT" if image % 2 else "MRI", "organ": organ}
            stream.write(json.dumps(row) + "\n")


def read_samples(root: Path):
    from medvqa_cli.data.reading import read_jsonl_rows
    from medvqa_cli.records import VQASample

    for row in read_jsonl_rows(root / "rows.jsonl"):
        image = row.path("image", root)
        yield VQASample(dataset="scale", split="test" if row.number % 10 == 0 else "train",
                        question_id=row.required_text("id"), image_id=image.stem, images=(str(image),),
                        question=row.required_text("question"), answer=row.required_text("answer"),
                        answer_type="closed", modality=row.text("modality"), organ=row.text("organ"))


def measure(root: Path, store: Path, workers: int, *, embed: bool) -> dict[str, float]:
    """Prepare once in this process; seconds of each step, and peak megabytes."""
    from medvqa_cli.data.prepared.store import fingerprint_files, iterate_split, read_split, write_store

    seconds: dict[str, float] = {}

    def clock(name, work):
        start = time.perf_counter()
        result = work()
        seconds[name] = round(time.perf_counter() - start, 2)
        return result

    clock("fingerprint", lambda: fingerprint_files(root))
    facts = clock("prepare", lambda: write_store(store, read_samples(root), {"fingerprint": "0"}, max_pixels=10**6,
                                                 workers=workers, embed_images=embed))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    splits = list(facts["counts"])
    count = clock("stream", lambda: sum(1 for split in splits for _ in iterate_split(store, split)))
    streaming = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    held = clock("read", lambda: [read_split(store, split) for split in splits])
    assert count == sum(map(len, held)) == sum(facts["counts"].values())
    reading = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows": count, **seconds, "peak": round(memory), "peak_stream": round(streaming),
            "peak_read": round(reading)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--embed", action="store_true", help="copy the images into the store")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        root, store = map(Path, options.measure)
        print(json.dumps(measure(root, store, options.workers, embed=options.embed)))
        return
    print("| rows | prepare, s | rows/s | peak, MB | fingerprint, s | stream, s | read, s | peak after read, MB |")
    print("|---|---|---|---|---|---|---|---|")
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as name:
            root = Path(name) / "files"
            make_files(root, rows, options.images)
            command = [sys.executable, __file__, "--measure", str(root), str(Path(name) / "store"),
                       "--workers", str(options.workers), *(["--embed"] if options.embed else [])]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"| {rows:,} | {found['prepare']} | {rows / found['prepare']:,.0f} | {found['peak']} | "
              f"{found['fingerprint']} | {found['stream']} | {found['read']} | {found['peak_read']} |", flush=True)


if __name__ == "__main__":
    main()

"""How often the candidates that a closed question is offered hold its gold answer: by data set, split and route.

    python examples/benchmarks/routing_coverage.py slake:en slake:zh vqa_rad --prepared-dir prepared

Questions are routed by their text and the vocabulary of the training split alone; only this table looks at the gold
answers. "gold offered" is exact match after normalization; "candidates" counts every form of every option.

The rules were made on SLAKE's training and validation and on VQA-RAD's training questions, and the test splits were
looked at once, on 2026-11-21:

    data      split       route     questions  share %  gold offered       %   mean  most
    slake:en  train       yesno          1681     86.5          1681  100.00   2.00     2
    slake:en  train       options         262     13.5           259   98.85   2.38     6
    slake:en  train       all            1943    100.0          1940   99.85   2.05     6
    slake:en  validation  yesno           358     84.8           358  100.00   2.00     2
    slake:en  validation  options          64     15.2            64  100.00   2.55     6
    slake:en  validation  all             422    100.0           422  100.00   2.08     6
    slake:en  test        yesno           355     85.3           355  100.00   2.00     2
    slake:en  test        options          61     14.7            60   98.36   2.43     6
    slake:en  test        all             416    100.0           415   99.76   2.06     6
    slake:zh  train       yesno          1669     86.1          1664   99.70   5.70     6
    slake:zh  train       options         266     13.7           264   99.25   2.26     3
    slake:zh  train       vocab             3      0.2             2   66.67  35.00    35
    slake:zh  train       all            1938    100.0          1930   99.59   5.27    35
    slake:zh  validation  yesno           361     85.5           360   99.72   5.72     6
    slake:zh  validation  options          61     14.5            60   98.36   2.25     3
    slake:zh  validation  all             422    100.0           420   99.53   5.22     6
    slake:zh  test        yesno           356     84.8           353   99.16   5.67     6
    slake:zh  test        options          63     15.0            62   98.41   2.16     3
    slake:zh  test        vocab             1      0.2             1  100.00  35.00    35
    slake:zh  test        all             420    100.0           416   99.05   5.21    35
    vqa_rad   train       yesno           939     91.4           936   99.68   2.00     2
    vqa_rad   train       options          87      8.5            76   87.36   3.24     6
    vqa_rad   train       vocab             1      0.1             1  100.00  50.00    50
    vqa_rad   train       all            1027    100.0          1013   98.64   2.15    50
    vqa_rad   test        yesno           248     91.2           248  100.00   2.00     2
    vqa_rad   test        options          23      8.5            20   86.96   2.91     6
    vqa_rad   test        vocab             1      0.4             0    0.00  50.00    50
    vqa_rad   test        all             272    100.0           268   98.53   2.25    50

VQA-RAD's training questions are routed with a vocabulary made of themselves; with one made of the other four fifths,
the gold answer is offered to 97.9 % of each fifth on average (96.6 to 98.5 %).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from medvqa_cli.data.prepared.store import read_split
from medvqa_cli.inference.routing import CandidateRouter, Offer
from medvqa_cli.inference.vocabulary import build_vocabulary
from medvqa_cli.scoring.answers import match_exactly
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.data import open_data

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.records import VQASample

ROUTES = ("yesno", "options", "vocab", "none")
HEADER = "data      split       route     questions  share %  gold offered       %   mean  most"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="data set, or data set:language")
    parser.add_argument("--prepared-dir", type=Path, default=Path("prepared"))
    parser.add_argument("--splits", default="train,validation,test")
    parser.add_argument("--misses", action="store_true", help="also print the questions whose gold is not offered")
    args = parser.parse_args()
    print(HEADER)
    for name in args.data:
        measure(name, args.splits.split(","), args.prepared_dir, misses=args.misses)


def measure(name: str, splits: Sequence[str], prepared_dir: Path, *, misses: bool) -> None:
    dataset, _, language = name.partition(":")
    prepared = open_data(make_settings({"data": {"dataset": dataset}, "paths": {"prepared": str(prepared_dir)}}))
    vocabulary = build_vocabulary(read_split(prepared.path, "train"), dataset=prepared.name, split="train",
                                  fingerprint=prepared.fingerprint)
    router = CandidateRouter(vocabulary)
    for split in splits:
        if split not in prepared.counts:
            continue
        closed = [sample for sample in read_split(prepared.path, split)
                  if sample.answer_type == "closed" and language in ("", sample.language)]
        offers = [router.route(sample) for sample in closed]
        print_split(name, split, closed, offers)
        if misses:
            print_misses(closed, offers)


def is_offered(sample: VQASample, offer: Offer) -> bool:
    return any(match_exactly(candidate, (sample.answer, *sample.alternatives)) for candidate in offer.candidates)


def print_split(name: str, split: str, samples: Sequence[VQASample], offers: Sequence[Offer]) -> None:
    pairs = list(zip(samples, offers, strict=True))
    for route in (*ROUTES, "all"):
        own = [(sample, offer) for sample, offer in pairs if route in (offer.route, "all")]
        if not own:
            continue
        hits, sizes = sum(is_offered(*pair) for pair in own), [len(offer.candidates) for _, offer in own]
        print(f"{name:<10}{split:<12}{route:<9}{len(own):>10}{100 * len(own) / len(pairs):>9.1f}{hits:>14}"
              f"{100 * hits / len(own):>8.2f}{sum(sizes) / len(sizes):>7.2f}{max(sizes):>6}")


def print_misses(samples: Sequence[VQASample], offers: Sequence[Offer]) -> None:
    for sample, offer in zip(samples, offers, strict=True):
        if not is_offered(sample, offer):
            shown = "the vocabulary" if offer.route == "vocab" else offer.candidates
            print(f"    {sample.question} -> {sample.answer} (offered: {shown})")


if __name__ == "__main__":
    main()

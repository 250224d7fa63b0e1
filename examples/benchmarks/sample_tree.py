"""What 100 and 1,000 samples cost in greedy answers, and long answers against `num_return_sequences`; on a CPU.

    python examples/benchmarks/sample_tree.py [--threads 1]

A random LLaVA with 576 image tokens, a 6-layer tower and an 8-layer language model, both 512 wide. The temperature
sets how many answers of 8 tokens are distinct: a trained model on short answers is as sure as the lowest one. Times are
processor time.

Last figures, one thread:

| temperature | samples | distinct | greedy answers |
|---|---|---|---|
| 0.02 | 100 | 3 | 1.1 |
| 0.02 | 1,000 | 22 | 1.3 |
| 0.05 | 100 | 86 | 2.0 |
| 0.05 | 1,000 | 744 | 8.1 |

16 samples of 256 tokens, all distinct: tree 25.4 s, `num_return_sequences` 54.1 s, 2.1 times.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from medvqa_cli.inference.branches import Path, decode_branches
from medvqa_cli.inference.choosing import draw_counts
from medvqa_cli.inference.protocol import Decoding
from medvqa_cli.inference.shared_prefix import PrefixTree

VOCABULARY, WIDTH = 32_000, 512
PREFIX = [3, 4, 5, 6] + [VOCABULARY - 1] * 576


def build_model() -> Any:
    """Return the model."""
    vision = {"model_type": "clip_vision_model", "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH,
              "num_hidden_layers": 6, "num_attention_heads": 8, "image_size": 336, "patch_size": 14}
    text = {"model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 1376,
            "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 8}
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=VOCABULARY - 1)
    return LlavaForConditionalGeneration(config).eval()


def draw(model: Any, pixels: torch.Tensor, question: list[int], count: int, decoding: Decoding) -> list[Path]:
    """Return the distinct answers among `count` samples by the tree, the picture's prefill included."""
    with torch.inference_mode():
        tree = PrefixTree(model, PREFIX, {"pixel_values": pixels})
    return decode_branches(tree, [question], count, draw_counts(decoding, torch.Generator().manual_seed(0)),
                           max_new_tokens=decoding.max_new_tokens, end_ids=frozenset())


def generate(model: Any, pixels: torch.Tensor, question: list[int], count: int, tokens: int, **how: Any) -> None:
    """Draw by transformers' own generate."""
    ids = torch.tensor([PREFIX + question])
    model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, max_new_tokens=tokens,
                   min_new_tokens=tokens, pad_token_id=0, num_return_sequences=count, **how)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    torch.manual_seed(0)
    model, pixels = build_model(), torch.randn(1, 3, 336, 336)
    question = torch.randint(3, 1000, (25,)).tolist()
    generate(model, pixels, question, 1, 8, do_sample=False)  # warm up
    start = time.process_time()
    generate(model, pixels, question, 1, 8, do_sample=False)
    greedy = time.process_time() - start
    for temperature in (0.02, 0.05):
        for count in (100, 1000):
            start = time.process_time()
            found = draw(model, pixels, question, count, Decoding(8, temperature))
            seconds = time.process_time() - start
            print(f"temperature {temperature}, {count} samples, {len(found)} distinct: {seconds:.2f} s, "
                  f"{seconds / greedy:.2f} greedy answers", flush=True)
    start = time.process_time()
    draw(model, pixels, question, 16, Decoding(256, 1.0))
    ours = time.process_time() - start
    start = time.process_time()
    generate(model, pixels, question, 16, 256, do_sample=True, temperature=1.0, top_k=0)
    theirs = time.process_time() - start
    print(f"16 samples of 256 tokens: tree {ours:.1f} s, num_return_sequences {theirs:.1f} s, "
          f"{theirs / ours:.2f} times")


if __name__ == "__main__":
    main()

"""How the next token of each branch is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from medvqa_cli.inference.branches import Chooser, Path
    from medvqa_cli.inference.protocol import Decoding


def choose_greedily(logits: torch.Tensor, paths: Sequence[Path]) -> list[tuple[int, int, int]]:
    """Return the likeliest token of each node's logits [N, V] for all its samples."""
    return [(node, token, path.count)
            for node, (token, path) in enumerate(zip(logits.argmax(-1).tolist(), paths, strict=True))]


def draw_counts(decoding: Decoding, generator: torch.Generator) -> Chooser:
    """Return a chooser that draws each node's tokens from its warped law and counts the distinct ones."""

    def choose(logits: torch.Tensor, paths: Sequence[Path]) -> list[tuple[int, int, int]]:
        law = warp_logits(logits, decoding).softmax(-1)
        single = [node for node, path in enumerate(paths) if path.count == 1]
        chosen = {}
        if single:
            tokens = torch.multinomial(law[single], 1, generator=generator)[:, 0].tolist()
            chosen = dict(zip(single, tokens, strict=True))
        return [child for node, path in enumerate(paths)
                for child in ([(node, chosen[node], 1)] if node in chosen
                              else _draw_many(node, law[node], path.count, generator))]

    return choose


def _draw_many(node: int, law: torch.Tensor, count: int, generator: torch.Generator) -> list[tuple[int, int, int]]:
    drawn = torch.multinomial(law, count, replacement=True, generator=generator)
    tokens, counts = drawn.unique(return_counts=True)
    return [(node, token, number) for token, number in zip(tokens.tolist(), counts.tolist(), strict=True)]


def draw_with_noise(decoding: Decoding, find_noise: Callable[[Path], torch.Tensor]) -> Chooser:
    """Return a chooser that adds a branch's own Gumbel noise [V] and takes the largest: a draw that can be repeated.

    It is for branches that are not merged: whoever decodes with the same noise, in whatever order and company, draws
    the same tokens.

    Args:
        decoding: What the law is.
        find_noise: Returns the noise of a path's next token.

    Source:
        Gumbel 1954, Statistical Theory of Extreme Values, for argmax(logits + noise) having the law softmax(logits).
    """

    def choose(logits: torch.Tensor, paths: Sequence[Path]) -> list[tuple[int, int, int]]:
        noise = torch.stack([find_noise(path) for path in paths])
        tokens = (warp_logits(logits, decoding) + noise).argmax(-1).tolist()
        return [(node, token, path.count) for node, (token, path) in enumerate(zip(tokens, paths, strict=True))]

    return choose


def warp_logits(logits: torch.Tensor, decoding: Decoding) -> torch.Tensor:
    """Return logits [N, V] whose softmax is the law that tokens are drawn from.

    Temperature, then the `top_k` likeliest, then the fewest likeliest whose probability reaches `top_p`: in the order,
    and by the code, of transformers' `generate`.
    """
    from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    none = torch.empty(0, dtype=torch.long)
    logits = TemperatureLogitsWarper(float(decoding.temperature))(none, logits)
    if decoding.top_k:
        logits = TopKLogitsWarper(decoding.top_k)(none, logits)
    if decoding.top_p < 1:
        logits = TopPLogitsWarper(decoding.top_p)(none, logits)
    return logits

"""Answers as branches of a tree: how their tokens are chosen, and in which order the branches are walked.

Branches that are still equal are one node with a count. A node that stands for n samples draws the counts of its next
tokens from Multinomial(n, p), where p is the law of the next token; that is the law of n independent draws, and each
distinct child is decoded once. So 100 samples cost what their distinct prefixes cost.

Memory is bounded: no more than MAX_NODES nodes are decoded in one pass, the others wait and are walked after them,
depth first. Where a branch passes by so many keys of others that this costs more than sharing saves, as in a thousand
long answers that all differ, the branches go on as rows with caches of their own, as many at a time as ROW_BYTES allow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from medvqa_cli.inference.shared_prefix import TreeFrontier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from medvqa_cli.inference.rows import RowFrontier
    from medvqa_cli.inference.shared_prefix import PrefixTree

    Frontier = TreeFrontier | RowFrontier
    # Logits [N, V] and the N paths that are there -> (node, token, how many of its samples take it).
    Chooser = Callable[[torch.Tensor, Sequence["Path"]], Iterable[tuple[int, int, int]]]

MAX_NODES = 1024
ROW_BYTES = 2**30
SPREAD = 12
"""Branches become rows when a node passes by so many times the tokens it continues.

Measured on a CPU with 100 branches of 600 tokens each: a step as one sequence costs as much as one in rows when a node
passes by 7 to 8 times its own tokens; copying the rows costs about ten steps.
"""


@dataclass(frozen=True, slots=True)
class Path:
    """An answer under way: whose it is, its tokens, how many samples share it, and its log-probability in nats.

    The log-probability is at temperature 1, whatever the tokens were drawn from. `branch` numbers the samples of a
    question where equal ones are not merged.
    """

    question: int
    tokens: tuple[int, ...]
    count: int
    logprob: float
    branch: int = 0


@torch.inference_mode()
def decode_branches(tree: PrefixTree, questions: Sequence[Sequence[int]], count: int, choose: Chooser, *,
                    max_new_tokens: int, end_ids: frozenset[int], merge: bool = True) -> list[Path]:
    """Answer every question `count` times; equal answers are one Path with their count.

    A Path's tokens include the end token where one was chosen.

    Args:
        tree: The prefilled prefix.
        questions: What follows it, in token ids.
        count: Answers to each.
        choose: Chooses the next tokens.
        max_new_tokens: Most tokens of an answer.
        end_ids: Tokens that end one.
        merge: Whether equal branches are one; else each of the `count` answers is a Path of its own.
    """
    root = tree.ask(questions)
    paths = [Path(question, (), count, 0.0) for question in range(len(questions))]
    if not merge:
        root = root.select([path.question for path in paths for _ in range(count)])
        paths = [replace(path, count=1, branch=branch) for path in paths for branch in range(count)]
    waiting: list[tuple[Frontier, list[Path]]] = [(root, paths)]
    finished: list[Path] = []
    while waiting:
        frontier, paths = waiting.pop()
        if isinstance(frontier, TreeFrontier):
            frontier, paths, rest = _fit(frontier, paths, max_new_tokens)
            waiting.extend(reversed(rest))
        children = _branch(frontier, paths, choose)
        alive = [child for child in children
                 if child[1].tokens[-1] not in end_ids and len(child[1].tokens) < max_new_tokens]
        kept = {id(path) for _, path in alive}
        finished.extend(path for _, path in children if id(path) not in kept)
        if alive:
            grown = frontier.grow([node for node, _ in alive], [path.tokens[-1] for _, path in alive])
            waiting.append((grown, [path for _, path in alive]))
    return sorted(finished, key=lambda path: (path.question, path.branch))


def _fit(frontier: TreeFrontier, paths: Sequence[Path],
         max_new_tokens: int) -> tuple[Frontier, list[Path], list[tuple[TreeFrontier, list[Path]]]]:
    """Return as much of a frontier as memory allows, as rows where that is cheaper, and what has to wait."""
    as_rows = frontier.length > SPREAD * frontier.longest
    if as_rows:
        tokens = frontier.longest + max_new_tokens - len(paths[0].tokens)
        most = max(1, ROW_BYTES // (frontier.tree.bytes_per_token * tokens))
        parts = _deal(paths, most)
    else:
        parts = [list(enumerate(paths))[start: start + MAX_NODES] for start in range(0, len(paths), MAX_NODES)]
    first, *rest = [(frontier.select([node for node, _ in part]) if len(parts) > 1 else frontier,
                     [path for _, path in part]) for part in parts]
    return (first[0].spread() if as_rows else first[0]), first[1], rest


def _deal(paths: Sequence[Path], most: int) -> list[list[tuple[int, Path]]]:
    """Deal numbered paths to parts of at most `most` samples; a path of more samples is parted itself."""
    parts: list[list[tuple[int, Path]]] = []
    room = 0
    for node, path in enumerate(paths):
        left = path.count
        while left:
            if not room:
                parts.append([])
                room = most
            taken = min(left, room)
            parts[-1].append((node, replace(path, count=taken)))
            left, room = left - taken, room - taken
    return parts


def _branch(frontier: Frontier, paths: Sequence[Path], choose: Chooser) -> list[tuple[int, Path]]:
    """Return the children of all paths with the nodes they hang from."""
    chosen = list(choose(frontier.logits, paths))
    nodes, tokens = [node for node, _, _ in chosen], [token for _, token, _ in chosen]
    logprobs = frontier.logits.log_softmax(-1)[nodes, tokens].tolist()
    return [(node, replace(paths[node], tokens=(*paths[node].tokens, token), count=count,
                           logprob=paths[node].logprob + logprob))
            for (node, token, count), logprob in zip(chosen, logprobs, strict=True)]

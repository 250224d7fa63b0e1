"""One prefill for an image, all its questions and all their answers as branches of one sequence.

The image and the words all prompts share are prefilled once into a batch-1 key-value cache. Questions, and then the
answers' tokens, are appended to that one cache; a mask lets each token see only the tokens it continues, and its
position is the one it would have alone. Nothing is copied per branch.

Branches that are still equal are one node with a count. A node that stands for n samples draws the counts of its next
tokens from Multinomial(n, softmax(logits / temperature)), which is the law of n independent draws; each distinct
child is decoded once. So 100 samples cost what their distinct prefixes cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from medvqa_cli.models.attention import fit_mask
from medvqa_cli.models.packing import build_block_mask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    # Logits [V] and how many samples are at the node -> (token, how many of them take it).
    Chooser = Callable[[torch.Tensor, int], list[tuple[int, int]]]


@dataclass(slots=True)
class Frontier:
    """Nodes about to choose their next token: N of them over a cache of T tokens.

    `logits` [N, V]; `visible` [N, T], which cached tokens each node continues; `positions` [N], of the next token.
    """

    logits: torch.Tensor
    visible: torch.Tensor
    positions: torch.Tensor


@dataclass(frozen=True, slots=True)
class Path:
    """An answer under way: whose it is, its tokens, how many samples share it, and its log-probability in nats."""

    question: int
    tokens: tuple[int, ...]
    count: int
    logprob: float


class PrefixTree:
    """A prefilled image prefix that questions and answers branch from.

    Args:
        model: A causal vision-language model in evaluation mode.
        prefix: Token ids shared by all prompts, image placeholders expanded.
        inputs: What else the model's forward takes of the prefix: image tensors, token types.
        positions: Positions [axes, P] of the prefix; None for 0, 1, 2...
    """

    def __init__(self, model: Any, prefix: Sequence[int], inputs: Mapping[str, torch.Tensor],
                 positions: torch.Tensor | None = None) -> None:
        from transformers import DynamicCache

        self.model = model
        self.prefix_length = len(prefix)
        self._device = next(model.parameters()).device
        self._axes = 1 if positions is None else len(positions)
        self._start = self.prefix_length if positions is None else int(positions.max()) + 1
        ids = torch.tensor([list(prefix)], device=self._device)
        placed = {} if positions is None else {"position_ids": positions[:, None].to(self._device)}
        # Made from the model's configuration, a cache would drop what lies outside a sliding window.
        self._cache = model(input_ids=ids, use_cache=True, past_key_values=DynamicCache(), logits_to_keep=1, **placed,
                            **inputs).past_key_values
        self._places = torch.arange(self.prefix_length)

    def ask(self, questions: Sequence[Sequence[int]]) -> Frontier:
        """Drop all branches and append these questions, each a list of at least one token."""
        if len(self._places) > self.prefix_length:
            self._cache.crop(self.prefix_length - len(self._places))
        self._places = self._places[: self.prefix_length]
        lengths = torch.tensor([len(question) for question in questions])
        owner = torch.repeat_interleave(torch.arange(1, len(questions) + 1), lengths)
        segments = torch.cat([torch.zeros(self.prefix_length, dtype=torch.long), owner])
        mask = build_block_mask(segments[None])[0, 0, self.prefix_length:]
        starts = torch.cat([torch.arange(length) for length in lengths.tolist()]) + self._start
        last = lengths.cumsum(0) - 1
        ids = torch.tensor([token for question in questions for token in question])
        logits = self._append(ids, mask, starts, keep=last)
        return Frontier(logits, mask[last], self._start + lengths)

    def grow(self, frontier: Frontier, parents: Sequence[int], tokens: Sequence[int]) -> Frontier:
        """Append one token below each parent node and return the children."""
        chosen = torch.tensor(list(parents))
        visible = torch.cat([frontier.visible[chosen], torch.eye(len(tokens), dtype=torch.bool)], dim=1)
        positions = frontier.positions[chosen]
        logits = self._append(torch.tensor(list(tokens)), visible, positions)
        return Frontier(logits, visible, positions + 1)

    def score(self, frontier: Frontier, branches: Sequence[tuple[int, Sequence[int]]]) -> list[float]:
        """Return the log-probability, in nats, of each (node, token ids) continuation, in one forward pass."""
        lengths = torch.tensor([len(ids) for _, ids in branches])
        nodes = torch.repeat_interleave(torch.tensor([node for node, _ in branches]), lengths)
        owner = torch.repeat_interleave(torch.arange(1, len(branches) + 1), lengths)
        offsets = torch.cat([torch.arange(length) for length in lengths.tolist()])
        visible = torch.cat([frontier.visible[nodes], build_block_mask(owner[None])[0, 0]], dim=1)
        ids = torch.tensor([token for _, branch in branches for token in branch])
        logits = self._append(ids, visible, frontier.positions[nodes] + offsets)
        before = torch.where((offsets == 0)[:, None], frontier.logits[nodes], logits.roll(1, dims=0))
        logprobs = before.log_softmax(-1)[torch.arange(len(ids)), ids]
        return torch.zeros(len(branches)).index_add(0, owner - 1, logprobs).tolist()

    def _append(self, ids: torch.Tensor, visible: torch.Tensor, positions: torch.Tensor,
                keep: torch.Tensor | None = None) -> torch.Tensor:
        """Run N tokens that see `visible` [N, T+N] over the cache; return float logits [N or kept, V] on the CPU."""
        self._places = torch.cat([self._places, positions])
        mask = fit_mask(self.model, visible[None, None].to(self._device), positions[None].to(self._device),
                        self._places[None].to(self._device))
        placed = positions[None].to(self._device)
        output = self.model(input_ids=ids[None].to(self._device), attention_mask=mask,
                            position_ids=placed if self._axes == 1 else placed.expand(self._axes, 1, -1),
                            past_key_values=self._cache, use_cache=True,
                            logits_to_keep=0 if keep is None else keep.to(self._device))
        logits: torch.Tensor = output.logits[0].float().cpu()
        return logits


def choose_greedily(logits: torch.Tensor, count: int) -> list[tuple[int, int]]:
    """Return the likeliest token of logits [V] for all `count` samples."""
    return [(int(logits.argmax()), count)]


def draw_counts(temperature: float, generator: torch.Generator) -> Chooser:
    """Return a chooser that draws `count` tokens from softmax(logits / temperature) and counts the distinct ones."""

    def choose(logits: torch.Tensor, count: int) -> list[tuple[int, int]]:
        probabilities = (logits / temperature).softmax(-1)
        drawn = torch.multinomial(probabilities, count, replacement=True, generator=generator)
        tokens, counts = drawn.unique(return_counts=True)
        return list(zip(tokens.tolist(), counts.tolist(), strict=True))

    return choose


@torch.inference_mode()
def decode_branches(tree: PrefixTree, questions: Sequence[Sequence[int]], count: int, choose: Chooser, *,
                    max_new_tokens: int, end_ids: frozenset[int]) -> list[Path]:
    """Answer every question `count` times; equal answers are one Path with their count.

    A Path's tokens include the end token where one was chosen.
    """
    frontier = tree.ask(questions)
    open_paths = [Path(question, (), count, 0.0) for question in range(len(questions))]
    finished: list[Path] = []
    for step in range(max_new_tokens):
        children = _branch(frontier, open_paths, choose)
        alive = [(parent, path) for parent, path in children
                 if path.tokens[-1] not in end_ids and step < max_new_tokens - 1]
        survivors = {id(path) for _, path in alive}
        finished.extend(path for _, path in children if id(path) not in survivors)
        if not alive:
            break
        open_paths = [path for _, path in alive]
        frontier = tree.grow(frontier, [parent for parent, _ in alive], [path.tokens[-1] for path in open_paths])
    return finished


def _branch(frontier: Frontier, paths: Sequence[Path], choose: Chooser) -> list[tuple[int, Path]]:
    logprobs = frontier.logits.log_softmax(-1)
    return [(node, Path(path.question, (*path.tokens, token), count, path.logprob + float(logprobs[node, token])))
            for node, path in enumerate(paths)
            for token, count in choose(frontier.logits[node], path.count)]

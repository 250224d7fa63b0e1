"""One prefill for an image, all its questions and all their answers as branches of one sequence.

The image and the words all prompts share are prefilled once into a batch-1 key-value cache. Questions, and then the
answers' tokens, are appended to that one cache; a mask lets each token see only the tokens it continues, and its
position is the one it would have alone. Nothing is copied per branch. `inference/branches.py` says how branches are
chosen and walked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from medvqa_cli.inference.growing_cache import make_growing_cache
from medvqa_cli.inference.rows import RowFrontier
from medvqa_cli.models.attention import fit_mask
from medvqa_cli.models.packing import build_block_mask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class TreeFrontier:
    """Nodes about to choose their next token: N of them over a cache of T tokens.

    `logits` [N, V]; `visible` [N, T], which cached tokens each node continues; `positions` [N], of the next token.
    """

    tree: PrefixTree
    logits: torch.Tensor
    visible: torch.Tensor
    positions: torch.Tensor

    @property
    def length(self) -> int:
        """Cached tokens T, which every node passes by."""
        return self.visible.shape[1]

    @property
    def longest(self) -> int:
        """Most tokens that a node continues."""
        return int(self.visible.sum(dim=1).max())

    def select(self, nodes: Sequence[int]) -> TreeFrontier:
        """Return some of the nodes; one may be named many times."""
        chosen = torch.tensor(list(nodes))
        return TreeFrontier(self.tree, self.logits[chosen], self.visible[chosen], self.positions[chosen])

    def grow(self, parents: Sequence[int], tokens: Sequence[int]) -> TreeFrontier:
        """Append one token below each parent node and return the children."""
        return self.tree.grow(self, parents, tokens)

    def spread(self) -> RowFrontier:
        """Return the nodes as rows with caches of their own."""
        return self.tree.spread(self)


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
        self.model = model
        self.prefix_length = len(prefix)
        self._device = next(model.parameters()).device
        self._axes = 1 if positions is None else len(positions)
        self._start = self.prefix_length if positions is None else int(positions.max()) + 1
        ids = torch.tensor([list(prefix)], device=self._device)
        placed = {} if positions is None else {"position_ids": positions[:, None].to(self._device)}
        # Made from the model's configuration, a cache would drop what lies outside a sliding window.
        self._cache = make_growing_cache()
        model(input_ids=ids, use_cache=True, past_key_values=self._cache, logits_to_keep=1, **placed, **inputs)
        self._places = torch.arange(self.prefix_length)

    @property
    def bytes_per_token(self) -> int:
        """Memory of one token's keys and values in all layers."""
        layers = (layer for layer in self._cache.layers if layer.is_initialized)
        return sum((layer.keys.nbytes + layer.values.nbytes) // layer.keys.shape[-2] for layer in layers)

    def ask(self, questions: Sequence[Sequence[int]]) -> TreeFrontier:
        """Drop all branches and append these questions, each a list of at least one token."""
        self._crop(self.prefix_length)
        lengths = torch.tensor([len(question) for question in questions])
        owner = torch.repeat_interleave(torch.arange(1, len(questions) + 1), lengths)
        segments = torch.cat([torch.zeros(self.prefix_length, dtype=torch.long), owner])
        mask = build_block_mask(segments[None])[0, 0, self.prefix_length:]
        starts = torch.cat([torch.arange(length) for length in lengths.tolist()]) + self._start
        last = lengths.cumsum(0) - 1
        ids = torch.tensor([token for question in questions for token in question])
        logits = self._append(ids, mask, starts, keep=last)
        return TreeFrontier(self, logits, mask[last], self._start + lengths)

    def grow(self, frontier: TreeFrontier, parents: Sequence[int], tokens: Sequence[int]) -> TreeFrontier:
        """Append one token below each parent node and return the children; what came after `frontier` is dropped."""
        self._crop(frontier.length)
        chosen = torch.tensor(list(parents))
        visible = torch.cat([frontier.visible[chosen], torch.eye(len(tokens), dtype=torch.bool)], dim=1)
        positions = frontier.positions[chosen]
        logits = self._append(torch.tensor(list(tokens)), visible, positions)
        return TreeFrontier(self, logits, visible, positions + 1)

    def spread(self, frontier: TreeFrontier) -> RowFrontier:
        """Copy what each node continues into a row of its own; shorter ones are filled up on the left."""
        width = frontier.longest
        lengths = frontier.visible.sum(dim=1)
        filled = torch.arange(width)[None] >= (width - lengths)[:, None]
        places = torch.zeros(filled.shape, dtype=torch.long)
        places[filled] = frontier.visible.nonzero()[:, 1]
        cache, index = make_growing_cache(), places.to(self._device)
        for number, layer in enumerate(self._cache.layers):
            if layer.is_initialized:
                keys, values = (states[0][:, index].transpose(0, 1) for states in (layer.keys, layer.values))
                cache.update(keys, values, number)
        return RowFrontier(self.model, cache, logits=frontier.logits, visible=filled, places=self._places[places],
                           positions=frontier.positions, axes=self._axes)

    def score(self, frontier: TreeFrontier, branches: Sequence[tuple[int, Sequence[int]]]) -> list[float]:
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

    def _crop(self, length: int) -> None:
        if len(self._places) > length:
            self._cache.crop(length - len(self._places))
            self._places = self._places[:length]

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

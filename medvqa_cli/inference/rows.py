"""Branches as rows of a batch, each with a cache of its own: cheaper than one sequence once answers are long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from medvqa_cli.models.attention import fit_mask

if TYPE_CHECKING:
    from collections.abc import Sequence


class RowFrontier:
    """N rows about to choose their next token, over caches of K tokens, short ones filled up on the left.

    Growing uses up the caches: only the children can be grown after it.

    Args:
        model: A causal vision-language model in evaluation mode.
        cache: Keys and values of all rows.
        logits: [N, V].
        visible: Which cached tokens are a row's own, [N, K].
        places: The cached tokens' positions, [N, K].
        positions: Of the next token, [N].
        axes: Axes on which the model counts positions.
    """

    def __init__(self, model: Any, cache: Any, *, logits: torch.Tensor, visible: torch.Tensor, places: torch.Tensor,
                 positions: torch.Tensor, axes: int) -> None:
        self.model = model
        self.logits = logits
        self._cache = cache
        self._visible = visible
        self._places = places
        self._positions = positions
        self._axes = axes

    def grow(self, parents: Sequence[int], tokens: Sequence[int]) -> RowFrontier:
        """Append one token to each parent row, which may have several children or none."""
        device = next(self.model.parameters()).device
        chosen = torch.tensor(list(parents))
        if not torch.equal(chosen, torch.arange(len(self.logits))):
            self._cache.batch_select_indices(chosen.to(device))
        own = torch.ones(len(chosen), 1, dtype=torch.bool)
        positions = self._positions[chosen]
        visible = torch.cat([self._visible[chosen], own], dim=1)
        places = torch.cat([self._places[chosen], positions[:, None]], dim=1)
        placed = positions[:, None].to(device)
        output = self.model(
            input_ids=torch.tensor(list(tokens), device=device)[:, None],
            attention_mask=fit_mask(self.model, visible[:, None, None].to(device), placed, places.to(device)),
            position_ids=placed if self._axes == 1 else placed.expand(self._axes, -1, -1),
            past_key_values=self._cache, use_cache=True)
        return RowFrontier(self.model, self._cache, logits=output.logits[:, -1].float().cpu(), visible=visible,
                           places=places, positions=positions + 1, axes=self._axes)

"""A key-value cache that grows in place: transformers' own copies all it holds whenever tokens are added."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

SPARE = 1.25
"""Room is made for so many times the tokens that are there."""


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer, [B, heads, T, dim], as views of a store with room to spare.

    What is cropped away is overwritten later; tensors handed out before must no longer be in use then.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self._stores = [torch.empty(0), torch.empty(0)]

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any,
               **_ignored: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values [B, heads, N, dim]; return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._append(0, self.keys, key_states)
        self.values = self._append(1, self.values, value_states)
        return self.keys, self.values

    def _append(self, number: int, held: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        length = held.shape[-2] if held.numel() else 0
        total = length + added.shape[-2]
        store = self._stores[number]
        if not (length and _is_start(held, store) and store.shape[-2] >= total):
            store = added.new_empty(*added.shape[:-2], int(total * SPARE), added.shape[-1])
            if length:
                store[:, :, :length] = held
            self._stores[number] = store
        store[:, :, length:total] = added
        return store[:, :, :total]


def _is_start(held: torch.Tensor, store: torch.Tensor) -> bool:
    """Return whether `held` is the beginning of a store: rows chosen from a cache are tensors of their own."""
    return held.data_ptr() == store.data_ptr() and held.stride() == store.stride() and len(held) == len(store)


def make_growing_cache() -> DynamicCache:
    """Return an empty cache that keeps all tokens, whatever window the model's layers have."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = GrowingLayer
    return cache

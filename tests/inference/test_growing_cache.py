"""The cache that grows in place holds what transformers' own holds, whatever is cropped or chosen on the way."""

from __future__ import annotations

import torch
from transformers import DynamicCache

from medvqa_cli.inference.growing_cache import make_growing_cache


def test_it_holds_what_a_dynamic_cache_holds():
    draw = torch.Generator().manual_seed(0)
    ours, theirs = make_growing_cache(), DynamicCache()

    def step(tokens: int, rows: int) -> None:
        states = [torch.randn(rows, 2, tokens, 4, generator=draw) for _ in range(2)]
        for layer in range(2):
            found = ours.update(*states, layer)
            expected = theirs.update(*states, layer)
            assert torch.equal(found[0], expected[0])
            assert torch.equal(found[1], expected[1])
        assert ours.get_seq_length() == theirs.get_seq_length()

    with torch.inference_mode():
        for tokens in (5, 1, 1, 3, 1):
            step(tokens, 1)
        for cache in (ours, theirs):
            cache.crop(-4)
        step(2, 1)
        for cache in (ours, theirs):
            cache.batch_select_indices(torch.tensor([0, 0, 0]))
        for tokens in (1, 1, 4):
            step(tokens, 3)
        for cache in (ours, theirs):
            cache.batch_select_indices(torch.tensor([2, 0]))
        step(1, 2)


def test_growing_by_a_token_copies_nothing():
    cache = make_growing_cache()
    states = torch.randn(1, 2, 100, 4)
    cache.update(states, states, 0)
    places = set()
    for _ in range(20):
        cache.update(states[:, :, :1], states[:, :, :1], 0)
        places.add(cache.layers[0].keys.data_ptr())
    assert len(places) == 1

"""Settings stored by an older version are read under today's names."""

from __future__ import annotations

import json

import pytest

from medvqa_cli.settings.layers import resolve_settings
from medvqa_cli.settings.schema import make_settings, to_tree

OLD = to_tree(make_settings())
del OLD["train"]["pack_length"]


@pytest.mark.parametrize(("stored", "now"), [(2048, None), (512, 512)])
def test_pack_tokens_is_read_as_the_pack_length(stored, now):
    tree = json.loads(json.dumps({**OLD, "train": {**OLD["train"], "pack_tokens": stored}}))
    assert make_settings(tree).train.pack_length == now
    assert tree["train"]["pack_tokens"] == stored, "what was given is left as it is"
    assert resolve_settings(run_settings=tree, environment={}).settings.train.pack_length == now

"""Settings stored by an older version, in today's names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

OLDER_PACK_TOKENS = 2048


def upgrade_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree of settings with older names replaced.

    train.pack_tokens became train.pack_length. Its default, 2,048, let longer questions pass, as not giving
    train.pack_length does now.
    """
    train = tree.get("train")
    if not isinstance(train, dict) or "pack_tokens" not in train:
        return dict(tree)
    kept = {key: value for key, value in train.items() if key != "pack_tokens"}
    bound = {} if train["pack_tokens"] == OLDER_PACK_TOKENS else {"pack_length": train["pack_tokens"]}
    return {**tree, "train": {**bound, **kept}}

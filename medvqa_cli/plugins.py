"""The registries: data sets, model families and rewards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.registry import Registry, add_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from medvqa_cli.data.protocol import Dataset
    from medvqa_cli.models.protocol import ModelFamily
    from medvqa_cli.training.attempts import Reward

datasets: Registry[Dataset] = Registry(
    "data set", "medvqa.datasets", "medvqa_cli.data.sources", ("card", "Options", "find_root", "read"))
models: Registry[ModelFamily] = Registry(
    "model family", "medvqa.models", "medvqa_cli.models.families",
    ("card", "layout", "capabilities", "Options", "loads", "load_processor", "load_model", "encode_images",
     "encode_prompt", "encode_answer", "find_image_token", "mark_tokens", "find_positions", "build_tiny"))
rewards: Registry[Reward] = Registry("reward", "medvqa.rewards", "medvqa_cli.training.rewards", ("card", "rate"))

REGISTRIES: dict[str, Registry[Any]] = {"datasets": datasets, "models": models, "rewards": rewards}


def add_files(paths: Iterable[Path]) -> None:
    """Add loose plugin files (`--plugin file.py`) to the registries they belong to.

    Raises:
        PluginError: If a file is missing, broken, or is no plugin.
    """
    for path in paths:
        add_file(path, REGISTRIES)

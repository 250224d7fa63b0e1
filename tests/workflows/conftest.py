"""A small trained run on the demo, shared by the workflow tests."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from medvqa_cli.runs import Run, open_run
from medvqa_cli.settings.schema import Settings, make_settings
from tests.data.builders import Notes

TREE = {
    "data": {"dataset": "demo", "options": {"train_images": 10, "validation_images": 3, "test_images": 4, "size": 32}},
    "model": {"name": "llava", "scratch": True, "device": "cpu", "dtype": "float32",
              "options": {"image_size": 24, "patch_size": 12, "width": 32, "vision_layers": 1, "text_layers": 1,
                          "vocabulary_size": 320}},
    "train": {"max_steps": 12, "batch_size": 2, "learning_rate": 3e-3, "log_steps": 4},
    "infer": {"max_new_tokens": 4},
    "calibration": {"samples": 12, "max_new_tokens": 3},
    "evaluation": {"resamples": 100},
}


FORK = multiprocessing.get_context("fork")


@contextmanager
def held_elsewhere(hold: Any, held: Any) -> Iterator[None]:
    """Let another process hold a lock, which it loses by being killed."""
    holding, done = FORK.Event(), FORK.Event()

    def work() -> None:
        with hold(held):
            holding.set()
            done.wait(60)

    other = FORK.Process(target=work)
    other.start()
    try:
        assert holding.wait(60)
        yield
    finally:
        other.kill()
        other.join()


def merge(tree: dict, **sections) -> dict:
    """Return settings values with some sections' keys replaced."""
    return tree | {name: {**tree.get(name, {}), **values} for name, values in sections.items()}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Run]:
    """Settings and run of a small model; shared, so tests that write take `own_run`."""
    from medvqa_cli.workflows.train import train_sft

    home = tmp_path_factory.mktemp("trained")
    settings = make_settings(merge(TREE, paths={"prepared": str(home / "prepared"), "runs": str(home / "runs")}))
    return settings, train_sft(settings, name="small")


@pytest.fixture
def own_run(trained: tuple[Settings, Run], tmp_path: Path) -> tuple[Settings, Run]:
    """A copy of the trained run in a runs folder of its own; the prepared data are shared."""
    settings, run = trained
    shutil.copytree(run.path, tmp_path / "runs" / "small")
    own = make_settings(merge(settings.model_dump(mode="json"), paths={"runs": str(tmp_path / "runs")}))
    return own, open_run(tmp_path / "runs", "small")


@pytest.fixture
def configure(tmp_path):
    """Settings for a data set, kept below tmp_path."""
    def build(dataset: str, root: Path | None = None, *, aliases: dict[str, Any] | None = None, **data: Any):
        data = {"dataset": dataset, **({"root": str(root)} if root else {}), **data}
        return make_settings({"data": data, "paths": {"prepared": str(tmp_path / "prepared")},
                              "aliases": aliases or {}})

    return build


@pytest.fixture
def listener() -> Notes:
    return Notes()

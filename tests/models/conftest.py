"""Tiny models shared by the model, training and inference tests."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from medvqa_cli.models.loading import load_checkpoint
from medvqa_cli.models.protocol import LoadedModel
from medvqa_cli.plugins import models
from medvqa_cli.settings.model import ModelSettings

if TYPE_CHECKING:
    import torch

QUESTIONS = (
    ("Is there a lesion?", "yes"), ("Is there a lesion on the left?", "no"), ("Which modality is used?", "MRI"),
    ("Where is the lesion in the image?", "upper left lung"), ("What is the largest organ?", "liver"),
)


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA checkpoint."""
    directory = tmp_path_factory.mktemp("tiny-llava")
    models.get("llava").build_tiny(directory, texts=[text for pair in QUESTIONS for text in pair], seed=1)
    return directory


@pytest.fixture(scope="session")
def phi4_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Phi-4-multimodal checkpoint with tiles of 48 pixels, 4 patches on a side; it is not to be changed."""
    directory = tmp_path_factory.mktemp("tiny-phi4")
    models.get("phi4_multimodal").build_tiny(directory, seed=3)
    return directory


def load_tiny(directory: Path, attention: str = "sdpa") -> LoadedModel:
    settings = ModelSettings(dtype="float32", device="cpu", attention=attention)
    return load_checkpoint(models.get("llava"), "llava", str(directory), settings)


@pytest.fixture
def tiny(tiny_directory: Path) -> LoadedModel:
    """A freshly loaded tiny LLaVA whose weights are scaled up, so that its answers are not near uniform."""
    import torch

    loaded = load_tiny(tiny_directory)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2.5)
    return loaded


def fill_adapters(model: torch.nn.Module, words: str = "lora_B") -> None:
    """Draw the weights whose names hold `words`: new adapters change nothing, for their second matrix is zero."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if words in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def draw_picture(seed: int, size: tuple[int, int] = (60, 44)):
    from PIL import Image

    return Image.frombytes("RGB", size, random.Random(seed).randbytes(size[0] * size[1] * 3))


@pytest.fixture
def picture_paths(tmp_path: Path) -> list[str]:
    """Paths of three random pictures."""
    paths = [tmp_path / f"picture-{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        draw_picture(number).save(path)
    return [str(path) for path in paths]

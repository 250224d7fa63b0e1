"""What settings mean to train: a model's own weights, or adapters on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medvqa_cli.models.quantization import Tuning
    from medvqa_cli.settings.schema import Settings
    from medvqa_cli.workflows.models import ModelChoice


def find_tuning(choice: ModelChoice, settings: Settings) -> Tuning:
    """Return what training will change: adapters, or weights of the model itself."""
    from medvqa_cli.models.targets import makes_adapters

    adapts = bool(choice.adapter) or (freezes_base(settings) and makes_adapters(settings.train.lora))
    return "lora" if adapts else "full"


def freezes_base(settings: Settings) -> bool:
    """Return whether training leaves a model's own weights alone but for parts that are named; else it trains all."""
    tuning = settings.train.tuning
    return tuning == "lora" or (tuning == "auto" and not settings.model.scratch)

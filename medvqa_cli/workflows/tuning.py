"""What settings mean to train: a model's own weights, or adapters on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medvqa_cli.errors import SettingsError
from medvqa_cli.settings.train import LoRASettings

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


def list_idle(settings: Settings) -> list[str]:
    """Return the adapter settings that differ from their defaults where everything is trained and no adapter made."""
    lora, plain = settings.train.lora, LoRASettings()
    if freezes_base(settings):
        return []
    return [f"train.lora.{name}" for name in LoRASettings.model_fields if getattr(lora, name) != getattr(plain, name)]


def check_adapters(settings: Settings) -> None:
    """Refuse adapter settings of a model from scratch, all of which is trained unless one says otherwise.

    Where train.tuning is "full" in so many words, they merely idle.

    Raises:
        SettingsError: Naming them.
    """
    if settings.train.tuning == "auto" and (idle := list_idle(settings)):
        raise SettingsError(f"{', '.join(idle)} shapes adapters, but a model from scratch is trained in full.",
                            "Add --tuning lora to train adapters on its random weights, or --tuning full; or leave "
                            "the adapter settings out.")

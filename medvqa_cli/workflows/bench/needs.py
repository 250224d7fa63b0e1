"""How much memory a benchmark will take, by the estimate of `models.memory`, before it is run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from medvqa_cli.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from medvqa_cli.models.encoding import SampleEncoder
    from medvqa_cli.models.memory import Workload
    from medvqa_cli.models.protocol import LoadedModel
    from medvqa_cli.models.shapes import ModelShape
    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.schema import Settings


@dataclass(frozen=True, slots=True)
class Need:
    """A model's sizes, and one row of one question as it goes through it."""

    shape: ModelShape
    work: Workload

    @property
    def weights(self) -> int:
        """Bytes of the weights, without adapters."""
        from medvqa_cli.models.memory import estimate_weights

        return estimate_weights(self.shape, self.work)

    def estimate(self, rows: int = 1, questions: int = 1) -> int:
        """Return the bytes that so many rows at once take at their peak, each of so many questions; weights and all."""
        from medvqa_cli.models.memory import estimate_memory

        return sum(estimate_memory(self.shape, replace(self.work, rows=rows, questions=questions)).values())


def measure_need(loaded: LoadedModel, encoder: SampleEncoder, groups: Sequence[Sequence[VQASample]],
                 settings: Settings, *, device: torch.device, dtype: torch.dtype, trainable: bool) -> Need:
    """Return the need of a model, which may lie on the meta device, for the longest of some samples.

    Args:
        loaded: The model, without an adapter.
        encoder: What feeds it.
        groups: The samples of each image; all pictures are of one size.
        settings: LoRA's targets, rank and dropout.
        device: Where it runs.
        dtype: Its number format.
        trainable: Whether LoRA is trained; else it answers.
    """
    from PIL import Image

    from medvqa_cli.models.memory import Workload
    from medvqa_cli.models.quantization import find_quantization
    from medvqa_cli.models.shapes import measure_picture, read_shape
    from medvqa_cli.models.targets import find_targets

    lora, layout = settings.train.lora, loaded.family.layout
    shape = read_shape(loaded.model, layout, find_targets(loaded.model, layout, lora) if trainable else ())
    with Image.open(groups[0][0].images[0]) as image:
        picture = measure_picture(loaded.family, loaded.processor, image.size, shape)
    samples = [encoder.encode_text(sample, encoder.encode_images(sample)) for group in groups for sample in group]
    longest = max(samples, key=lambda sample: len(sample.prompt) + len(sample.answer))
    return Need(shape, Workload(
        picture=picture, text_tokens=len(longest.prompt) + len(longest.answer) - picture.tokens,
        answer_tokens=len(longest.answer), dtype=str(dtype).removeprefix("torch."), on_gpu=device.type == "cuda",
        quantization=find_quantization(loaded.model), tuning="lora" if trainable else "none", rank=lora.r,
        dropout=lora.dropout, tune_projector=trainable and settings.train.tune_projector,
        last_layers=settings.train.unfreeze_last_layers if trainable else 0))


def check_fit(name: str, need: Need, device: torch.device) -> str:
    """Return in words what one row takes and what is free.

    Raises:
        ModelError: If it does not fit.
    """
    from medvqa_cli.models.placement import as_gib, find_free_memory

    least, free = need.estimate(), find_free_memory(device)
    if free is not None and least > free:
        raise ModelError(f"'{name}' does not fit: its weights take {as_gib(need.weights)}, with one question at a time "
                         f"about {as_gib(least)}, and the device '{device}' has {as_gib(free)} free.",
                         "Use --dtype bfloat16, another device or a smaller --like.")
    there = f" of {as_gib(free)} free" if free is not None else ""
    return f"{as_gib(need.weights)} of weights, with one question at a time about {as_gib(least)}{there}"

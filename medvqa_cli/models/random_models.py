"""Models of random weights in the sizes of real ones: sketched without memory, then built right where they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.models.loading import explained_failures
from medvqa_cli.models.protocol import LoadedModel
from medvqa_cli.models.shapes import build_empty
from medvqa_cli.models.tiny import seeded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from medvqa_cli.models.architectures import Architecture
    from medvqa_cli.models.protocol import ModelFamily

VOCABULARY = 1000
"""Tokens the sketch's own tokenizer learns at most; the model's vocabulary is that of the checkpoint."""
TOKEN_NUMBERS = ("token_id", "token_index")


def sketch_architecture(name: str, family: ModelFamily, architecture: Architecture,
                        texts: Sequence[str] = ()) -> LoadedModel:
    """Return a published checkpoint's model on torch's meta device, with a processor whose tokenizer knows `texts`.

    Its sizes are the architecture's; only the numbers of special tokens are those of the small tokenizer.

    Args:
        name: What to call it.
        family: The architecture's family; it builds the processor.
        architecture: The sizes.
        texts: Questions and answers.
    """
    import torch

    options = family.Options(image_size=architecture.image_size,  # type: ignore[misc]
                             patch_size=architecture.patch_size, vocabulary_size=VOCABULARY)
    builder: Any = family  # of the families that transformers' conventions hold for, as those of architectures are
    processor = builder.build_processor(texts, options)
    for part, attributes in ((processor, architecture.processor), (processor.image_processor, architecture.picture)):
        for attribute, value in attributes.items():
            setattr(part, attribute, value)
    with torch.device("meta"):
        small = builder.build_model(processor, options)
        model = type(small)(_resize(small.config, architecture))
    return LoadedModel(model.eval(), processor, family, architecture.family, name)


def _resize(config: Any, architecture: Architecture) -> Any:
    """Return an architecture's configuration that numbers its special tokens as a small model's does."""
    small = config.to_dict()
    text = {**_find_token_numbers(small["text_config"]), **architecture.text}
    return type(config)(**_find_token_numbers(small), **architecture.rest, vision_config=dict(architecture.vision),
                        text_config=text)


def _find_token_numbers(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key.endswith(TOKEN_NUMBERS)}


def sketch_checkpoint(family: ModelFamily, family_name: str, folder: str) -> LoadedModel:
    """Return the model that a folder's config.json describes on torch's meta device, with the folder's processor.

    Raises:
        ModelError: If config.json describes no model, or the processor cannot be loaded.
    """
    model = build_empty(family, folder)
    with explained_failures(folder):
        processor = family.load_processor(folder)
    return LoadedModel(model.eval(), processor, family, family_name, folder)


def build_weights(sketch: LoadedModel, *, device: torch.device, dtype: torch.dtype, attention: str,
                  seed: int = 0) -> LoadedModel:
    """Return a sketched model with random weights, drawn on its device and in its number format: no copy is made.

    Args:
        sketch: A model on the meta device.
        device: Where it will run.
        dtype: Its number format.
        attention: transformers' name of an attention implementation.
        seed: Decides the weights.

    Raises:
        ModelError: If they do not fit into a GPU's memory.
    """
    import torch

    with explained_failures(sketch.checkpoint), seeded(seed), torch.device(device):
        model = type(sketch.model)._from_config(  # noqa: SLF001 - what AutoModel.from_config calls
            sketch.model.config, dtype=dtype, attn_implementation=attention)
    return LoadedModel(model.eval(), sketch.processor, sketch.family, sketch.family_name, sketch.checkpoint)

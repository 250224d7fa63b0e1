"""What an original config.json says, checked, in the words of transformers' LlavaConfig."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MODEL_TYPE = "llava_mistral"
CLIP_HEAD = 64
TEXT_KEYS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads")
OPTIONAL_TEXT_KEYS = ("head_dim", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps",
                      "sliding_window", "attention_dropout", "bos_token_id", "eos_token_id", "tie_word_embeddings")
SELECTED = {"patch": "default", "cls_patch": "full"}
SUPPORTED: dict[str, tuple[Any, ...]] = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_vision_select_feature": tuple(SELECTED),
    "image_aspect_ratio": ("pad", "square", None),
    "mm_patch_merge_type": ("flat", None),
    "mm_use_im_start_end": (False, None),
    "rope_scaling": (None,),
    "tie_word_embeddings": (False, None),
}
"""Values of configuration keys whose meaning is carried over."""
DEFAULTS = {"mm_projector_type": "linear", "mm_vision_select_feature": "patch"}
"""What the original code takes where a key is missing."""
OTHERS = {
    "llava": "It has the layout of transformers already: use it as it is.",
    "llava_llama": "That is LLaVA-1.5 in its original layout: take a checkpoint of llava-hf instead.",
}


def check_config(folder: Path) -> dict[str, Any]:
    """Return an original checkpoint's config.json.

    Raises:
        ModelError: If it is missing, damaged, of another type, or says something that is not supported.
    """
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"'{folder}' is not a checkpoint: config.json is missing.",
                         "Name the folder that holds config.json and the weights.") from error
    except ValueError as error:
        raise ModelError(f"'{file}' is damaged: {error}.", "Download the checkpoint again.") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != MODEL_TYPE:
        raise ModelError(f"'{folder}' is of the type '{kind}', not an original LLaVA-Med v1.5 checkpoint "
                         f"('{MODEL_TYPE}').", OTHERS.get(str(kind), "Nothing else needs converting this way."))
    if lacking := [key for key in TEXT_KEYS if type(config.get(key)) is not int or config[key] < 1]:
        raise ModelError(f"'{file}' lacks the number '{lacking[0]}': it is {config.get(lacking[0])!r}.",
                         "Download it again.")
    for key, values in SUPPORTED.items():
        if (value := config.get(key, DEFAULTS.get(key))) not in values:
            known = " or ".join(repr(value) for value in values if value is not None)
            raise ModelError(f"'{file}' says {key} = {value!r}, which LLaVA-Med v1.5 does not.",
                             f"Only {known or 'no value'} is converted; the checkpoint is of another model.")
    return config


def make_config(original: Mapping[str, Any], vision: dict[str, Any]) -> Any:
    """Return the LlavaConfig of a checkpoint as it is stored, no token added, with a given vision tower.

    Raises:
        ValueError: If the feature layer is none of the tower's; what transformers raises of other values.
    """
    from transformers import LlavaConfig

    strategy = SELECTED[original.get("mm_vision_select_feature", "patch")]
    layer, layers = original.get("mm_vision_select_layer", -2), vision["num_hidden_layers"]
    if layer not in range(-layers - 1, layers + 1):
        raise ValueError(f"mm_vision_select_layer is {layer!r}, the vision tower has {layers} layers")
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    return LlavaConfig(vision_config=vision, text_config=_make_text_config(original),
                       vision_feature_layer=layer, vision_feature_select_strategy=strategy,
                       image_seq_length=patches + (strategy == "full"),
                       architectures=["LlavaForConditionalGeneration"])


def infer_tower(shapes: Mapping[str, tuple[int, ...]], original: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the configuration of a checkpoint's own vision tower: sizes from its tensors, the rest as OpenAI's CLIP.

    Heads leave no trace in shapes; OpenAI's vision transformers have one for every 64 channels (Radford et al. 2021,
    arXiv:2103.00020, table 20).

    Args:
        shapes: Of the tower's tensors, by CLIP's own names.
        original: The original config.json.
        folder: The checkpoint, for errors.

    Raises:
        ModelError: If it has no tower, an incomplete one, or one that is not OpenAI's.
    """
    named = str(original.get("mm_vision_tower"))
    if not shapes:
        raise ModelError(f"'{folder}' holds no vision tower; it was trained with '{named}'.",
                         f"Name one: medvqa convert llava-med SRC DST --vision-tower {named} (and --allow-pickle if "
                         "its weights are of the old format).")
    if not re.search(r"(^|/)clip-vit-(base|large)-patch\d+(-\d+)?/?$", named):
        raise ModelError(f"'{folder}' was trained with the vision tower '{named}', whose heads and activation cannot "
                         "be told from its weights.", "Name its own checkpoint: medvqa convert llava-med SRC DST "
                         "--vision-tower PATH.")
    try:
        width, channels, patch, _ = shapes["embeddings.patch_embedding.weight"]
        positions, _ = shapes["embeddings.position_embedding.weight"]
        inner, _ = shapes["encoder.layers.0.mlp.fc1.weight"]
    except (KeyError, ValueError) as error:
        raise ModelError(f"The vision tower in '{folder}' is incomplete: its embeddings or its first layer are "
                         "missing or of a wrong shape.", "Download the checkpoint again.") from error
    layers = {int(match[1]) for name in shapes if (match := re.match(r"encoder\.layers\.(\d+)\.", name))}
    return {"model_type": "clip_vision_model", "hidden_act": "quick_gelu", "hidden_size": width,
            "intermediate_size": inner, "num_channels": channels, "patch_size": patch,
            "image_size": patch * math.isqrt(positions - 1), "num_hidden_layers": max(layers) + 1,
            "num_attention_heads": max(1, width // CLIP_HEAD)}


def _make_text_config(original: Mapping[str, Any]) -> dict[str, Any]:
    text = {key: original[key] for key in (*TEXT_KEYS, *OPTIONAL_TEXT_KEYS) if key in original}
    rope = {"rope_type": "default", "rope_theta": float(original.get("rope_theta", 10_000.0))}
    return {"model_type": "mistral", "rope_parameters": rope, **text}

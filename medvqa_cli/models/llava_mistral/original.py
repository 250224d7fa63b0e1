"""A model written in the original layout: small checkpoints that go through the conversion like the published one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.models.llava_mistral.config import MODEL_TYPE, OPTIONAL_TEXT_KEYS, TEXT_KEYS
from medvqa_cli.models.llava_mistral.conversion import name_original
from medvqa_cli.records import write_json

if TYPE_CHECKING:
    from pathlib import Path

FILES = 2
PUBLISHED_TOWER = "openai/clip-vit-large-patch14-336"


def write_original(model: Any, tokenizer: Any, directory: Path) -> None:
    """Write a LlavaForConditionalGeneration as the original code would have saved it, in two weight files.

    Args:
        model: Its language model is a Mistral, its vision tower a CLIP with 64 channels a head; no token was added.
        tokenizer: Its tokenizer.
        directory: Made if need be.
    """
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name_original(name): tensor.contiguous() for name, tensor in model.state_dict().items()}
    names = sorted(tensors)
    places: dict[str, str] = {}
    for number in range(FILES):
        file = f"model-{number + 1:05d}-of-{FILES:05d}.safetensors"
        part = {name: tensors[name] for name in names[number::FILES]}
        save_file(part, directory / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    size = sum(tensor.nbytes for tensor in tensors.values())
    write_json(directory / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": places})
    write_json(directory / "config.json", _describe(model.config))
    tokenizer.save_pretrained(directory)


def _describe(config: Any) -> dict[str, Any]:
    text = config.text_config
    return {
        "architectures": ["LlavaMistralForCausalLM"], "model_type": MODEL_TYPE,
        **{key: getattr(text, key) for key in (*TEXT_KEYS, *OPTIONAL_TEXT_KEYS)},
        "rope_theta": text.rope_parameters["rope_theta"], "image_aspect_ratio": "pad",
        "mm_hidden_size": config.vision_config.hidden_size, "mm_patch_merge_type": "flat",
        "mm_projector_type": "mlp2x_gelu", "mm_use_im_patch_token": False, "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch", "mm_vision_select_layer": config.vision_feature_layer,
        "mm_vision_tower": PUBLISHED_TOWER, "use_mm_proj": True}

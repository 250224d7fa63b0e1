"""Phi-4-multimodal's model from transformers, made whole: its adapter for images, attention, padding, long rope."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from medvqa_cli.errors import ModelError
from medvqa_cli.models.adapters import load_adapter

VISION_ADAPTER = "vision-lora"


def complete_model(model: Any, checkpoint: str) -> Any:
    """Return a model from transformers as it was published: its adapter for images merged, faults mended.

    The published model reads images with a LoRA adapter only, which lies beside its weights. Merged, it leaves room
    for adapters of one's own. Weights in 4 or 8 bits are rounded once more by it: PEFT warns, and what that costs was
    not measured.

    Differs: in transformers 5.23 the patches of a picture that fills its tiles attend to earlier patches only, under
    SDPA and flash-attn, while eager attention and pictures with padding see all. Here all see all.

    Raises:
        ModelError: If the adapter is damaged or of another model.
    """
    folder = Path(checkpoint) / VISION_ADAPTER
    if (folder / "adapter_config.json").is_file():
        model = load_adapter(model, folder, trainable=False).merge_and_unload()
    features = model.model.embed_tokens_extend
    features.register_forward_pre_hook(mend_images, with_kwargs=True)
    for module in features.image_embed.img_processor.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False
    rope = model.config.rope_parameters
    if rope["rope_type"] == "longrope":
        guard = RopeGuard(rope["original_max_position_embeddings"])
        model.model.rotary_emb.register_forward_pre_hook(guard, with_kwargs=True)
    return model


def mend_images(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Change what the model's embedding of features gets of images, before it runs.

    Tiles behind those of a picture are marked as seen. transformers' processor marks them so where it pads; our batches
    pad with zeros. Nothing is made of these tiles, but attention to nothing at all may give what is no number, and so
    may its gradient.

    In the steps after the first, transformers' `generate` goes on giving pixels, though not the sizes: they are left
    out, for an image token that the model writes itself would end in an error.
    """
    mask, sizes = kwargs["image_attention_mask"], kwargs["image_sizes"]
    if sizes is None or mask is None:
        return args, {**kwargs, "image_pixel_values": None}
    held = 1 + (sizes.view(-1, 2) // module.image_embed.crop_size).prod(dim=1)
    padding = torch.arange(mask.shape[1], device=mask.device) >= held[:, None].to(mask.device)
    return args, {**kwargs, "image_attention_mask": mask.masked_fill(padding[:, :, None, None], 1)}


class RopeGuard:
    """Refuses to go on from cached keys once LongRoPE changes its frequencies.

    LongRoPE (Ding et al. 2024, arXiv:2402.13753) has one set of frequencies up to `limit` positions and another beyond;
    transformers chooses by the largest position of a call. Keys cached before the change do not fit queries after it:
    the logits are others than those of the whole sequence in one call, and nothing says so. A call that begins at
    position 0 is right whatever its length.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._is_long = False

    def __call__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG002 - a hook
        """Look at the positions of a call before the rotary embedding runs.

        Raises:
            ModelError: If they go on from a call that chose other frequencies.
        """
        first, last = (int(bound) for bound in kwargs["position_ids"].aminmax())
        is_long = last >= self.limit
        if first and is_long != self._is_long:
            raise ModelError(f"A conversation passes {self.limit} tokens behind its image, where this model changes "
                             "how it counts positions: what it has computed cannot be used any more.",
                             "If the question passes them, use --shared-prefix off; if the answer does, make the "
                             "picture smaller, so that it is fewer tokens.")
        self._is_long = is_long

"""What the Qwen-VL families share: ChatML, one token for each merged patch, positions in time, height and width.

Positions: Wang et al. 2024, Qwen2-VL, arXiv:2409.12191, section 2.1 (M-RoPE).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.models.family import LLAMA_TARGETS, ChatFamily
from medvqa_cli.models.processors import find_processor_class, make_absent_video_processor
from medvqa_cli.models.protocol import ImageInputs, ModelLayout
from medvqa_cli.models.tiny import shape_text, train_tokenizer, write_template

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
TEMPLATE = write_template(user="<|im_start|>user\n", assistant="<|im_start|>assistant\n", end="<|im_end|>\n",
                          image="<|vision_start|><|image_pad|><|vision_end|>")


class QwenFamily(ChatFamily):
    """A family with Qwen's vision tokens and positions on three axes."""

    layout = ModelLayout(
        vision_tower="model.visual",
        projector="model.visual.merger",
        language_model="model.language_model",
        lora_targets=LLAMA_TARGETS,
    )
    template = TEMPLATE

    def mark_tokens(self, processor: Any, input_ids: torch.Tensor,
                    answers: torch.Tensor) -> Mapping[str, torch.Tensor]:  # noqa: ARG002 - the protocol's arguments
        """Return mm_token_type_ids [B, T]: 1 where an image feature goes, from which the model derives positions."""
        return {"mm_token_type_ids": (input_ids == processor.image_token_id).int()}

    def find_positions(self, processor: Any, prefix: Sequence[int], images: ImageInputs) -> torch.Tensor | None:
        """Return positions [3, P] in time, height and width.

        Text counts on all axes alike. An image's tokens share one time and count rows and columns, all from where it
        begins; what follows goes on from the largest position plus 1.
        """
        import torch

        grids = iter(images.tensors["image_grid_thw"].tolist() if images.tensors else [])
        merge = processor.image_processor.merge_size
        parts: list[torch.Tensor] = []
        start = index = 0
        while index < len(prefix):
            if prefix[index] == processor.image_token_id:
                _, height, width = next(grids)
                part = torch.stack([torch.zeros(height // merge, width // merge, dtype=torch.long), *torch.meshgrid(
                    torch.arange(height // merge), torch.arange(width // merge), indexing="ij")]).flatten(1)
            else:
                part = torch.zeros(3, 1, dtype=torch.long)
            parts.append(part + start)
            start, index = start + int(part.max()) + 1, index + part.shape[1]
        return torch.cat(parts, dim=1)

    def build_processor(self, texts: Sequence[str], options: Any) -> Any:
        """Return a processor that keeps a picture's shape, with at most image_size^2 pixels."""
        from transformers import Qwen2VLImageProcessorPil

        side = max(options.image_size, 2 * options.patch_size)
        picture = Qwen2VLImageProcessorPil(
            patch_size=options.patch_size, min_pixels=(2 * options.patch_size) ** 2, max_pixels=side * side)
        tokenizer = train_tokenizer(["user", "assistant", *texts], TOKENS, options.vocabulary_size)
        return find_processor_class(self.processor_class)(picture, tokenizer, make_absent_video_processor(),
                                                          chat_template=TEMPLATE)


def shape_qwen_text(tokenizer: Any, options: Any, **rope: Any) -> dict[str, Any]:
    """Return a language model's configuration with rotary positions shared out to time, height and width."""
    half = options.width // options.heads // 2
    side = 3 * half // 8
    text = shape_text(tokenizer, options, head_dim=2 * half)
    return text | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0,
                                       "mrope_section": [half - 2 * side, side, side], **rope}}


def shape_qwen_vision(options: Any, **more: Any) -> dict[str, Any]:
    """Return a vision tower's configuration, its patches merged two by two."""
    return {"depth": options.vision_layers, "hidden_size": options.width, "num_heads": options.heads,
            "intermediate_size": 2 * options.width, "patch_size": options.patch_size, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "out_hidden_size": options.width, **more}


def name_qwen_tokens(tokenizer: Any) -> dict[str, int]:
    """Return the token ids a configuration wants to know."""
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
             "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}

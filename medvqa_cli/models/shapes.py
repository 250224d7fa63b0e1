"""The sizes of a model that its memory depends on, read from its modules: no weights are needed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import ModelError
from medvqa_cli.models.adapters import count_parameters, find_part
from medvqa_cli.models.loading import explained_failures

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from torch import nn

    from medvqa_cli.models.protocol import ModelFamily, ModelLayout

READERS = re.compile(r"(q|k|v|qkv|query|key|value|in_proj)(_|$)")
CROSS_ATTENTION = re.compile(r"EncDec|cross|encoder_attn", re.IGNORECASE)
HEAD_NORM = re.compile("[qk]_")
ACTIVATION_COPIES = {"QuickGELUActivation": 1, "NewGELUActivation": 4}
"""Copies of its input that an activation written in Python keeps beside what a built-in one keeps."""


@dataclass(frozen=True, slots=True)
class Target:
    """A linear layer that LoRA adapts. `reads_anew`: no other adapted layer of its block keeps the same input."""

    width_in: int
    width_out: int
    reads_anew: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Transformer blocks that tokens pass one after another; widths are those of one block, in values a token.

    Attributes:
        depth: Blocks.
        width: The residual stream.
        norms: What the norms read, all together.
        norms_in_float32: Whether they copy it to float32 (RMSNorm as transformers writes it).
        inputs: What attention and MLP read, all together.
        attention: Queries; as wide as what attention puts out.
        key_value: Keys and values together.
        cross: Keys and values of cross-attention, over the encoder's tokens; 0 without.
        mlp_in: What the first layers of the MLP put out: twice `mlp_out` where it is gated.
        mlp_copies: What the activation function keeps beside that.
        mlp_out: What the last layer of the MLP reads.
        mask_heads: Masks a layer makes: one for each head where a position bias is learned (T5), else 1.
        decodes: Whether it is the decoder of an encoder-decoder.
        is_vision: Whether it sees patches, which are never masked.
        targets: The adapted layers of all blocks.
        block_parameters: Parameters of one block.
    """

    depth: int
    width: int
    norms: int
    norms_in_float32: bool
    inputs: int
    attention: int
    key_value: int
    cross: int
    mlp_in: int
    mlp_copies: int
    mlp_out: int
    mask_heads: int = 1
    decodes: bool = False
    is_vision: bool = False
    targets: tuple[Target, ...] = ()
    block_parameters: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A model's sizes.

    Attributes:
        parameters: Count by part: vision tower, projector, language model, other.
        quantizable: Weights of the language model's linear layers, which bitsandbytes quantises.
        largest_linear: The largest of them.
        vision: Stacks of the vision tower.
        language: Stacks of the language model.
        former: Blocks of a Q-Former (BLIP-2), each a stack of its own, as only some look at the tower's patches.
        projector_width: What the projector's linear layers read and put out, in values an image token.
        vocabulary: Logits a token.
        patch_values: Values of the processed picture that one patch takes; 0 if unknown.
        holds_vision_states: Whether the states after all vision blocks live as long as the forward pass.
    """

    parameters: Mapping[str, int]
    quantizable: int
    largest_linear: int
    vision: tuple[Stack, ...]
    language: tuple[Stack, ...]
    projector_width: int
    vocabulary: int
    patch_values: int
    holds_vision_states: bool
    former: tuple[Stack, ...] = ()


@dataclass(frozen=True, slots=True)
class PictureSize:
    """What one picture becomes: tokens in the prompt, patches in the vision tower, values in the pixel tensors."""

    tokens: int
    patches: int
    values: int


def build_empty(family: ModelFamily, folder: str) -> nn.Module:
    """Return a checkpoint's model on torch's meta device, built from its config.json alone.

    Its class is the family's `model_class`, else the one config.json names, else transformers' own choice. A family
    whose config.json transformers does not know gives the configuration itself, by a method `load_config(folder)`.

    Raises:
        ModelError: If config.json describes no model that transformers knows.
    """
    import torch
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    try:
        with explained_failures(folder):
            config = getattr(family, "load_config", transformers.AutoConfig.from_pretrained)(folder)
            names = (getattr(family, "model_class", None), *(config.architectures or ()))
            classes = [getattr(transformers, name) for name in names if name and hasattr(transformers, name)]
            with torch.device("meta"):
                model: nn.Module = (classes[0](config) if classes else
                                    transformers.AutoModelForImageTextToText.from_config(config))
    except (TypeError, AttributeError, StrictDataclassError) as error:
        raise ModelError(f"'{folder}': config.json describes no model: {' '.join(str(error).split())[:200]}",
                         "The file is damaged or of another version; download the checkpoint again.") from error
    return model


def read_shape(model: Any, layout: ModelLayout, targets: Sequence[str] = ()) -> ModelShape:
    """Return the sizes of a model, on whatever device; `targets` are the names of the layers that LoRA adapts.

    Raises:
        ModelError: If a part that the layout names is not there.
    """
    adapted = {model.get_submodule(name) for name in targets}
    try:
        vision, language = find_part(model, layout.vision_tower), find_part(model, layout.language_model)
        projectors = [find_part(model, path) for path in layout.projectors]
    except AttributeError as error:
        raise ModelError(f"The model has not the parts its family names: {error}.",
                         "Name its family with --family (see `medvqa models list`).") from error
    head = model.get_output_embeddings()
    weights = [math.prod(linear) for _, module, linear in _linears(language) if module is not head]
    return ModelShape(
        parameters={part: count for part, (_, count) in count_parameters(model, layout).items()},
        quantizable=sum(weights), largest_linear=max(weights, default=0),
        vision=tuple(replace(stack, is_vision=True) for stack in _read_stacks(vision, adapted, layout.task_type)),
        language=tuple(_read_stacks(language, adapted, layout.task_type)),
        projector_width=sum(sum(linear) for projector in projectors for _, _, linear in _linears(projector)),
        vocabulary=head.out_features, patch_values=_count_patch_values(vision),
        holds_vision_states=hasattr(model.config, "vision_feature_layer"), former=tuple(_read_former(model)))


def measure_picture(family: ModelFamily, processor: Any, size: tuple[int, int], shape: ModelShape) -> PictureSize:
    """Return what a picture of `size` (width, height) pixels becomes, found by processing a grey one."""
    from PIL import Image

    inputs = family.encode_images(processor, [Image.new("RGB", size, (127, 127, 127))])
    values = max((tensor.numel() for tensor in inputs.tensors.values() if tensor.is_floating_point()), default=0)
    image_tokens = sum(inputs.num_tokens)
    marked = sum(len(processor.tokenizer(marker, add_special_tokens=False).input_ids) for marker in inputs.markers)
    between = marked - len(inputs.num_tokens) if inputs.markers else 0
    return PictureSize(image_tokens + between, values // shape.patch_values if shape.patch_values else image_tokens,
                       values)


def _linears(part: Any) -> Iterator[tuple[str, Any, tuple[int, int]]]:
    """Yield the linear layers below a module: name, module, (values read, values put out)."""
    from torch import nn

    for name, module in part.named_modules():
        if isinstance(module, nn.Linear):
            yield name, module, (module.in_features, module.out_features)


def _read_stacks(part: Any, adapted: Collection[Any], task_type: str) -> Iterator[Stack]:
    """Yield the outermost lists of blocks that hold attention."""
    from torch import nn

    seen: list[str] = []
    for name, module in part.named_modules():
        if not isinstance(module, nn.ModuleList) or any(name.startswith(f"{outer}.") for outer in seen):
            continue
        if any(_is_attention(path) for path, _, _ in _linears(module)):
            seen.append(name)
            targets = tuple(target for block in module for target in _list_targets(block, adapted))
            biased = any("relative_attention_bias" in path for path, _ in module.named_modules())
            yield _read_stack(module[-1], depth=len(module), targets=targets, biased=biased,
                              decodes=task_type == "SEQ_2_SEQ_LM" and "decoder" in name)


def _read_former(model: Any) -> Iterator[Stack]:
    """Yield the blocks of a Q-Former."""
    for block in model.qformer.encoder.layer if hasattr(model, "qformer") else ():
        yield replace(_read_stack(block, depth=1, targets=(), biased=False, decodes=False), is_vision=True)


def _read_stack(block: Any, *, depth: int, targets: tuple[Target, ...], biased: bool, decodes: bool) -> Stack:
    linears = list(_linears(block))
    crossing = [item for item in linears if CROSS_ATTENTION.search(item[0])]
    own = [item for item in linears if _is_attention(item[0]) and item not in crossing]
    mlp = [linear for path, _, linear in linears if not _is_attention(path)]
    attention = next(linear[0] for path, _, linear in own if not _reads(path))
    width = next(linear[0] for path, _, linear in own if _reads(path))
    mlp_in, mlp_out = sum(linear[1] for linear in mlp[:-1]), mlp[-1][0]
    key_value = sum(linear[1] for path, _, linear in own if _reads(path)) - attention
    norms = [(path, type(module).__name__) for path, module in block.named_modules()
             if "norm" in type(module).__name__.lower()]
    head_norms = sum(HEAD_NORM.match(path.rpartition(".")[2]) is not None for path, _ in norms)
    copies = sum(ACTIVATION_COPIES.get(type(module).__name__, 0) for module in block.modules())
    return Stack(
        depth=depth, width=width, targets=targets, decodes=decodes,
        block_parameters=sum(parameter.numel() for parameter in block.parameters()),
        norms=(len(norms) - head_norms) * width + (attention + key_value // 2 if head_norms else 0),
        norms_in_float32=any(kind != "LayerNorm" for _, kind in norms),
        inputs=(2 + bool(crossing)) * width, attention=attention, key_value=key_value,
        cross=sum(linear[1] for path, _, linear in crossing if re.match("k|v", path.rpartition(".")[2])),
        mlp_in=mlp_in, mlp_out=mlp_out, mlp_copies=(mlp_out if mlp_in > mlp_out else 0) + copies * mlp_out,
        mask_heads=_count_heads(block) if biased else 1)


def _list_targets(block: Any, adapted: Collection[Any]) -> Iterator[Target]:
    seen: set[str] = set()
    for path, module, (width_in, width_out) in _linears(block):
        if module not in adapted:
            continue
        parent = path.rpartition(".")[0]
        last = not _reads(path) if _is_attention(path) else path == [p for p, _, _ in _linears(block)][-1]
        kept_anyway = _is_attention(path) and last
        yield Target(width_in, width_out, not kept_anyway and (last or parent not in seen))
        if not last:
            seen.add(parent)


def _is_attention(path: str) -> bool:
    return "att" in path.lower()


def _reads(path: str) -> bool:
    return READERS.match(path.rpartition(".")[2]) is not None


def _count_heads(block: Any) -> int:
    return next((module.n_heads for module in block.modules() if hasattr(module, "n_heads")), 1)


def _count_patch_values(vision: Any) -> int:
    """Return the values of the convolution that cuts a picture into patches."""
    from torch import nn

    kinds = (nn.Conv2d, nn.Conv3d)
    return next((module.in_channels * math.prod(module.kernel_size) for module in vision.modules()
                 if isinstance(module, kinds)), 0)

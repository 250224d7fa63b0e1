"""Every tensor of an original checkpoint, under the name of the parameter that it becomes."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import ModelError
from medvqa_cli.models.llava_mistral.config import check_config, infer_tower, make_config
from medvqa_cli.models.llava_mistral.processor import IMAGE_TOKEN, add_tokens, load_tokenizer, make_processor
from medvqa_cli.models.weight_files import StoredTensor, list_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

TOWER = "model.vision_tower."
ORIGINAL_TOWER = "model.vision_tower.vision_tower.vision_model."
ORIGINAL_NAMES = (
    (ORIGINAL_TOWER, TOWER),
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
    ("lm_head.", "lm_head."),
    ("model.", "model.language_model."),
)
SAVED_NAMES = (
    (TOWER, "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)
"""The names in published LLaVA checkpoints: transformers 4 and 5 and other programs read them."""
COMPUTED = re.compile(r"\.(position_ids|rotary_emb\.inv_freq)$")
"""Buffers that older versions of transformers saved and newer ones compute."""
CLIP_TEXT = re.compile(r"(text_model|text_projection|visual_projection|logit_scale)(\.|$)")
GROWING = ("model.language_model.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """An original checkpoint understood: everything its new form needs, no weight read yet.

    Attributes:
        config: transformers' LlavaConfig, with the added tokens.
        processor: LlavaProcessor, with the added tokens and the chat template.
        tensors: By the name of the parameter they become; every parameter has one.
        added: Tokens that the original tokenizer lacks.
        unused: Names of stored tensors that become nothing: buffers that are computed, and the checkpoint's own vision
            tower where another one takes its place.
    """

    config: Any
    processor: Any
    tensors: Mapping[str, StoredTensor]
    added: tuple[str, ...]
    unused: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Size of all tensors, in bytes."""
        return sum(tensor.num_bytes for tensor in self.tensors.values())

    @property
    def num_values(self) -> int:
        """Number of parameters."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())


def plan_conversion(folder: Path, tower: Path | None = None, *, allow_pickle: bool = False) -> Conversion:
    """Read a checkpoint's configuration and the headers of its weight files, and account for every tensor.

    Args:
        folder: An original checkpoint.
        tower: A CLIP checkpoint whose vision tower is taken; None takes the checkpoint's own.
        allow_pickle: Read weights in the old format too.

    Differs: the original inference code fetches OpenAI's tower and leaves the checkpoint's own one unread; name
    OpenAI's as `tower` to do the same.

    Raises:
        ModelError: If it is of another kind, a tensor is missing, unknown or of a wrong shape, or a file is damaged.
    """
    original = check_config(folder)
    stored = list_tensors(folder, allow_pickle=allow_pickle)
    kept = {name: tensor for name, tensor in stored.items()
            if not COMPUTED.search(name) and not (tower and name.startswith(ORIGINAL_TOWER))}
    vision, of_tower = _read_tower(tower, allow_pickle=allow_pickle) if tower else (
        infer_tower(_list_tower_shapes(kept), original, folder), {})
    config, shapes = _describe_model(original, vision, folder)
    tensors = {_rename(name, ORIGINAL_NAMES): tensor for name, tensor in kept.items()} | of_tower
    _check_tensors(tensors, shapes, folder, tower)
    tokenizer = load_tokenizer(folder)
    added = add_tokens(tokenizer, config.text_config.vocab_size, folder)
    _extend_vocabulary(config, tokenizer)
    tensors |= {name: _grow(tensors[name], config.text_config.vocab_size) for name in GROWING}
    config.dtype = tensors[GROWING[0]].dtype
    return Conversion(config=config, processor=make_processor(config, tokenizer, original), tensors=tensors,
                      added=added, unused=tuple(name for name in stored if name not in kept))


def load_converted(conversion: Conversion, **loading: Any) -> Any:
    """Return the model in memory, read tensor by tensor into a model without weights; nothing is written.

    Args:
        conversion: The plan.
        **loading: What `from_pretrained` takes: dtype, attn_implementation, quantization_config, device_map...

    Returns:
        What `from_pretrained` does: the model, with `output_loading_info` also what was missing.
    """
    from transformers import LlavaForConditionalGeneration

    loaded = LlavaForConditionalGeneration.from_pretrained(
        None, config=conversion.config, state_dict=dict(conversion.tensors), **loading)
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    model.generation_config = make_generation(conversion)
    return loaded


def make_generation(conversion: Conversion) -> Any:
    """Return the generation configuration: the tokens that begin, end and pad."""
    from transformers import GenerationConfig

    text = conversion.config.text_config
    return GenerationConfig(bos_token_id=text.bos_token_id, eos_token_id=text.eos_token_id,
                            pad_token_id=text.pad_token_id)


def name_saved(name: str) -> str:
    """Return the name under which a checkpoint on disk keeps a parameter."""
    return _rename(name, SAVED_NAMES)


def name_original(name: str) -> str:
    """Return the name under which an original checkpoint keeps a parameter."""
    return _rename(name, [(new, old) for old, new in ORIGINAL_NAMES])


def _rename(name: str, table: Sequence[tuple[str, str]]) -> str:
    old, new = next((pair for pair in table if name.startswith(pair[0])), ("", ""))
    return new + name.removeprefix(old)


def _list_tower_shapes(tensors: Mapping[str, StoredTensor]) -> dict[str, tuple[int, ...]]:
    return {name.removeprefix(ORIGINAL_TOWER): tensor.shape for name, tensor in tensors.items()
            if name.startswith(ORIGINAL_TOWER)}


def _read_tower(folder: Path, *, allow_pickle: bool) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
    """Return the configuration and the tensors of a CLIP checkpoint's vision tower."""
    from transformers import CLIPVisionConfig

    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"The vision tower '{folder}' is no checkpoint: its config.json is missing or damaged.",
                         "Name a CLIP checkpoint, such as openai/clip-vit-large-patch14-336.") from error
    if kind not in {"clip", "clip_vision_model"}:
        raise ModelError(f"The vision tower '{folder}' is of the type '{kind}', not CLIP.",
                         "LLaVA-Med v1.5 takes openai/clip-vit-large-patch14-336.")
    stored = list_tensors(folder, allow_pickle=allow_pickle)
    return CLIPVisionConfig.from_pretrained(folder).to_dict(), {
        TOWER + name.removeprefix("vision_model."): tensor for name, tensor in stored.items()
        if not CLIP_TEXT.match(name) and not COMPUTED.search(name)}


def _describe_model(original: Mapping[str, Any], vision: dict[str, Any],
                    folder: Path) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """Return the configuration, and the shape of every parameter of a model of that configuration."""
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import LlavaForConditionalGeneration

    try:
        config = make_config(original, vision)
        with torch.device("meta"):
            model = LlavaForConditionalGeneration(config)
    except (StrictDataclassError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"'{folder / 'config.json'}' describes no model: {' '.join(str(error).split())}.",
                         "The file is damaged or of another model; download the checkpoint again.") from error
    return config, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _check_tensors(found: Mapping[str, StoredTensor], wanted: Mapping[str, tuple[int, ...]], folder: Path,
                   tower: Path | None) -> None:
    unknown = [tensor for name, tensor in found.items() if name not in wanted]
    if unknown:
        raise ModelError(f"'{unknown[0].file.parent}' holds {_count(unknown)} that LLaVA-Med v1.5 does not have: "
                         f"'{unknown[0].name}'.",
                         "It is a LLaVA-1.6 checkpoint: take its transformers form of llava-hf."
                         if any(tensor.name == "model.image_newline" for tensor in unknown) else
                         "config.json and weights do not belong together, or it is another model.")
    missing = [name for name in wanted if name not in found]
    if missing:
        foreign = tower is not None and missing[0].startswith(TOWER)
        name = missing[0].replace(TOWER, "vision_model.") if foreign else name_original(missing[0])
        raise ModelError(f"'{tower if foreign else folder}' lacks {_count(missing)} that its config.json asks for: "
                         f"'{name}'.", "The checkpoint is incomplete; download it again.")
    for name, shape in wanted.items():
        if (tensor := found[name]).shape != shape:
            raise ModelError(f"The tensor '{tensor.name}' in '{tensor.file}' has the shape {list(tensor.shape)}, where "
                             f"{list(shape)} is expected.",
                             "config.json, weights and vision tower do not belong together.")


def _count(names: Sequence[object]) -> str:
    return "a tensor" if len(names) == 1 else f"{len(names)} tensors"


def _extend_vocabulary(config: Any, tokenizer: Any) -> None:
    text = config.text_config
    text.vocab_size = max(text.vocab_size, len(tokenizer))
    text.bos_token_id, text.eos_token_id, text.pad_token_id = (
        tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    config.image_token_index = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)


def _grow(stored: StoredTensor, rows: int) -> StoredTensor:
    """Return a table of embeddings with rows added, each the mean of the old ones.

    So a token never seen is neither likely nor impossible (Hewitt 2021, Initializing New Word Embeddings for
    Pretrained Language Models).
    """
    def read() -> torch.Tensor:
        import torch

        table = stored.read()
        mean = table.mean(dim=0, keepdim=True, dtype=torch.float32).to(table.dtype)
        return torch.cat([table, mean.expand(rows - len(table), -1)])

    return dataclasses.replace(stored, shape=(rows, *stored.shape[1:]), read=read)

"""LLaVA-Med v1.5 (Li et al. 2023, arXiv:2306.00890): LLaVA on Mistral 7B, trained on biomedical figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.models.family import ChatFamily
from medvqa_cli.models.llava_mistral import MODEL_TYPE, TEMPLATE, load_converted, plan_conversion, write_original
from medvqa_cli.models.protocol import ModelCard
from medvqa_cli.models.tiny import make_scratch_options, seeded, shape_text, shape_vision, train_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence


class LlavaMed(ChatFamily):
    """Original LLaVA-Med v1.5 checkpoints, converted as they are loaded.

    A folder written by `medvqa convert llava-med` is an ordinary LLaVA: the family `llava` detects it. What a run of
    this family has saved has that form too, and loads here as well.
    """

    card = ModelCard(
        title="LLaVA-Med v1.5",
        summary="LLaVA on Mistral 7B, trained on biomedical figures and questions; 576 tokens an image at 336 px.",
        homepage="https://github.com/microsoft/LLaVA-Med",
        citation="Li et al. 2023, LLaVA-Med: Training a Large Language-and-Vision Assistant for Biomedicine in One "
                 "Day, arXiv:2306.00890",
        licence="Apache 2.0, as Mistral 7B Instruct v0.2; by its model card for research only, not for clinical care",
        model_types=(MODEL_TYPE,),
        checkpoints={"llava_med_1.5_7b": "microsoft/llava-med-v1.5-mistral-7b"},
        id_patterns=(r"microsoft/llava-med-v1\.5",),
        aliases=("llava_med_v1_5", "llavamed"),
    )
    model_class = "LlavaForConditionalGeneration"
    processor_class = "LlavaProcessor"
    template = TEMPLATE

    def load_config(self, checkpoint: str) -> Any:
        """Return the LlavaConfig that a checkpoint gets."""
        from transformers import AutoConfig

        if is_original(checkpoint):
            return plan_conversion(Path(checkpoint), allow_pickle=True).config
        return AutoConfig.from_pretrained(checkpoint)

    def load_processor(self, checkpoint: str) -> Any:
        """Return a LlavaProcessor; of an original checkpoint with the tokens it lacks."""
        if is_original(checkpoint):
            return plan_conversion(Path(checkpoint), allow_pickle=True).processor
        return super().load_processor(checkpoint)

    def load_model(self, checkpoint: str, **loading: Any) -> Any:
        """Return a LlavaForConditionalGeneration; an original checkpoint is converted in memory, nothing is written."""
        if not is_original(checkpoint):
            return super().load_model(checkpoint, **loading)
        allow_pickle = loading.pop("use_safetensors", True) is not True
        return load_converted(plan_conversion(Path(checkpoint), allow_pickle=allow_pickle), **loading)

    def build_tiny(self, directory: Path, *, texts: Sequence[str] = (), options: Any = None, seed: int = 0) -> None:
        """Write a small random checkpoint in the layout and with the names of the original."""
        from transformers import LlavaConfig, LlavaForConditionalGeneration

        options = options or make_scratch_options()()
        if options.image_size % options.patch_size or options.width % options.heads:
            raise ValueError("image_size must be a multiple of patch_size, and width of heads")
        tokenizer = train_tokenizer(["[INST]", "[/INST]", *texts], [], options.vocabulary_size)
        config = LlavaConfig(vision_config=shape_vision(options, model_type="clip_vision_model"),
                             text_config=shape_text(tokenizer, options, model_type="mistral", sliding_window=None))
        with seeded(seed):
            model = LlavaForConditionalGeneration(config)
        write_original(model, tokenizer, directory)


def is_original(checkpoint: str) -> bool:
    """Return whether a folder holds a checkpoint in the original layout."""
    file = Path(checkpoint) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == MODEL_TYPE


PLUGIN = LlavaMed()

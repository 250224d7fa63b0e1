"""Idefics3 (Laurençon et al. 2024, arXiv:2408.12637): SigLIP on tiles and an overview, Llama 3."""

from __future__ import annotations

from medvqa_cli.models.idefics import IdeficsFamily
from medvqa_cli.models.protocol import ModelCard


class Idefics3(IdeficsFamily):
    """Idefics3 checkpoints."""

    card = ModelCard(
        title="Idefics3",
        summary="SigLIP vision tower on tiles of 364 pixels and an overview, 169 tokens a tile, Llama 3.1.",
        homepage="https://huggingface.co/HuggingFaceM4/Idefics3-8B-Llama3",
        citation="Laurençon et al. 2024, Building and better understanding vision-language models, arXiv:2408.12637",
        licence="Apache 2.0; of the language model: Llama 3.1 Community License",
        model_types=("idefics3",),
        checkpoints={"idefics3_8b": "HuggingFaceM4/Idefics3-8B-Llama3"},
        id_patterns=(r"idefics3",),
    )
    model_class = "Idefics3ForConditionalGeneration"
    processor_class = "Idefics3Processor"
    config_class = "Idefics3Config"
    picture_class = "Idefics3ImageProcessorPil"


PLUGIN = Idefics3()

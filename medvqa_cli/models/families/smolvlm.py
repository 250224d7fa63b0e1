"""SmolVLM (Marafioti et al. 2025, arXiv:2504.05299): Idefics3's design in 0.26 to 2.2 billion parameters."""

from __future__ import annotations

from medvqa_cli.models.idefics import IdeficsFamily
from medvqa_cli.models.protocol import ModelCard


class SmolVLM(IdeficsFamily):
    """SmolVLM and SmolVLM2 checkpoints."""

    card = ModelCard(
        title="SmolVLM",
        summary="SigLIP vision tower on tiles and an overview, SmolLM2; runs on a laptop.",
        homepage="https://huggingface.co/blog/smolvlm",
        citation="Marafioti et al. 2025, SmolVLM: Redefining small and efficient multimodal models, arXiv:2504.05299",
        licence="Apache 2.0",
        model_types=("smolvlm",),
        checkpoints={
            "smolvlm2_2.2b": "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
            "smolvlm2_500m": "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
            "smolvlm2_256m": "HuggingFaceTB/SmolVLM2-256M-Video-Instruct",
            "smolvlm_256m": "HuggingFaceTB/SmolVLM-256M-Instruct",
        },
        aliases=("smol_vlm", "smolvlm2"),
    )
    model_class = "SmolVLMForConditionalGeneration"
    processor_class = "SmolVLMProcessor"
    config_class = "SmolVLMConfig"
    picture_class = "SmolVLMImageProcessorPil"


PLUGIN = SmolVLM()

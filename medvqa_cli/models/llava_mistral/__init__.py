"""Original LLaVA-Med v1.5 checkpoints (model_type llava_mistral) as transformers' LlavaForConditionalGeneration.

Layout by github.com/microsoft/LLaVA-Med (llava/model): Mistral under `model.` and `lm_head.`, the projector's two
linear layers under `model.mm_projector.0` and `.2`, and CLIP's vision tower, where the checkpoint has it, under
`model.vision_tower.vision_tower.vision_model.`. Nothing of the original code is needed.
"""

from medvqa_cli.models.llava_mistral.config import MODEL_TYPE, check_config
from medvqa_cli.models.llava_mistral.conversion import (
    Conversion,
    load_converted,
    make_generation,
    name_original,
    name_saved,
    plan_conversion,
)
from medvqa_cli.models.llava_mistral.original import write_original
from medvqa_cli.models.llava_mistral.processor import IMAGE_TOKEN, PAD_TOKEN, TEMPLATE, load_tokenizer
from medvqa_cli.models.llava_mistral.writing import write_checkpoint

__all__ = ["IMAGE_TOKEN", "MODEL_TYPE", "PAD_TOKEN", "TEMPLATE", "Conversion", "check_config", "load_converted",
           "load_tokenizer", "make_generation", "name_original", "name_saved", "plan_conversion",
           "write_checkpoint", "write_original"]

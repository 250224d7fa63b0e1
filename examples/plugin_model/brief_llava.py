"""LLaVA that is asked for one word, with LoRA on its attention only."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from medvqa_cli.models.families.llava import Llava

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.data.prompts import Turn
    from medvqa_cli.models.protocol import ImageInputs

REQUEST = "Answer with one word."


class BriefLlava(Llava):
    """The built-in family with two differences: a request behind every question, and fewer LoRA targets.

    Its card claims no model_type, so that LLaVA checkpoints are still loaded by the built-in family unless this one is
    named with --family.
    """

    card = replace(Llava.card, title="Brief LLaVA", summary="LLaVA-1.5 that is asked for one word.", model_types=(),
                   checkpoints={"brief_llava_7b": "llava-hf/llava-1.5-7b-hf"}, id_patterns=(), aliases=())
    layout = replace(Llava.layout, lora_targets=("q_proj", "k_proj", "v_proj", "o_proj"))

    def encode_prompt(self, processor: Any, turns: Sequence[Turn], images: ImageInputs) -> list[int]:
        """Return the prompt with the request behind the last turn."""
        *before, last = turns
        return super().encode_prompt(processor, [*before, replace(last, text=f"{last.text}\n{REQUEST}")], images)


PLUGIN = BriefLlava()

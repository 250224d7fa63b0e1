"""What helps against the classic failures of adapting a vision-language model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from medvqa_cli.scoring.answers import is_yes_no
from medvqa_cli.scoring.collapse import advise_on_collapse, find_top_answer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from medvqa_cli.records import Prediction

MEMORY = ("Out of memory: lower what is kept at once: --lora-r 4, --batch-size 1 (more --grad-accum in training makes "
          "up for it), --gradient-checkpointing, --quantization 4bit, smaller pictures, or a smaller model; `medvqa "
          "models info NAME` estimates what is needed.")
NOT_FINITE = ("Numbers overflow: float16 reaches only 65,504. Use --dtype bfloat16 (float32 where the device has "
              "none), or a lower --learning-rate.")
COUNTED_DIFFERENTLY = ("The prompt's image tokens are cut off or counted in another way than the model does: compare "
                       "patch_size, the number of image tokens and the feature selection in processor_config.json "
                       "with config.json; both must be of the same checkpoint, and nothing may shorten the prompt.")
TASK_TYPE = ("The task type is wrong: an encoder-decoder such as Flan-T5 is SEQ_2_SEQ_LM, a decoder alone CAUSAL_LM. "
             "Correct `task_type` in the family's layout.")
TARGETS = ("The names of layers differ between language models: T5 has q and v, OPT and Llama q_proj and v_proj. "
           "Leave --lora-targets out to take the family's own, or see `medvqa models info NAME`.")
MIXED_FORMATS = "Parts of the model are in different number formats: choose one with --dtype float32 or bfloat16."
BEYOND_EMBEDDING = ("A token's number is beyond the embedding: tokenizer and weights are of different checkpoints, "
                    "or a token was added without resizing the embedding.")
NOT_LOADED = ("The model is not loaded right: weights that its config.json asks for were not in the checkpoint and "
              "would be random. Download it again, or name the family that its layout is of.")
NO_FALL = "Try another --learning-rate; if the loss stays where it was, see under 'parameters' what is trained."
CLASSICS = (
    (r"OutOfMemoryError|MemoryError|out of memory|not enough memory|can't allocate memory|does not fit into", MEMORY),
    (r"image features and image tokens|placeholder tokens.*features|image tokens?.*(do not|does not|n't) match",
     COUNTED_DIFFERENTLY),
    (r"decoder_input_ids|decoder_inputs_embeds|unexpected keyword argument 'labels'", TASK_TYPE),
    (r"Target modules .* not found", TARGETS),
    (r"missing[ _]keys|newly initialized", NOT_LOADED),
    (r"index out of range in self|device-side assert", BEYOND_EMBEDDING),
    (r"same dtype|expected scalar type|not implemented for 'Half'", MIXED_FORMATS),
    (r"\bnan\b|\binf\b|invalid multinomial|not finite", NOT_FINITE),
)
"""What an error says, as a regular expression, and what helps against it; the first that matches counts."""


def advise(error: BaseException) -> str:
    """Return what helps against an error, empty if it is none of the classic ones."""
    said = f"{type(error).__name__}: {error}"
    return next((help_ for pattern, help_ in CLASSICS if re.search(pattern, said, re.IGNORECASE | re.DOTALL)), "")


def find_collapse(predictions: Iterable[Prediction], learning_rate: float) -> str:
    """Return a warning if a model gives nearly one answer to all yes/no questions (`TopAnswer.is_collapse`).

    Where answers were sampled, each counts. The learning rate is that of its training.
    """
    pairs: list[tuple[str, str]] = []
    for prediction in predictions:
        if is_yes_no(prediction.sample.answer):
            drawn = [text for answer in prediction.samples for text in [answer.text] * answer.count]
            pairs += [(prediction.sample.answer, text) for text in drawn or [prediction.answer]]
    top = find_top_answer(pairs)
    if top is None or not top.is_collapse:
        return ""
    return (f"The model has collapsed: {top.share:.0%} of {top.total} answers to yes/no questions are '{top.answer}', "
            f"which is the truth of at most {top.gold_share:.0%}. {advise_on_collapse(learning_rate)}")

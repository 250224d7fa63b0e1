"""What helps against the classic failures of adapting a vision-language model."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from medvqa_cli.scoring.answers import normalize_answer, parse_yes_no

if TYPE_CHECKING:
    from collections.abc import Iterable

MIN_ANSWERS = 10
MAX_SHARE = 0.9
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
COLLAPSE = ("train on more questions or for more epochs, balance yes and no, or lower the rate (--learning-rate 3e-5); "
            "`medvqa data analyze` shows the balance.")
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
    (r"\bnan\b|\binf\b|not finite", NOT_FINITE),
)
"""What an error says, as a regular expression, and what helps against it; the first that matches counts."""


def advise(error: BaseException) -> str:
    """Return what helps against an error, empty if it is none of the classic ones."""
    said = f"{type(error).__name__}: {error}"
    return next((help_ for pattern, help_ in CLASSICS if re.search(pattern, said, re.IGNORECASE | re.DOTALL)), "")


def find_collapse(answers: Iterable[tuple[str, str, int]]) -> str:
    """Return a warning if a model gives nearly always one answer to yes/no questions, else an empty text.

    That is: the most frequent one has a share over 0.9 of at least 10 answers, where the truth is not always the same.

    Args:
        answers: Gold answer, the model's answer, and how often it was given; others than yes/no questions do not count.
    """
    asked = [(truth, answer, count) for gold, answer, count in answers if (truth := parse_yes_no(gold))]
    given: Counter[str] = Counter()
    for _, answer, count in asked:
        given[parse_yes_no(answer) or normalize_answer(answer)] += count
    total = given.total()
    if total < MIN_ANSWERS or len({truth for truth, _, _ in asked}) < 2:
        return ""
    ((answer, count),) = given.most_common(1)
    if count <= MAX_SHARE * total:
        return ""
    return (f"The model has collapsed: {count} of {total} answers to yes/no questions are '{answer}'. What helps: "
            f"{COLLAPSE}")

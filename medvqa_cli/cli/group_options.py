"""Options of `medvqa train grpo`: those of training that it heeds, and its own."""

from __future__ import annotations

from dataclasses import replace

from medvqa_cli.cli.completion import complete_choice
from medvqa_cli.cli.options import TRAINING, Option

_SFT_ONLY = {"--scratch", "--batch-size", "--grad-accum", "--learning-rate", "--pack-questions", "--vision-cache",
             "--augment", "--balance", "--loss-weights", "--closed-share", "--closed-objective", "--choice-weight"}
_OWN = (
    Option("--rewards", "Rewards with weights, such as accuracy=3,format=1 (medvqa plugins list).", "grpo.rewards",
           "NAME=W,..."),
    Option("--num-generations", "Completions of a question: the group.", "grpo.num_generations", "N"),
    Option("--batch-size", "Completions per forward pass.", "grpo.batch_size", "N"),
    Option("--grad-accum", "Forward passes per optimiser step.", "grpo.gradient_accumulation", "N"),
    Option("--learning-rate", "Peak learning rate.", "grpo.learning_rate", "RATE"),
    Option("--temperature", "Temperature that completions are drawn at.", "grpo.temperature", "T"),
    Option("--max-completion-length", "Most tokens of a completion.", "grpo.max_completion_length", "N"),
    Option("--beta", "Weight of the KL divergence from the start; 0 none.", "grpo.beta", "B"),
    Option("--loss-type", "What the loss averages over: dapo, grpo, bnpo or dr_grpo.", "grpo.loss_type", "NAME",
           complete=complete_choice(("dapo", "grpo", "bnpo", "dr_grpo"))),
    Option("--image-questions", "Most questions of an image that follow one another.", "grpo.image_questions", "N"),
    Option("--shared-prefix", "Draw and score all completions of an image behind one prefix.", "grpo.shared_prefix",
           "auto|on|off", complete=complete_choice(("auto", "on", "off"))),
    Option("--use-vllm", "Let TRL draw completions with vLLM.", "grpo.use_vllm", kind="switch"),
)
GRPO = (*(replace(option, panel="GRPO") for option in _OWN),
        *(option for option in TRAINING if option.flag not in _SFT_ONLY))

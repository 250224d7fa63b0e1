"""Settings of GRPO: reinforcement learning with rewards that can be verified."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from medvqa_cli.settings.section import PositiveFloat, Section


class GRPOSettings(Section):
    """Group relative policy optimization (Shao et al. 2024, arXiv:2402.03300); what is tuned stands under train."""

    rewards: Annotated[tuple[str, ...], Field(min_length=1)] = ("accuracy=3", "token_f1=3", "format=1")
    """Rewards with their weights, such as accuracy=3,format=1 (`medvqa plugins list`); a weight not given is 1."""
    num_generations: Annotated[int, Field(ge=2)] = 8
    """Completions of a question, compared with one another: the group."""
    batch_size: PositiveInt = 32
    """Completions in a forward pass of each process."""
    gradient_accumulation: PositiveInt = 1
    """Forward passes per optimiser step; all processes' completions of a step make up whole groups."""
    image_questions: PositiveInt = 4
    """Most questions of an image that follow one another, and so share its prefix."""
    learning_rate: PositiveFloat = 5e-6
    """Peak learning rate of AdamW."""
    temperature: PositiveFloat = 1.0
    """Completions are drawn from softmax(logits / temperature), which is also the law that is trained."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Completions are drawn among so many likeliest tokens; 0 all."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Completions are drawn among the likeliest tokens that together reach this probability."""
    max_completion_length: PositiveInt = 128
    """Most tokens of a completion, the end token included."""
    beta: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the KL divergence from the model that training starts from; 0 needs no such model."""
    epsilon: PositiveFloat = 0.2
    """The probability ratio is clipped to 1 - epsilon and 1 + epsilon."""
    loss_type: Literal["dapo", "grpo", "bnpo", "dr_grpo"] = "dapo"
    """What a loss is averaged over: dapo all tokens, grpo completions, bnpo a pass's tokens, dr_grpo a constant."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """What advantages are divided by: the rewards' standard deviation in the group, in the batch, or nothing."""
    mask_truncated_completions: bool = False
    """Learn nothing from completions that were cut off."""
    shared_prefix: Literal["auto", "on", "off"] = "auto"
    """Draw and score all completions of an image behind one prefix: auto does so where the family allows it."""
    use_vllm: bool = False
    """Let TRL draw completions with vLLM."""
    log_completions: Annotated[int, Field(ge=0)] = 8
    """Completions kept with each log line."""
    options: dict[str, Any] = Field(default={})
    """Further arguments of trl.GRPOConfig, such as {"vllm_mode": "server"}."""

    @property
    def weights(self) -> dict[str, float]:
        """Reward -> its weight, in the order given."""
        return {name: float(weight or 1.0) for name, _, weight in (one.partition("=") for one in self.rewards)}

    @model_validator(mode="after")
    def _rewards_have_weights(self) -> GRPOSettings:
        for one in self.rewards:
            name, sign, weight = one.partition("=")
            if not name.strip() or (sign and not _is_weight(weight)):
                raise ValueError(f"rewards names '{one}', which is no NAME=WEIGHT with a weight above 0")
        names = [one.partition("=")[0] for one in self.rewards]
        if len(set(names)) < len(names):
            raise ValueError(f"rewards names '{max(names, key=names.count)}' twice")
        return self


def _is_weight(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and float(text) > 0
    except ValueError:
        return False

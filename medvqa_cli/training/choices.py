"""The trainer of closed questions taught as a choice (`medvqa_cli.training.objectives`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from medvqa_cli.models.batches import find_token_losses
from medvqa_cli.training.objectives import (
    OWNERS,
    PLAN,
    count_choices,
    count_tokens,
    mark_choices,
    sum_choice_losses,
    sum_gold_losses,
)
from medvqa_cli.training.sft import SFTTrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from medvqa_cli.training.collation import Collator
    from medvqa_cli.training.objectives import ClosedObjective
    from medvqa_cli.training.order import Block, Group


@dataclass(frozen=True, slots=True)
class ChoiceCollator:
    """Turns blocks into a batch that holds every candidate of the questions taught as a choice."""

    collator: Collator
    objective: ClosedObjective

    def __call__(self, blocks: Sequence[Block]) -> dict[str, Any]:
        """Return the tensors of one forward pass."""
        return self.collate([group for block in blocks for group in block])

    def collate(self, groups: Sequence[Group], epochs: Sequence[int] | None = None) -> dict[str, Any]:
        """Return the tensors of one forward pass; with the epoch of each group, its pictures are varied."""
        groups, weights = self.collator.arrange(groups), self.collator.weights
        expansion = self.objective.expand(groups, weights.weigh) if weights else self.objective.expand(groups)
        batch = replace(self.collator, weights=None).collate([tuple(group) for group in expansion.groups], epochs)
        return batch | mark_choices(batch["labels"], expansion)


class ChoiceTrainer(SFTTrainer):
    """Adds to the loss of the answers the weighted mean, over a whole optimiser step, of the loss of the choices.

    What is validated, and what is shown while training, is the loss of the gold answers, as it is without choices.
    """

    def __init__(self, *args: Any, objective: ClosedObjective, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._objective = objective
        self._choices = torch.tensor(0.0)

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False,
                     num_items_in_batch: torch.Tensor | int | None = None) -> Any:
        """Return the loss of one forward pass: nats a token of the step, and nats a choice of it times the weight."""
        if return_outputs:
            raise NotImplementedError("the validation loss is computed by evaluate()")
        owners, plan = inputs.pop(OWNERS), inputs.pop(PLAN)
        losses, targets = find_token_losses(model, self._feed(inputs))
        marks = inputs["labels"], owners, plan
        total, tokens, answers = sum_gold_losses(losses, targets, *marks)
        self._tell_watchers(inputs, total.detach(), tokens)
        choices = sum_choice_losses(losses, targets, *marks) * self._objective.weight
        if num_items_in_batch is None:
            return _divide(answers, count_tokens(*marks)) + _divide(choices, count_choices(plan))
        return (_divide(answers, num_items_in_batch) + _divide(choices, self._choices)) * self.accelerator.num_processes

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Any:
        """Return how many tokens an optimiser step teaches as text, and keep how many questions as a choice."""
        if not batch_samples:
            return None
        counted = torch.stack([torch.stack([count_tokens(batch["labels"], batch[OWNERS], batch[PLAN]),
                                            count_choices(batch[PLAN])]) for batch in batch_samples]).sum(dim=0)
        tokens, self._choices = self.accelerator.gather(counted.to(device)[None]).sum(dim=0)
        return tokens


def choose_trainer(objective: ClosedObjective | None,
                   collator: Collator) -> tuple[Callable[..., SFTTrainer], Collator | ChoiceCollator]:
    """Return what makes the trainer of an objective, and what makes its batches."""
    if objective is None:
        return SFTTrainer, collator
    return partial(ChoiceTrainer, objective=objective), ChoiceCollator(collator, objective)


def _divide(total: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
    """Return a mean; nothing where a step holds nothing to average, whose total is 0."""
    number = torch.as_tensor(count, device=total.device, dtype=total.dtype)
    return total / torch.where(number > 0, number, 1.0)

"""Closed questions taught as a choice: cross-entropy over the log-probabilities per token of their candidates.

Every candidate of a question is a sample of its own in the batch, a branch of the same image prefix where rows are
packed, so a packed batch gives the loss and the gradients of separate rows. What is offered is what inference offers
(`medvqa_cli.inference.routing`): from the question and the training answers, never from the gold answer, which only
says which of the candidates is right.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from medvqa_cli.models.packing import IGNORE
from medvqa_cli.scoring.answers import normalize_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from medvqa_cli.inference.routing import CandidateRouter
    from medvqa_cli.records import VQASample

ROUTES = ("yesno", "options")
"""Routes whose questions are taught as a choice; the vocabulary offers too many candidates to be worth their cost."""
OWNERS, PLAN = "choice_owners", "choice_plan"
"""Names in a batch: the sample of each supervised token, [B, T]; of each sample its row of `Expansion.plan` and how
much its tokens count, [N, 4]."""
NO_CHOICE = -1.0


@dataclass(slots=True)
class Expansion:
    """Groups of samples with a further sample for each wrong candidate.

    Attributes:
        groups: The samples, each followed by its wrong candidates.
        answer_weights: How much each sample's tokens count in the loss of the answers.
        plan: Of each sample its question's number (-1 where nothing is chosen), whether its answer is the gold one,
            and how much its question counts in the loss of the choices.
    """

    groups: list[list[VQASample]] = field(default_factory=list)
    answer_weights: list[float] = field(default_factory=list)
    plan: list[tuple[float, float, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ClosedObjective:
    """Which questions are taught as a choice, and how much that counts.

    Args:
        router: Says what a question offers.
        weight: What the loss of the choices is multiplied with.
        keeps_answers: Whether the answers of these questions are taught as text too (hybrid), or not (mc).
    """

    router: CandidateRouter
    weight: float
    keeps_answers: bool

    def expand(self, groups: Sequence[Sequence[VQASample]],
               weigh: Callable[[VQASample], float] = lambda sample: 1.0) -> Expansion:  # noqa: ARG005
        """Return the groups with all candidates; `weigh` says how much a question counts."""
        found = Expansion()
        number = 0
        for group in groups:
            members: list[VQASample] = []
            for sample in group:
                wrong, weight = self.list_wrong(sample), weigh(sample)
                question = float(number) if wrong else NO_CHOICE
                number += bool(wrong)
                members += [sample, *(replace(sample, answer=form) for form in wrong)]
                found.answer_weights += [weight if self.keeps_answers or not wrong else 0.0, *([0.0] * len(wrong))]
                found.plan += [(question, 1.0, weight), *([(question, 0.0, weight)] * len(wrong))]
            found.groups.append(members)
        return found

    def list_wrong(self, sample: VQASample) -> list[str]:
        """Return the wrong candidates of a question, none where it is taught as text: one form of each option.

        That is where the gold answer is not offered, or the question is open or takes another route. A form is the
        one that corresponds to the gold answer's ("left kidney" beside "right kidney"), with capitals as the gold
        answer has them: neither length nor case tells which one is right.
        """
        offer = self.router.route(sample) if sample.answer_type == "closed" else None
        if offer is None or offer.route not in ROUTES:
            return []
        gold = normalize_answer(sample.answer)
        places = [(option, [normalize_answer(form) for form in option].index(gold)) for option in offer.options
                  if gold in map(normalize_answer, option)]
        if not places:
            return []
        own, place = places[0]
        return [_adopt_case(option[min(place, len(option) - 1)], own[place], sample.answer)
                for option in offer.options if option is not own]


def mark_choices(labels: torch.Tensor, expansion: Expansion) -> dict[str, torch.Tensor]:
    """Return what a batch holds beside its inputs: OWNERS (int64) and PLAN (float32), the answers' weights in it.

    Raises:
        ValueError: If labels [B, T] have another number of answers than the expansion.
    """
    owners = number_answers(labels)
    if int(owners.max()) + 1 != len(expansion.plan):
        raise ValueError(f"{len(expansion.plan)} candidates have {int(owners.max()) + 1} answers in a batch")
    rows = [[*row, weight] for row, weight in zip(expansion.plan, expansion.answer_weights, strict=True)]
    return {OWNERS: owners, PLAN: torch.tensor(rows, dtype=torch.float32)}


def number_answers(labels: torch.Tensor) -> torch.Tensor:
    """Return the number of the answer that each supervised token belongs to, from 0, and -1 elsewhere, [B, T].

    Every answer is one unbroken run of supervised tokens, packed or not, since a segment begins with a token of its
    question; the runs come in the order of the samples.
    """
    supervised = labels != IGNORE
    starts = supervised.clone()
    starts[:, 1:] &= ~supervised[:, :-1]
    return torch.where(supervised, starts.flatten().cumsum(0).view(labels.shape) - 1, -1)


def sum_choice_losses(losses: torch.Tensor, targets: torch.Tensor, labels: torch.Tensor, owners: torch.Tensor,
                      plan: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum over questions of the cross-entropy over their candidates, in nats.

    Args:
        losses: Cross-entropy of each supervised token, [B, S].
        targets: IGNORE where nothing is supervised, [B, S].
        labels: The batch's labels, [B, T].
        owners: The sample of each supervised token (`number_answers`), [B, T].
        plan: Of each sample, [N, 4].
    """
    plan = plan.to(losses.device)
    means = find_mean_logprobs(losses, targets, labels, owners, len(plan))
    chosen = plan[:, 0] >= 0
    if not chosen.any():
        return losses.sum() * 0.0
    questions, is_gold, means = plan[chosen, 0].long(), plan[chosen, 1] > 0, means[chosen]
    count = int(questions.max()) + 1
    highest = means.detach().new_full((count,), -torch.inf).scatter_reduce(0, questions, means.detach(), "amax")
    shifted = (means - highest[questions]).exp()
    totals = torch.zeros_like(highest).index_add(0, questions, shifted).log() + highest
    return ((totals[questions] - means) * plan[chosen, 2])[is_gold].sum()


def sum_gold_losses(losses: torch.Tensor, targets: torch.Tensor, labels: torch.Tensor, owners: torch.Tensor,
                    plan: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the summed cross-entropy of the gold answers' tokens, in nats, their number, and the weighted sum."""
    owner, taken = owners[labels != IGNORE].to(losses.device), losses[targets != IGNORE]
    is_gold, weights = plan.to(losses.device)[owner][:, [1, 3]].unbind(dim=1)
    return taken @ is_gold, is_gold.sum(), taken @ weights


def count_tokens(labels: torch.Tensor, owners: torch.Tensor, plan: torch.Tensor) -> torch.Tensor:
    """Return how many tokens are taught as text, each as much as it counts."""
    return plan[owners[labels != IGNORE], 3].sum()


def count_choices(plan: torch.Tensor) -> torch.Tensor:
    """Return how many questions are chosen in, each as much as it counts."""
    return plan[(plan[:, 0] >= 0) & (plan[:, 1] > 0), 2].sum()


def find_mean_logprobs(losses: torch.Tensor, targets: torch.Tensor, labels: torch.Tensor, owners: torch.Tensor,
                       count: int) -> torch.Tensor:
    """Return each sample's log-probability per token, in nats, the end token included, [N]."""
    taken = losses[targets != IGNORE]  # row by row, the supervised tokens are those of the labels
    owner = owners[labels != IGNORE].to(losses.device)
    sums = torch.zeros(count, device=losses.device, dtype=losses.dtype).index_add(0, owner, taken)
    return -sums / torch.bincount(owner, minlength=count)


def _adopt_case(form: str, known: str, gold: str) -> str:
    """Return a form with capitals as the gold answer has them, where those differ from the known spelling's."""
    if known == gold or known.casefold() != gold.casefold():
        return form
    if gold.islower():
        return form.lower()
    return form[:1].upper() + form[1:] if gold[:1].isupper() and known[:1].islower() else form

"""Completions of questions about images: drawn as branches of one tree an image, scored as shared-prefix packs.

Both do each distinct thing once: an image's prefix for all its questions, a question for all its completions, and a
completion however often it was drawn.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch

from medvqa_cli.inference.branches import decode_branches
from medvqa_cli.inference.shared_prefix import PrefixTree
from medvqa_cli.models.batches import fit_inputs, join_images, stack_packed, to_device
from medvqa_cli.models.encoding import EncodedSample
from medvqa_cli.models.packing import IGNORE, divide_prompts, find_common_prefix, pad_lists, plan_packs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medvqa_cli.inference.branches import Chooser, Path
    from medvqa_cli.models.encoding import SampleEncoder
    from medvqa_cli.records import VQASample

Completion = tuple[int, tuple[int, ...]]
"""The index of a sample, and the tokens of its completion, end token included."""


def group_by_images(samples: Sequence[VQASample], indices: Sequence[int]) -> list[list[int]]:
    """Return places in `indices` whose samples show the same images, in order of appearance."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, index in enumerate(indices):
        groups.setdefault(samples[index].images, []).append(place)
    return list(groups.values())


def group_by_prefix(encoder: SampleEncoder, samples: Sequence[VQASample], indices: Sequence[int]) -> list[list[int]]:
    """Return places in `indices` whose samples show the same images behind the same words, in order of appearance."""
    groups = []
    for places in group_by_images(samples, indices):
        prompts = _encode_prompts(encoder, [samples[indices[place]] for place in places])
        groups += [[places[number] for number in part] for part in divide_prompts(prompts, encoder.image_token)]
    return groups


def _encode_prompts(encoder: SampleEncoder, samples: Sequence[VQASample]) -> list[tuple[int, ...]]:
    images = encoder.encode_images(samples[0])
    return [encoder.encode_text(sample, images).prompt for sample in samples]


def plant_tree(model: Any, encoder: SampleEncoder,
               samples: Sequence[VQASample]) -> tuple[PrefixTree, list[tuple[int, ...]]]:
    """Prefill what prompts that share their images share; return the tree and what each prompt adds to it."""
    images, prompts = encoder.encode_images(samples[0]), _encode_prompts(encoder, samples)
    shared = find_common_prefix(prompts)
    prefix = prompts[0][:shared]
    ids = torch.tensor([prefix])
    marks = encoder.family.mark_tokens(encoder.processor, ids, torch.zeros_like(ids, dtype=torch.bool))
    positions = encoder.family.find_positions(encoder.processor, prefix, images)
    with torch.inference_mode():
        tree = PrefixTree(model, prefix, to_device({**images.tensors, **marks}, model), positions)
    return tree, [prompt[shared:] for prompt in prompts]


def draw_completions(model: Any, encoder: SampleEncoder, samples: Sequence[VQASample], indices: Sequence[int],
                     choose: Chooser, *, max_new_tokens: int, end_ids: frozenset[int],
                     merge: bool = True) -> list[tuple[tuple[int, ...], float]]:
    """Draw a completion for each index, one tree for all that show the same images.

    Args:
        model: The model, in evaluation mode.
        encoder: Turns samples into its inputs.
        samples: What indices point to.
        indices: The sample of each completion; one that is wanted many times stands there as often.
        choose: Chooses the next tokens.
        max_new_tokens: Most tokens of a completion.
        end_ids: Tokens that end one.
        merge: Whether equal branches are decoded once.

    Returns:
        Tokens, end token included, and log-probability in nats at temperature 1, in the order of `indices`. Completions
        of the same sample are exchangeable: equal ones stand beside one another.
    """
    drawn: list[tuple[tuple[int, ...], float]] = [((), 0.0)] * len(indices)
    for places in group_by_prefix(encoder, samples, indices):
        counts = Counter(indices[place] for place in places)
        for count in sorted(set(counts.values())):
            asked = [index for index, number in counts.items() if number == count]
            tree, questions = plant_tree(model, encoder, [samples[index] for index in asked])
            paths = decode_branches(tree, questions, count, choose, max_new_tokens=max_new_tokens, end_ids=end_ids,
                                    merge=merge)
            found = _deal(paths, asked)
            for place in places:
                if counts[indices[place]] == count:
                    drawn[place] = found[indices[place]].pop(0)
    return drawn


def _deal(paths: Sequence[Path], asked: Sequence[int]) -> dict[int, list[tuple[tuple[int, ...], float]]]:
    found: dict[int, list[tuple[tuple[int, ...], float]]] = {index: [] for index in asked}
    for path in paths:
        found[asked[path.question]] += [(path.tokens, path.logprob)] * path.count
    return found


def score_completions(model: Any, encoder: SampleEncoder, samples: Sequence[VQASample],
                      completions: Sequence[Completion], *, temperature: float = 1.0, max_tokens: int | None = None,
                      differentiable_entropy: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probabilities and entropies, in nats, of the tokens of N completions, both [N, C], 0 behind ends.

    Equal completions of a sample are scored once, and their gradients add up.

    Args:
        model: The model; logits are computed at completions only.
        encoder: Turns samples into its inputs.
        samples: What completions point to.
        completions: What is scored.
        temperature: The law is softmax(logits / temperature).
        max_tokens: Most tokens of a pack, as `plan_packs` takes it.
        differentiable_entropy: Whether entropies have gradients too.
    """
    distinct = list(dict.fromkeys(completions))
    order, batch = pack_completions(encoder, samples, distinct, max_tokens)
    scores = _score_tokens(model, to_device(batch, model), temperature, differentiable_entropy)
    width = max(len(tokens) for _, tokens in distinct)
    filled = pad_lists([[1] * len(distinct[place][1]) for place in order], width, 0).bool().to(scores[0].device)
    rank = {distinct[place]: number for number, place in enumerate(order)}
    rows = torch.tensor([rank[completion] for completion in completions], device=scores[0].device)
    logprobs, entropies = (values.new_zeros(filled.shape).masked_scatter(filled, values)[rows] for values in scores)
    return logprobs, entropies


def pack_completions(encoder: SampleEncoder, samples: Sequence[VQASample], completions: Sequence[Completion],
                     max_tokens: int | None) -> tuple[list[int], dict[str, torch.Tensor]]:
    """Return the order in which completions stand in packs, one or more an image, and the packs as a batch."""
    packs, order = [], []
    for places in group_by_prefix(encoder, samples, [index for index, _ in completions]):
        images = encoder.encode_images(samples[completions[places[0]][0]])
        encoded = [EncodedSample(encoder.encode_text(samples[index], images).prompt, tokens)
                   for index, tokens in (completions[place] for place in places)]
        for pack in plan_packs(encoded, encoder.image_token, max_tokens=max_tokens, max_questions=len(encoded)):
            packs.append(([encoded[number] for number in pack], images))
            order += [places[number] for number in pack]
    return order, {**stack_packed(encoder, packs), **join_images([images for _, images in packs])}


def _score_tokens(model: Any, batch: Mapping[str, torch.Tensor], temperature: float,
                  differentiable_entropy: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probability and the entropy of every labelled token, row after row, both [L]."""
    inputs = fit_inputs(getattr(model, "module", model), dict(batch))
    targets = inputs.pop("labels")[:, 1:]
    columns = (targets != IGNORE).any(dim=0).nonzero()[:, 0]
    targets = targets[:, columns]
    logits = model(**inputs, logits_to_keep=columns).logits[targets != IGNORE].float() / temperature
    law = logits.log_softmax(-1)
    chosen = law.gather(-1, targets[targets != IGNORE][:, None])[:, 0]
    with torch.set_grad_enabled(differentiable_entropy and torch.is_grad_enabled()):
        entropies = -(law.exp() * law).sum(-1)
    return chosen, entropies

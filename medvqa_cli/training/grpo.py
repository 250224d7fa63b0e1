"""Group relative policy optimization by TRL's GRPOTrainer, its rollouts and its loss behind shared image prefixes.

Advantages, clipping, the KL term, the averaging of the loss and the metrics are TRL's own code. This trainer hands it
completions and their log-probabilities, got in another way. Where that, or anything else, departs from GRPO as it was
published (Shao et al. 2024, arXiv:2402.03300, algorithm 1) and as TRL 1.16 does it by default, it is numbered here:

1. Completions are drawn as branches of one tree an image (`inference.branches`). The joint law is that of independent
   draws; which tokens a seed draws differs from TRL. Completions of a question are exchangeable in every formula, and
   equal ones stand beside one another.
2. Log-probabilities are computed on shared-prefix packs, equal completions once. Loss and gradients are the same sums
   in another order: equal within rounding.
3. Questions of an image follow one another, at most `image_questions`, so that they share its prefix. A step sees fewer
   images than if all questions were shuffled; each question is still seen once an epoch.
4. Groups are not shuffled over the forward passes of a step, which would part a prefix from its completions. `grpo` and
   `bnpo` average over a forward pass first, and see another average; `dapo` and `dr_grpo` do not.
5. Dropout is off, in rollouts and in the loss, so that both are the same law.
6. By TRL's default, and here: no KL term (beta 0), tokens averaged over the whole step (`dapo`, arXiv:2503.14476), the
   ratio's old policy is the current one, for completions are used once.
7. Nothing is reported to anyone: TRL's telemetry and model card are left out.

On its first batch the trainer compares both ways with the plain ones, and falls back on TRL's own path, saying so, if
they differ. Families that cannot share a prefix take TRL's path from the start.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from trl import GRPOTrainer
from trl.models.utils import unwrap_model_for_generation
from trl.trainer.utils import split_tensor_dict

from medvqa_cli.errors import ModelError
from medvqa_cli.inference.choosing import draw_counts
from medvqa_cli.inference.seeds import seed_for
from medvqa_cli.models.attention import find_dtype
from medvqa_cli.models.batches import find_token_losses, join_images, stack_plain, to_device
from medvqa_cli.models.encoding import EncodedSample
from medvqa_cli.models.precision import computing
from medvqa_cli.training.completions import Completion, draw_completions, score_completions
from medvqa_cli.training.policy import find_strange, list_drawing_fields, list_scoring_fields, stack_left
from medvqa_cli.training.processes import agree
from medvqa_cli.training.resumable import ResumableTrainer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from medvqa_cli.inference.branches import Chooser, Path
    from medvqa_cli.training.policy import Policy

CHECKED = 4
"""Completions of the first batch that are scored both ways."""
PATIENCE = 20
"""Rollouts in a row without any completion that the model ended, before the training stops."""


class GroupTrainer(ResumableTrainer, GRPOTrainer):
    """TRL's GRPOTrainer on our samples: rows of its data set are {"prompt": question, "sample": index}."""

    _buffered_inputs: list[dict[str, Any]] | None

    def __init__(self, *, policy: Policy, **kwargs: Any) -> None:
        self.policy = policy
        self._asked: list[int] = []
        trained = [(weight, weight.data) for weight in kwargs["model"].parameters() if weight.requires_grad]
        super().__init__(**kwargs)
        for weight, numbers in trained:  # TRL rounds adapters of a quantised model, whose updates would be lost
            weight.data = numbers.to(weight.device)
        self.eos_token_ids = sorted(policy.examiner.end_ids)

    def _send_telemetry(self) -> None:
        """Tell nobody that a training runs."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no card into the folder of checkpoints."""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; then drop the copy of an adapter that TRL keeps as the reference of the KL term."""
        output = super().train(*args, **kwargs)
        if "ref" in getattr(self.model, "peft_config", {}):
            self.model.delete_adapter("ref")
        return output

    # What is asked, and what completes it.

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Draw completions for rows of the data set, rate them, and remember whose they are."""
        self._asked = [row["sample"] for row in inputs]
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        output["sample"] = torch.tensor(self._asked, device=output["completion_ids"].device)
        return output

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """Return the batch of a forward pass; with shared prefixes whole groups, in order."""
        if not (self.model.training and self.policy.shared):
            return super()._prepare_inputs(generation_batch)
        parts = self.args.steps_per_generation
        if self._step % (parts * self.num_iterations) == 0 or self._buffered_inputs is None:
            self._buffered_inputs = split_tensor_dict(self._generate_and_score_completions(generation_batch), parts)
        return self._buffered_inputs[self._step % parts]

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], Any, dict[str, Any]]:
        """Return the prompts of the samples under way, as our encoder writes them, and their pictures for vLLM."""
        encoder = self.policy.encoder
        rows = [self.policy.samples[index] for index in self._asked]
        ids = [list(encoder.encode_text(sample, encoder.encode_images(sample)).prompt) for sample in rows]
        read = self.policy.read_image if self.use_vllm else None
        pictures = [[read(path) for path in encoder.list_pictures(sample)] for sample in rows] if read else None
        return ids, pictures, {}

    def _generate_single_turn(self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int,
                              **kwargs: Any) -> tuple[list[list[int]], Any]:
        """Draw one completion for each prompt: as a tree, or as TRL does."""
        if self.use_vllm:
            completions, logprobs = super()._generate_single_turn(prompt_ids, images, {}, num_generations, **kwargs)
        elif self.policy.shared and (drawn := self._draw()):
            completions, logprobs = drawn, None
        else:
            fields = list_drawing_fields(self.policy, self.model, self._asked, prompt_ids)
            completions, logprobs = super()._generate_single_turn(prompt_ids, None, fields, num_generations, **kwargs)
        self._watch_ends(completions)
        return completions, logprobs

    def _draw(self) -> list[list[int]] | None:
        """Draw completions as trees; None if the first ones are not scored alike by both ways."""
        policy = self.policy
        for index in dict.fromkeys(self._asked):  # outside of inference mode: the loss needs these tensors too
            policy.encoder.encode_images(policy.samples[index])
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator,
                                         gather_deepspeed3_params=self.args.ds3_gather_for_generation) as model, \
                torch.no_grad(), self._dist.summon_full_params(self.model_wrapped, recurse=False):
            model.eval()
            drawn = draw_completions(model, policy.encoder, policy.samples, self._asked, self._make_chooser(),
                                     max_new_tokens=policy.decoding.max_new_tokens, end_ids=policy.examiner.end_ids)
            model.train()
        if not policy.is_checked:
            self._check(drawn)
        return [list(tokens) for tokens, _ in drawn] if policy.shared else None

    def _make_chooser(self) -> Chooser:
        """Return what draws this step's tokens; a resumed run draws the same."""
        marks = (f"step {self.state.global_step}", f"process {self.accelerator.process_index}")
        generator = torch.Generator().manual_seed(seed_for(self.args.seed, marks))
        draw = draw_counts(self.policy.decoding, generator)
        banned = torch.tensor([self.policy.banned])

        def choose(logits: torch.Tensor, paths: Sequence[Path]) -> Any:
            return draw(logits.index_fill(1, banned, -torch.inf), paths)

        return choose

    # What completions are worth to the model.

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        """Return TRL's loss of a forward pass."""
        self._asked = inputs["sample"].tolist()
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor,
                                           logits_to_keep: int, *args: Any, compute_entropy: bool = False,
                                           **kwargs: Any) -> tuple[torch.Tensor, Any, Any]:
        """Return log-probabilities and entropies [B, C] of the completions under way, by packs or by TRL."""
        if not self.policy.shared:
            fields = list_scoring_fields(self.policy, self.model, self._asked,
                                         (input_ids, attention_mask, logits_to_keep))
            known = {name: kwargs[name] for name in ("batch_size", "compute_aux_loss") if name in kwargs}
            with computing(self.model):
                return super()._get_per_token_logps_and_entropies(
                    model, input_ids, attention_mask, logits_to_keep, compute_entropy=compute_entropy, **known,
                    **fields)
        completions = self._cut(input_ids, attention_mask, logits_to_keep)
        logprobs, entropies = score_completions(
            model, self.policy.encoder, self.policy.samples, completions, temperature=self.temperature,
            max_tokens=self.policy.pack_length, differentiable_entropy=self._entropy_bonus_enabled)
        missing = (0, logits_to_keep - logprobs.shape[1])
        padded = torch.nn.functional.pad
        return padded(logprobs, missing), padded(entropies, missing) if compute_entropy else None, None

    def _cut(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, width: int) -> list[Completion]:
        """Return the completions at the ends of rows; a masked one keeps its first token, whose loss is masked."""
        lengths = attention_mask[:, -width:].sum(dim=1).clamp(min=1).tolist()
        rows = input_ids[:, -width:].tolist()
        return [(index, tuple(row[:length])) for index, row, length in zip(self._asked, rows, lengths, strict=True)]

    # What is checked and told.

    def _check(self, drawn: Sequence[tuple[tuple[int, ...], float]]) -> None:
        """Compare tree and packs with plain rows and TRL's path on a few completions; fall back if they differ."""
        policy = self.policy
        policy.is_checked = True
        rows = list({(index, tokens): logprob for index, (tokens, logprob)
                     in zip(self._asked, drawn, strict=True)}.items())[:CHECKED]
        is_plain = find_dtype(self.model) == torch.float32 and not self.args.bf16
        differences = self._compare([completion for completion, _ in rows], [logprob for _, logprob in rows])
        if agree(not all(difference <= (1e-3 if is_plain else 0.1) for difference in differences)):
            policy.shared = False
            if strange := find_strange(policy):
                raise ModelError("Shared prefixes give other log-probabilities than plain rows, and TRL's own path "
                                 f"takes no {', '.join(strange)}.", "Please report this model, and take another.")
            policy.progress.warn(
                "Shared prefixes are off, TRL's slower path is taken: on the first batch a token's log-probability "
                f"differs from the plain one by {differences[0]:.2g} as a tree and by {differences[1]:.2g} in a pack. "
                "Please report this model.")

    @torch.no_grad()
    def _compare(self, completions: Sequence[Completion], logprobs: Sequence[float]) -> tuple[float, float]:
        """Return the largest mean difference a token, in nats, of tree and packs from the plain ways."""
        plain = [self._score_alone(completion) for completion in completions]
        tree = find_largest(abs(a - b) / len(tokens) for a, b, (_, tokens)
                            in zip(plain, logprobs, completions, strict=True))
        if find_strange(self.policy):
            packed, _ = score_completions(self.model, self.policy.encoder, self.policy.samples, completions)
            return tree, find_largest(abs(a - b) / len(tokens) for a, b, (_, tokens)
                                      in zip(packed.sum(dim=1).tolist(), plain, completions, strict=True))
        stacked = stack_left(self.policy, completions, self.accelerator.device)
        mask = stacked[1][:, -stacked[2]:]
        with self._asking(completions):
            packed = self._get_per_token_logps_and_entropies(self.model, *stacked)[0]
        usual = self.score_plainly(completions)
        return tree, float((((packed - usual).abs() * mask).sum(dim=1) / mask.sum(dim=1)).max())

    def _score_alone(self, completion: Completion) -> float:
        """Return the log-probability of a completion, in nats at temperature 1, as a plain row."""
        encoder, sample = self.policy.encoder, self.policy.samples[completion[0]]
        images = encoder.encode_images(sample)
        row = EncodedSample(encoder.encode_text(sample, images).prompt, completion[1])
        batch = to_device({**stack_plain(encoder, [row]), **join_images([images])}, self.model)
        return -find_token_losses(self.model, batch)[0].sum().item()

    @torch.no_grad()
    def score_plainly(self, completions: Sequence[Completion]) -> torch.Tensor:
        """Return the log-probabilities of completions [N, C] by TRL's own path, in nats at the training temperature."""
        stacked = stack_left(self.policy, completions, self.accelerator.device)
        with self._asking(completions, shared=False):
            found: torch.Tensor = self._get_per_token_logps_and_entropies(self.model, *stacked)[0]
        return found

    @contextmanager
    def _asking(self, completions: Sequence[Completion], *, shared: bool = True) -> Iterator[None]:
        """Let other completions than the batch's be under way for a moment."""
        asked, was_shared = self._asked, self.policy.shared
        self._asked, self.policy.shared = [index for index, _ in completions], shared
        try:
            yield
        finally:
            self._asked, self.policy.shared = asked, was_shared

    def _watch_ends(self, completions: Sequence[Sequence[int]]) -> None:
        """Stop a training whose model has ended no completion for a while: nothing it writes can be an answer."""
        policy = self.policy
        ended = agree(any(tokens[-1] in policy.examiner.end_ids for tokens in completions))
        policy.unended = 0 if ended else policy.unended + 1
        if policy.unended == PATIENCE:
            raise ModelError(f"The model has ended none of its completions for {PATIENCE} steps: each was cut off at "
                             f"{policy.decoding.max_new_tokens} tokens.",
                             "Allow more with --max-completion-length, reward endings (length=1 in --rewards), or "
                             "fine-tune it first: medvqa train sft. The last checkpoint is kept: medvqa train grpo "
                             f"--resume {policy.run}")

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the rewards of all processes [N, rewards]; log how much they differ within groups."""
        rewards: torch.Tensor = super()._calculate_rewards(*args, **kwargs)
        total = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1).view(-1, self.num_generations)
        self._metrics["train"]["group_std"].append(total.std(dim=1).mean().item())
        return rewards

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does; keep rewards and some completions with the run."""
        super().log(logs, start_time)
        if self.policy.events and "reward" in logs:
            self.policy.events.write({"event": "rewards", "step": self.state.global_step, **{
                name: round(value, 6) for name, value in logs.items()
                if isinstance(value, float) and not name.startswith("train_")}})
            self.policy.events.write({"event": "completions", "step": self.state.global_step,
                                      "rows": self._show_completions()})

    def _show_completions(self) -> list[dict[str, Any]]:
        columns = {"question": self._logs["prompt"], "completion": self._logs["completion"],
                   **self._logs["rewards"], "advantage": self._logs["advantages"]}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return [{name: None if value != value else value for name, value in row.items()}  # noqa: PLR0124 - NaN
                for row in rows[-self.policy.logged:]] if self.policy.logged else []


def find_largest(numbers: Iterable[float]) -> float:
    """Return the largest number, or NaN if there is one among them, which `max` may pass over."""
    return torch.tensor(list(numbers), dtype=torch.float64).max().item()

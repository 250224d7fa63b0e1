"""Answers by a transformers model in this process."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from medvqa_cli.inference.branches import Path, decode_branches
from medvqa_cli.inference.choosing import choose_greedily, draw_counts
from medvqa_cli.inference.protocol import Decoding, Generation, Intake
from medvqa_cli.inference.shared_prefix import PrefixTree
from medvqa_cli.models.batches import find_token_losses, join_images, stack_plain, to_device
from medvqa_cli.models.encoding import EncodedSample
from medvqa_cli.models.packing import divide_prompts, find_common_prefix
from medvqa_cli.records import AnswerSample

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from medvqa_cli.inference.branches import Chooser
    from medvqa_cli.models.encoding import SampleEncoder
    from medvqa_cli.models.protocol import LoadedModel
    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.data import PromptSettings

PLAIN_DECODING: dict[str, Any] = {"do_sample": False, "num_beams": 1, "top_k": 0, "top_p": 1.0, "min_length": 0,
                                  "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "length_penalty": 1.0}
"""Said in so many words: what is left open, the checkpoint fills in, such as Qwen's with its repetition penalty."""


@dataclass(frozen=True, slots=True)
class Planted:
    """A tree with the images and the words of its prefix, and what each prompt adds to it."""

    tree: PrefixTree
    images: tuple[str, ...]
    prefix: tuple[int, ...]
    questions: list[tuple[int, ...]]

    def holds(self, sample: VQASample, prompts: Sequence[tuple[int, ...]]) -> bool:
        """Return whether prompts about a sample's images go on from the prefix."""
        length = len(self.prefix)
        return self.images == sample.images and all(
            len(prompt) > length and prompt[:length] == self.prefix for prompt in prompts)


class TransformersEngine:
    """Runs a loaded model.

    Args:
        loaded: The model.
        encoder: Turns samples into its inputs.
        shared_prefix: Whether to encode an image once for all its questions; the family must pack.
        batch_size: Rows per forward pass without a shared prefix.
        facts: What is known of the model, for protocols.
    """

    name = "transformers"
    scores_candidates = True

    def __init__(self, loaded: LoadedModel, encoder: SampleEncoder, *, shared_prefix: bool, batch_size: int = 8,
                 facts: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.loaded = loaded
        self.encoder = encoder
        self.shared_prefix = shared_prefix
        self.batch_size = batch_size
        self.facts = facts
        self.intake = Intake(questions=1 if shared_prefix else batch_size)
        self.end_ids = find_end_ids(loaded)
        self._held: list[Planted] = []

    def with_prompt(self, prompt: PromptSettings) -> TransformersEngine:
        """Return the same model, to which questions are put in another way."""
        return TransformersEngine(self.loaded, self.encoder.with_prompt(prompt), shared_prefix=self.shared_prefix,
                                  batch_size=self.batch_size, facts=self.facts)

    @contextlib.contextmanager
    @torch.inference_mode()
    def hold_prefix(self, samples: Sequence[VQASample]) -> Iterator[None]:
        """Prefill the images of some samples, which share them, once for all calls about these until the block ends."""
        if self.shared_prefix:
            self._held = [planted for _, planted in self._plant_all(samples)]
        try:
            yield
        finally:
            self._held = []

    def generate(self, samples: Sequence[VQASample], decoding: Decoding) -> list[Generation]:
        """Return one answer for each sample. All samples share their images."""
        paths = self._decode(samples, 1, decoding)
        return [Generation(self._text(path.tokens), path.logprob, len(path.tokens), path.tokens[-1] in self.end_ids)
                for path in paths]

    def sample(self, samples: Sequence[VQASample], count: int, decoding: Decoding) -> list[tuple[AnswerSample, ...]]:
        """Draw `count` answers for each sample: the distinct ones with their counts, the most frequent first."""
        answers: list[dict[str, AnswerSample]] = [{} for _ in samples]
        for path in self._decode(samples, count, decoding):
            found, text = answers[path.question], self._text(path.tokens)
            found[text] = _merge(found.get(text), text, path)
        return [tuple(sorted(found.values(), key=lambda answer: (-answer.count, answer.text))) for found in answers]

    @torch.inference_mode()
    def score_candidates(self, samples: Sequence[VQASample],
                         candidates: Sequence[Sequence[str]]) -> list[Mapping[str, float]]:
        """Return each candidate's log-probability (nats, end token included) as the answer to each sample."""
        encode = self.loaded.family.encode_answer
        branches = [(number, encode(self.loaded.processor, text))
                    for number, offered in enumerate(candidates) for text in offered]
        score = self._score_as_tree if self.shared_prefix else self._score_as_batch
        scores = iter(score(samples, branches))
        return [{text: next(scores) for text in offered} for offered in candidates]

    def count_answer_tokens(self, answer: str) -> int:
        """Return the tokens of an answer, end token included."""
        return len(self.loaded.family.encode_answer(self.loaded.processor, answer))

    def count_usage(self) -> Mapping[str, int]:
        """Return nothing: what runs in this process is not counted."""
        return {}

    def _score_as_tree(self, samples: Sequence[VQASample], branches: Sequence[tuple[int, list[int]]]) -> list[float]:
        scores: dict[int, float] = {}
        for part, planted in self._plant_all(samples):
            own = [place for place, (number, _) in enumerate(branches) if number in part]
            if own:
                frontier = planted.tree.ask(planted.questions)
                found = planted.tree.score(frontier, [(part.index(branches[place][0]), branches[place][1])
                                                      for place in own])
                scores |= zip(own, found, strict=True)
        return [scores[place] for place in range(len(branches))]

    def _score_as_batch(self, samples: Sequence[VQASample], branches: Sequence[tuple[int, list[int]]]) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(branches), self.batch_size):
            rows = [(samples[number], tuple(answer)) for number, answer in branches[start: start + self.batch_size]]
            images = [self.encoder.encode_images(sample) for sample, _ in rows]
            encoded = [EncodedSample(self.encoder.encode_text(sample, inputs).prompt, answer)
                       for (sample, answer), inputs in zip(rows, images, strict=True)]
            batch = {**stack_plain(self.encoder, encoded), **join_images(images)}
            losses, _ = find_token_losses(self.loaded.model, to_device(batch, self.loaded.model))
            scores.extend((-losses.sum(dim=1)).tolist())
        return scores

    def _decode(self, samples: Sequence[VQASample], count: int, decoding: Decoding) -> list[Path]:
        if self.shared_prefix:
            return self._decode_as_tree(samples, count, decoding)
        owners = [number for number in range(len(samples)) for _ in range(count)]
        answers = []
        for start in range(0, len(owners), self.batch_size):
            rows = [samples[number] for number in owners[start: start + self.batch_size]]
            answers.extend(self._decode_as_batch(rows, replace(decoding, seed=decoding.seed + start)))
        return _merge_rows(owners, answers)

    def _prompts(self, samples: Sequence[VQASample]) -> list[tuple[int, ...]]:
        images = self.encoder.encode_images(samples[0])
        return [self.encoder.encode_text(sample, images).prompt for sample in samples]

    def _plant_all(self, samples: Sequence[VQASample]) -> Iterator[tuple[list[int], Planted]]:
        """Yield the numbers of samples that share one prefix with all images in it, and its tree, held or new."""
        prompts = self._prompts(samples)
        for part in divide_prompts(prompts, self.encoder.image_token):
            own = [prompts[number] for number in part]
            held = next((one for one in self._held if one.holds(samples[0], own)), None)
            if held:
                yield part, replace(held, questions=[prompt[len(held.prefix):] for prompt in own])
                continue
            tree, shared = self._plant([samples[number] for number in part], own)
            yield part, Planted(tree, samples[0].images, own[0][:shared], [prompt[shared:] for prompt in own])

    def _plant(self, samples: Sequence[VQASample], prompts: Sequence[tuple[int, ...]]) -> tuple[PrefixTree, int]:
        family, processor = self.loaded.family, self.loaded.processor
        shared = find_common_prefix(prompts)
        prefix, images = prompts[0][:shared], self.encoder.encode_images(samples[0])
        ids = torch.tensor([prefix])
        marks = family.mark_tokens(processor, ids, torch.zeros_like(ids, dtype=torch.bool))
        inputs = to_device({**images.tensors, **marks}, self.loaded.model)
        return PrefixTree(self.loaded.model, prefix, inputs, family.find_positions(processor, prefix, images)), shared

    @torch.inference_mode()
    def _decode_as_tree(self, samples: Sequence[VQASample], count: int, decoding: Decoding) -> list[Path]:
        choose: Chooser = choose_greedily
        if decoding.temperature > 0:
            choose = draw_counts(decoding, torch.Generator().manual_seed(decoding.seed))
        paths: list[Path] = []
        for part, planted in self._plant_all(samples):
            found = decode_branches(planted.tree, planted.questions, count, choose,
                                    max_new_tokens=decoding.max_new_tokens, end_ids=self.end_ids)
            paths += [replace(path, question=part[path.question]) for path in found]
        return sorted(paths, key=lambda path: path.question)

    @torch.inference_mode()
    def _decode_as_batch(self, rows: Sequence[VQASample], decoding: Decoding) -> list[tuple[tuple[int, ...], float]]:
        """Decode rows, padded on the left, with the model's own generate.

        A question that is answered many times is many rows: `num_return_sequences` would repeat image tensors picture
        by picture, and so mix up rows of several pictures.
        """
        images = [self.encoder.encode_images(sample) for sample in rows]
        prompts = [self.encoder.encode_text(sample, inputs).prompt
                   for sample, inputs in zip(rows, images, strict=True)]
        width = max(map(len, prompts))
        ids = torch.tensor([[self.encoder.padding_id] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        marks = self.loaded.family.mark_tokens(self.loaded.processor, ids, torch.zeros_like(ids, dtype=torch.bool))
        batch = to_device({"input_ids": ids, "attention_mask": mask, **marks, **join_images(images)}, self.loaded.model)
        with torch.random.fork_rng():
            torch.manual_seed(decoding.seed)
            output = self.loaded.model.generate(**batch, generation_config=self._configure(decoding))
        return self._cut_at_end(output)

    def _configure(self, decoding: Decoding) -> Any:
        from transformers import GenerationConfig

        sampled = {"do_sample": True, "temperature": float(decoding.temperature), "top_k": decoding.top_k,
                   "top_p": decoding.top_p} if decoding.temperature > 0 else {}
        return GenerationConfig(
            max_new_tokens=decoding.max_new_tokens, eos_token_id=sorted(self.end_ids),
            pad_token_id=self.encoder.padding_id, return_dict_in_generate=True, output_logits=True,
            **PLAIN_DECODING | sampled)

    def _cut_at_end(self, output: Any) -> list[tuple[tuple[int, ...], float]]:
        """Return each row's answer tokens, end token included, and their log-probability."""
        answers = output.sequences[:, -len(output.logits):]
        chosen = torch.stack([_pick_logprobs(logits, answers[:, step]) for step, logits in enumerate(output.logits)],
                             dim=1).tolist()
        rows = []
        for tokens, logprobs in zip(answers.tolist(), chosen, strict=True):
            length = next((n + 1 for n, token in enumerate(tokens) if token in self.end_ids), len(tokens))
            rows.append((tuple(tokens[:length]), sum(logprobs[:length])))
        return rows

    def _text(self, tokens: Sequence[int]) -> str:
        text: str = self.loaded.tokenizer.decode([token for token in tokens if token not in self.end_ids],
                                                 skip_special_tokens=True)
        return text.strip()


def find_end_ids(loaded: LoadedModel) -> frozenset[int]:
    """Return the tokens that end an answer: the family's, and those of the checkpoint's generation settings."""
    own = loaded.model.generation_config.eos_token_id
    listed = own if isinstance(own, list) else [own] if own is not None else []
    return frozenset([*listed, loaded.family.encode_answer(loaded.processor, "yes")[-1]])


def _pick_logprobs(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities [B] of tokens [B] from logits [B, V]: a step at a time, on the logits' device."""
    picked: torch.Tensor = logits.float().log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    return picked


def _merge(known: AnswerSample | None, text: str, path: Path) -> AnswerSample:
    """Add a path to the answer of the same text; different tokens can spell one text, their probabilities add up."""
    if known is None or known.logprob is None:
        return AnswerSample(text, path.count, path.logprob)
    both = torch.logaddexp(torch.tensor(known.logprob), torch.tensor(path.logprob)).item()
    return AnswerSample(text, known.count + path.count, both)


def _merge_rows(owners: Sequence[int], rows: Sequence[tuple[tuple[int, ...], float]]) -> list[Path]:
    """Return the distinct answers to each question with their counts; `owners` names each row's question."""
    merged: Counter[tuple[int, tuple[int, ...]]] = Counter()
    logprobs = {}
    for owner, (tokens, logprob) in zip(owners, rows, strict=True):
        merged[owner, tokens] += 1
        logprobs[owner, tokens] = logprob
    return [Path(question, tokens, number, logprobs[question, tokens])
            for (question, tokens), number in merged.items()]

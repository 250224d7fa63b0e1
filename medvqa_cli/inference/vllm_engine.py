"""Answers by vLLM in this process: many questions at once, the prefill of an image kept for its other questions.

Written against vLLM's documented interface (LLM, SamplingParams, LoRARequest, token prompts with multi_modal_data;
0.11 and later) and tested with a stand-in of it. It has not been run on a GPU by us.

Prompts are our own token ids, with one placeholder an image, which vLLM expands: what a model was trained with is what
it is asked with. Candidates are scored by the log-probabilities of a prompt; for these vLLM reads no cached prefix.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.prompts import build_turns
from medvqa_cli.errors import DataError, ModelError
from medvqa_cli.inference.openai_engine import count_answers
from medvqa_cli.inference.prompted import Prompted
from medvqa_cli.inference.protocol import Decoding, Generation, Intake
from medvqa_cli.inference.seeds import seed_for
from medvqa_cli.models.encoding import BLANK_GREY
from medvqa_cli.models.protocol import ImageInputs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from PIL import Image

    from medvqa_cli.models.protocol import ModelFamily
    from medvqa_cli.records import AnswerSample, VQASample
    from medvqa_cli.settings.data import PromptSettings

QUESTIONS = 256
"""Questions of a call: enough to fill a batch, few enough that a kill loses little."""
CACHED_PICTURES = 64
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM sets room aside for."""


class VllmEngine(Prompted):
    """Runs a `vllm.LLM`.

    Args:
        llm: The engine, made by `load_llm`.
        family: The model's family.
        processor: Its processor.
        read_image: Opens a path as an RGB picture.
        prompt: How questions are put.
        facts: What is known of the model, for protocols.
        adapter: Folder of a LoRA adapter, if it has one.
        blank_images: Replace every picture of a sample by a grey one of the same size; exemplars' pictures stay.

    Raises:
        ModelError: If the family is an encoder-decoder.
        SettingsError: If the prompt's template or an exemplar's picture cannot be used.
    """

    name = "vllm"
    intake = Intake(by_image=False, questions=QUESTIONS)
    scores_candidates = True

    def __init__(self, llm: Any, family: ModelFamily, processor: Any, read_image: Callable[[str], Image.Image], *,
                 prompt: PromptSettings, facts: Mapping[str, Any], adapter: str = "",
                 blank_images: bool = False) -> None:
        super().__init__(prompt)
        if family.layout.task_type == "SEQ_2_SEQ_LM":
            raise ModelError("Engine 'vllm' does not run encoder-decoders such as this family.",
                             "Use --engine transformers.")
        self.facts = facts
        self._llm = llm
        self._family = family
        self._processor = processor
        self._blank = blank_images
        self._adapter = _request_adapter(adapter)
        self._placeholder = processor.tokenizer.convert_ids_to_tokens(family.find_image_token(processor))
        self._open = functools.lru_cache(CACHED_PICTURES)(read_image)

    def generate(self, samples: Sequence[VQASample], decoding: Decoding) -> list[Generation]:
        """Return one answer for each sample."""
        return [answers[0] for answers in self._write(samples, 1, decoding)]

    def sample(self, samples: Sequence[VQASample], count: int, decoding: Decoding) -> list[tuple[AnswerSample, ...]]:
        """Draw `count` answers for each sample: the distinct ones with their counts, the most frequent first."""
        return [count_answers(answers) for answers in self._write(samples, count, decoding)]

    def score_candidates(self, samples: Sequence[VQASample],
                         candidates: Sequence[Sequence[str]]) -> list[Mapping[str, float]]:
        """Return each candidate's log-probability (nats, end token included) as the answer to each sample."""
        from vllm import SamplingParams

        answers = [[self._family.encode_answer(self._processor, text) for text in offered] for offered in candidates]
        prompts = [self._build_prompt(sample, ids) for sample, offered in zip(samples, answers, strict=True)
                   for ids in offered]
        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        outputs = iter(self._run(prompts, [params] * len(prompts)))
        return [{text: _sum_last(next(outputs), ids) for text, ids in zip(offered, encoded, strict=True)}
                for offered, encoded in zip(candidates, answers, strict=True)]

    def count_answer_tokens(self, answer: str) -> int:
        """Return the tokens of an answer, end token included."""
        return len(self._family.encode_answer(self._processor, answer))

    def count_usage(self) -> Mapping[str, int]:
        """Return nothing: what runs in this process is not counted."""
        return {}

    def _write(self, samples: Sequence[VQASample], count: int, decoding: Decoding) -> list[list[Generation]]:
        from vllm import SamplingParams

        end = self._family.encode_answer(self._processor, "yes")[-1]
        params = [SamplingParams(n=count, temperature=decoding.temperature, top_p=decoding.top_p, top_k=decoding.top_k,
                                 max_tokens=decoding.max_new_tokens, logprobs=0, stop_token_ids=[end],
                                 seed=seed_for(decoding.seed, (*sample.images, sample.question_id)) % 2**31)
                  for sample in samples]
        outputs = self._run([self._build_prompt(sample) for sample in samples], params)
        return [[Generation(answer.text.strip(), answer.cumulative_logprob, len(answer.token_ids),
                            answer.finish_reason != "length") for answer in output.outputs] for output in outputs]

    def _run(self, prompts: list[dict[str, Any]], params: list[Any]) -> list[Any]:
        try:
            found: list[Any] = self._llm.generate(prompts, params, use_tqdm=False, lora_request=self._adapter)
        except ValueError as error:
            raise ModelError(f"vLLM refuses the questions: {error}.",
                             "See infer.vllm.options, such as max_model_len and limit_mm_per_prompt.") from error
        return found

    def _build_prompt(self, sample: VQASample, answer: Sequence[int] = ()) -> dict[str, Any]:
        """Return a token prompt, its placeholders one an image, with the pictures that stand there."""
        pictures = [self._open(path) for path in self._exemplars]
        pictures += [self._blank_out(self._open(path)) for path in sample.images]
        number = len(pictures)
        unexpanded = ImageInputs(num_tokens=(1,) * number, markers=(self._placeholder,) * number)
        try:
            ids = self._family.encode_prompt(self._processor, build_turns(sample, self.prompt), unexpanded)
        except ValueError as error:
            raise DataError(f"Question '{sample.question_id}' of {sample.dataset}/{sample.split} cannot be put to this "
                            f"model: {error}.", "Change its text, or leave it out.") from error
        images = {"multi_modal_data": {"image": pictures}} if pictures else {}
        return {"prompt_token_ids": [*ids, *answer], **images}

    def _blank_out(self, picture: Image.Image) -> Image.Image:
        from PIL import Image

        return Image.new("RGB", picture.size, BLANK_GREY) if self._blank else picture


def load_llm(checkpoint: str, *, rank: int = 0, **options: Any) -> Any:
    """Return a `vllm.LLM` that keeps prefixes and adds no sampling defaults of the checkpoint.

    Args:
        checkpoint: Folder or hub id.
        rank: Of the LoRA adapter it will be asked with; 0: none.
        options: Go to `vllm.LLM` as they are, and win.

    Raises:
        ModelError: If vLLM cannot run it.
    """
    from vllm import LLM

    lora = {"enable_lora": True, "max_lora_rank": next((r for r in RANKS if r >= rank), rank)} if rank else {}
    settings = {"enable_prefix_caching": True, "generation_config": "vllm", "logprobs_mode": "raw_logprobs"}
    try:
        return LLM(model=checkpoint, **settings | lora | options)
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        raise ModelError(f"vLLM cannot run '{checkpoint}': {error}.",
                         "See infer.vllm.gpu_memory and infer.vllm.options, or use --engine transformers.") from error


def find_rank(adapter: str, family: ModelFamily) -> int:
    """Return the rank of a LoRA adapter that vLLM can lay over a model; 0 where there is none.

    Raises:
        ModelError: If it changes what vLLM does not adapt: anything but plain LoRA in the language model.
    """
    if not adapter:
        return 0
    from safetensors import safe_open

    folder = Path(adapter)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
        names = list(weights.keys())
    outside = any(part in name for name in names for part in (family.layout.vision_tower, *family.layout.projectors))
    if config.get("use_dora") or config.get("modules_to_save") or outside:
        raise ModelError(f"vLLM does not run the adapter '{adapter}': it is not plain LoRA of the language model "
                         "alone.", "Merge it into its model with `medvqa merge`, and name the result with --model.")
    return int(config["r"])


def _request_adapter(adapter: str) -> Any:
    if not adapter:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest("medvqa", 1, adapter)


def _sum_last(output: Any, answer: Sequence[int]) -> float:
    """Return the log-probability of the answer that ends a prompt.

    Raises:
        ModelError: If vLLM has not scored these tokens.
    """
    start = len(output.prompt_token_ids) - len(answer)
    scored = (output.prompt_logprobs or [])[start:]
    if list(output.prompt_token_ids[start:]) != list(answer) or len(scored) != len(answer):
        raise ModelError("vLLM has not scored the tokens of the candidate it was given.",
                         "Score candidates with --engine transformers.")
    return float(sum(entry[token].logprob for token, entry in zip(answer, scored, strict=True)))

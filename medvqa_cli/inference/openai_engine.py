"""Answers by any server that speaks OpenAI's chat completions: vLLM, SGLang, `transformers serve`, OpenAI itself.

The server applies the chat template of its own model to our turns; all else of the prompt is ours. Every question is a
request of its own, with a seed of its own, so answers do not depend on what else is asked.
"""

from __future__ import annotations

import base64
import functools
import io
import math
import re
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.prompts import build_turns
from medvqa_cli.errors import ModelError
from medvqa_cli.inference.http_client import JsonClient, RefusedError
from medvqa_cli.inference.prompted import Prompted
from medvqa_cli.inference.protocol import AnswerError, Decoding, Generation, Intake
from medvqa_cli.inference.seeds import seed_for
from medvqa_cli.models.encoding import BLANK_GREY
from medvqa_cli.progress import SILENT
from medvqa_cli.records import AnswerSample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from PIL import Image

    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.data import PromptSettings

MOST_CHOICES = 128
"""Answers asked for in one request: more is refused by OpenAI."""
SEED_RANGE = 2**31
CACHED_PICTURES = 64
REFUSALS = {400, 404, 422}
FIELDS = {
    "logprobs": ("logprobs?", "no log-probabilities are known"),
    "n": ("['\"`]n['\"`]|\\bn\\s*(?:>|=|must|is)", "every sampled answer is a request of its own"),
    "seed": ("seed", "sampled answers cannot be drawn again as they were"),
    "frequency_penalty": ("frequency_penalty", "it is left to the server"),
    "top_p": ("top_p", "it is left to the server"),
}
"""Fields that a request can do without: how a refusal names them, and what follows from leaving them out."""


class OpenAIEngine(Prompted):
    """Asks a server.

    Args:
        client: Sends requests.
        model: The model's name at the server.
        read_image: Opens a path as an RGB picture.
        prompt: How questions are put.
        concurrency: Requests under way at the same time.
        image_size: Longer side in pixels of the largest picture sent; pictures go as PNG, without loss.
        blank_images: Replace every picture of a sample by a grey one of the same size; exemplars' pictures stay.
        warn: Is told once of each thing that the server does not do.

    Raises:
        SettingsError: If the prompt's template or an exemplar's picture cannot be used.
    """

    name = "openai"
    scores_candidates = False

    def __init__(self, client: JsonClient, model: str, read_image: Callable[[str], Image.Image], *,
                 prompt: PromptSettings, concurrency: int = 8, image_size: int = 1024,
                 blank_images: bool = False, warn: Callable[[str], None] = SILENT.warn) -> None:
        super().__init__(prompt)
        self.model = model
        self.facts: Mapping[str, Any] = {"checkpoint": model, "server": client.base_url, "image_size": image_size}
        self.intake = Intake(by_image=False, calls=concurrency)
        self._client = client
        self._read_image = read_image
        self._size = image_size
        self._blank = blank_images
        self._write_picture = functools.lru_cache(CACHED_PICTURES)(self._encode_picture)
        self._lock = threading.Lock()
        self._usage: Counter[str] = Counter()
        self._warn = warn
        self._told: set[str] = set()
        self._left_out: set[str] = set()
        self._limit = "max_tokens"

    def list_models(self) -> list[str]:
        """Return the models that the server lists; none if it has no list.

        Raises:
            ModelError: If the server cannot be reached, or does not take the key.
        """
        try:
            found = self._client.get("/models")
        except AnswerError:
            return []
        listed = found.get("data") if isinstance(found, dict) else None
        return [str(entry["id"]) for entry in listed or [] if isinstance(entry, dict) and "id" in entry]

    def generate(self, samples: Sequence[VQASample], decoding: Decoding) -> list[Generation]:
        """Return one answer for each sample."""
        return [self._ask(sample, decoding, 1)[0] for sample in samples]

    def sample(self, samples: Sequence[VQASample], count: int, decoding: Decoding) -> list[tuple[AnswerSample, ...]]:
        """Draw `count` answers for each sample: the distinct ones with their counts, the most frequent first.

        A server that gives fewer answers to a request than it was asked for is asked again, with another seed.
        """
        return [count_answers(self._draw(sample, count, decoding)) for sample in samples]

    def score_candidates(self, samples: Sequence[VQASample],
                         candidates: Sequence[Sequence[str]]) -> list[Mapping[str, float]]:
        """Refuse: chat completions tell the log-probability of what was written, not of a given answer.

        Raises:
            ModelError: Always.
        """
        del samples, candidates
        raise ModelError("Engine 'openai' cannot score given answers: chat completions tell the log-probability only "
                         "of what the model wrote itself.",
                         "Let it write its answers, or score candidates with --engine transformers or vllm.")

    def count_answer_tokens(self, answer: str) -> int:
        """Refuse: a server's tokens are not known.

        Raises:
            ModelError: Always.
        """
        raise ModelError(f"Engine 'openai' does not know the tokens of '{answer}'.",
                         "Use --engine transformers or vllm.")

    def count_usage(self) -> Mapping[str, int]:
        """Return "requests", "prompt_tokens" and "completion_tokens", as the server counts them."""
        with self._lock:
            return dict(self._usage)

    def _draw(self, sample: VQASample, count: int, decoding: Decoding) -> list[Generation]:
        drawn: list[Generation] = []
        while len(drawn) < count:
            drawn += self._ask(sample, decoding, count - len(drawn), len(drawn))
        return drawn[:count]

    def _ask(self, sample: VQASample, decoding: Decoding, count: int, drawn: int = 0) -> list[Generation]:
        """Return the choices of one request, at least one."""
        seed = seed_for(decoding.seed, (*sample.images, sample.question_id, str(drawn))) % SEED_RANGE
        request = {"model": self.model, "messages": self._build_messages(sample), "temperature": decoding.temperature,
                   "top_p": decoding.top_p, "frequency_penalty": 0.0, "seed": seed, "logprobs": True,
                   "max_tokens": decoding.max_new_tokens}
        if count > 1:
            request["n"] = min(count, MOST_CHOICES)
        if decoding.top_k:
            request["top_k"] = decoding.top_k
        try:
            answer = self._send(request)
        except RefusedError as error:
            raise self._explain(error) from error
        choices = _read_choices(answer)
        self._count(answer.get("usage"))
        if any(choice.logprob is None for choice in choices):
            self._tell("logprobs", "The server tells no log-probabilities: none are known of its answers.")
        return choices

    def _send(self, request: dict[str, Any]) -> Any:
        """Send a request; a field that the server refuses, and that can be spared, is left out from then on."""
        while True:
            sent = {name: value for name, value in request.items() if name not in self._left_out}
            sent[self._limit] = sent.pop("max_tokens")
            try:
                return self._client.post("/chat/completions", sent)
            except RefusedError as error:
                if error.status not in REFUSALS or not self._spare(error.reason, sent):
                    raise

    def _spare(self, reason: str, sent: Mapping[str, Any]) -> bool:
        """Leave out or rename what a refusal names; return whether there is anything new to try."""
        if "max_completion_tokens" in reason and "max_tokens" in sent:
            self._limit = "max_completion_tokens"
            return True
        spared = (name for name in FIELDS if name in sent and (name != "top_p" or sent[name] == 1))
        field = next((name for name in spared if re.search(FIELDS[name][0], reason)), "")
        if field:
            self._left_out.add(field)
            self._tell(field, f"The server does not take '{field}': {FIELDS[field][1]}.")
        return bool(field)

    def _explain(self, error: RefusedError) -> ModelError:
        """Return what is wrong: with the model's name no question can be answered, with anything else only this."""
        if error.status != 404:
            return error
        listed, origin = self.list_models(), self._client.origin
        return ModelError(f"The server at '{self.facts['server']}' has no model '{self.model}': {error.reason}",
                          f"It offers: {', '.join(listed)}." if listed else
                          f"Correct {origin.model} or {origin.address}.")

    def _tell(self, what: str, message: str) -> None:
        with self._lock:
            is_new = what not in self._told
            self._told.add(what)
        if is_new:
            self._warn(message)

    def _count(self, usage: Any) -> None:
        counts = usage if isinstance(usage, dict) else {}
        with self._lock:
            self._usage["requests"] += 1
            for name in ("prompt_tokens", "completion_tokens"):
                self._usage[name] += int(counts.get(name) or 0)

    def _build_messages(self, sample: VQASample) -> list[dict[str, Any]]:
        """Return the conversation, each picture before its turn's text."""
        pictures: Iterator[str] = iter([self._write_picture(path, False) for path in self._exemplars]
                                       + [self._write_picture(path, self._blank) for path in sample.images])
        messages = []
        for turn in build_turns(sample, self.prompt):
            images = [{"type": "image_url", "image_url": {"url": next(pictures)}} for _ in range(turn.num_images)]
            content = [*images, {"type": "text", "text": turn.text}] if images else turn.text
            messages.append({"role": turn.role, "content": content})
        return messages

    def _encode_picture(self, path: str, blank: bool) -> str:
        from PIL import Image

        picture = self._read_image(path)
        if blank:
            picture = Image.new("RGB", picture.size, BLANK_GREY)
        if max(picture.size) > self._size:
            picture.thumbnail((self._size, self._size), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _read_choices(answer: Any) -> list[Generation]:
    found = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(found, list) or not found:
        raise AnswerError(f"The server's answer holds no choices: {str(answer)[:80]!r}.")
    usage = answer.get("usage") or {}
    written = usage.get("completion_tokens") if len(found) == 1 else None
    return [_read_choice(choice, written) for choice in found]


def _read_choice(choice: Any, written: int | None) -> Generation:
    """Return an answer; its log-probability is the sum over the tokens that the server lists."""
    try:
        reason, content = choice.get("finish_reason"), choice["message"].get("content")
        tokens = (choice.get("logprobs") or {}).get("content")
        logprob = sum(float(token["logprob"]) for token in tokens) if tokens else None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise AnswerError(f"The server's answer is not a chat completion: {str(choice)[:80]!r}.") from error
    if not isinstance(content, str):
        raise AnswerError(f"The server's answer holds no text (finish reason {reason!r}).")
    return Generation(content.strip(), logprob, len(tokens) if tokens else written, reason != "length")


def count_answers(drawn: Sequence[Generation]) -> tuple[AnswerSample, ...]:
    """Return the distinct answers; one that several token sequences spell has the sum of their probabilities.

    Two draws of the same log-probability are taken for the same tokens.
    """
    counts = Counter(answer.text for answer in drawn)
    spelled = {text: {answer.logprob for answer in drawn if answer.text == text} for text in counts}
    return tuple(AnswerSample(text, count, _add_up(spelled[text]))
                 for text, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _add_up(logprobs: set[float | None]) -> float | None:
    known = [value for value in logprobs if value is not None]
    if len(known) < len(logprobs) or not known:
        return None
    return min(0.0, math.log(math.fsum(map(math.exp, known))))

"""A language model behind an OpenAI-compatible server as a judge of open answers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import SettingsError
from medvqa_cli.evaluation.judging import Judge
from medvqa_cli.evaluation.verdicts import PROMPT, VERSION, name_judge, read_verdict, write_request
from medvqa_cli.inference.protocol import Decoding
from medvqa_cli.records import VQASample
from medvqa_cli.settings.data import PromptSettings
from medvqa_cli.workflows.asking import Failures, ask, identify

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.evaluation.judging import Claim
    from medvqa_cli.inference.openai_engine import OpenAIEngine
    from medvqa_cli.progress import Progress
    from medvqa_cli.settings.schema import EvaluationSettings

DECODING = Decoding(max_new_tokens=512)
"""Greedy, with room for a model that reasons before it answers."""


def open_judge(settings: EvaluationSettings, progress: Progress) -> Judge | None:
    """Return the judge that the settings name, once its server has been reached; None if they name none.

    Answers that the server cannot judge, and replies that are no verdict, count as without a verdict.

    Raises:
        SettingsError: If no server is named.
        ModelError: If it cannot be reached or does not take the key.
    """
    if not settings.judge:
        return None
    engine = _open_server(settings, progress)
    engine.list_models()

    def judge(claims: Sequence[Claim]) -> list[bool | None]:
        samples = [VQASample(dataset="judge", split="judge", question_id=str(number), image_id="", answer="",
                             question=write_request(claim), answer_type="open") for number, claim in enumerate(claims)]
        failures = Failures()
        replies = {identify(sample): reply.text for portion, found in ask(
            engine, samples, lambda portion: engine.generate(portion, DECODING), failures)
            for sample, reply in zip(portion, found, strict=True)}
        if failures:
            progress.warn(f"{len(failures)} answers could not be judged: {failures[0][1].message}")
        return [read_verdict(replies.get(identify(sample), "")) for sample in samples]

    return Judge(name_judge(settings.judge), judge)


def describe_judge(settings: EvaluationSettings) -> dict[str, Any]:
    """Return what decides a judge's verdicts, as a protocol states it."""
    return {"model": settings.judge, "server": settings.judge_server.base_url, "prompt": PROMPT,
            "prompt_version": VERSION, "decoding": "greedy",
            "verdict": "the reply is the word correct or incorrect alone; any other reply is no verdict"}


def _open_server(settings: EvaluationSettings, progress: Progress) -> OpenAIEngine:
    from medvqa_cli.data.images import read_image
    from medvqa_cli.inference.http_client import JsonClient, Origin
    from medvqa_cli.inference.openai_engine import OpenAIEngine

    server = settings.judge_server
    if not server.base_url:
        raise SettingsError(f"The judge '{settings.judge}' needs a server.",
                            "Name one with --judge-base-url, such as http://localhost:8000/v1.")
    client = JsonClient(server.base_url, os.environ.get(server.key_variable, ""), timeout=server.timeout,
                        retries=server.retries,
                        origin=Origin("--judge-base-url", "--judge", "evaluation.judge_server"))
    return OpenAIEngine(client, settings.judge or "", read_image, prompt=PromptSettings(),
                        concurrency=server.concurrency, warn=_keep_quiet(progress))


def _keep_quiet(progress: Progress) -> Any:
    """Return what hears the server's warnings, without that on log-probabilities: a verdict needs none."""
    return lambda message: None if "log-probabilities" in message else progress.warn(message)

"""A real server, `transformers serve`: its answers are those of our own engine on the same checkpoint."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from medvqa_cli.data.images import read_image
from medvqa_cli.errors import ModelError
from medvqa_cli.inference.http_client import JsonClient
from medvqa_cli.inference.openai_engine import OpenAIEngine
from medvqa_cli.inference.protocol import Decoding
from medvqa_cli.inference.transformers_engine import TransformersEngine
from medvqa_cli.settings.data import PromptSettings
from medvqa_cli.workflows.asking import ask
from tests.models.conftest import load_tiny
from tests.models.test_packing import make_encoder, make_samples

pytestmark = pytest.mark.slow
START = "from transformers.cli.transformers import main; main()"


@pytest.fixture(scope="module")
def server(tiny_directory, tmp_path_factory):
    """Address of a server that has loaded the tiny model."""
    for package in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(package, reason="needs transformers[serving]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("serve") / "log.txt").open("wb")
    process = subprocess.Popen([sys.executable, "-c", START, "serve", str(tiny_directory), "--device", "cpu", "--dtype",
                                "float32", "--host", "127.0.0.1", "--port", str(port)],
                               stdout=log, stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        _await_health(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=30)
        log.close()


def _await_health(url: str, process: subprocess.Popen) -> None:
    for _ in range(240):
        assert process.poll() is None, "the server has stopped"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    raise AssertionError("the server does not start")


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def engine(server, tiny_directory, told):
    return OpenAIEngine(JsonClient(server, retries=0), str(tiny_directory), read_image, prompt=PromptSettings(),
                        concurrency=4, warn=told.append)


def test_greedy_answers_are_those_of_our_own_engine(engine, told, tiny_directory, picture_paths):
    loaded = load_tiny(tiny_directory, "sdpa")
    ours = TransformersEngine(loaded, make_encoder(loaded), shared_prefix=True)
    decoding = Decoding(max_new_tokens=6)
    samples = [sample for image in range(2) for sample in make_samples(picture_paths, image)]
    wanted = {sample.question_id + sample.images[0]: written.text for portion, answers in
              ask(ours, samples, lambda portion: ours.generate(portion, decoding))
              for sample, written in zip(portion, answers, strict=True)}
    found = {portion[0].question_id + portion[0].images[0]: answers[0] for portion, answers in
             ask(engine, samples, lambda portion: engine.generate(portion, decoding))}
    assert {key: written.text for key, written in found.items()} == wanted
    assert len(set(wanted.values())) > 1
    assert all(written.logprob is None and written.num_tokens == 6 for written in found.values())
    assert told == ["The server tells no log-probabilities: none are known of its answers."]
    usage = engine.count_usage()
    assert (usage["requests"], usage["completion_tokens"]) == (len(samples), 6 * len(samples))
    assert usage["prompt_tokens"] > 10 * len(samples)


def test_samples_are_as_many_as_asked_for_from_a_server_that_gives_one_at_a_time(engine, picture_paths):
    (drawn,) = engine.sample(make_samples(picture_paths)[:1], 3, Decoding(2, temperature=1.0, seed=1))
    assert sum(answer.count for answer in drawn) == 3
    assert engine.count_usage()["requests"] == 3


def test_another_model_than_the_servers_is_refused(server, picture_paths):
    other = OpenAIEngine(JsonClient(server, retries=0), "other", read_image, prompt=PromptSettings())
    with pytest.raises(ModelError, match="Server is pinned to"):
        other.generate(make_samples(picture_paths)[:1], Decoding(2))

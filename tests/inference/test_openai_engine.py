"""Questions to a server: what is sent, what is read, and every way in which it can go wrong."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import time
from email.utils import formatdate

import numpy as np
import pytest
from PIL import Image

from medvqa_cli.data.images import read_image
from medvqa_cli.errors import ModelError
from medvqa_cli.inference.http_client import JsonClient, RefusedError
from medvqa_cli.inference.openai_engine import OpenAIEngine
from medvqa_cli.inference.protocol import AnswerError, Decoding
from medvqa_cli.records import VQASample
from medvqa_cli.settings.data import Exemplar, PromptSettings
from tests.inference.stand_in_server import Fault, StandIn, serve

GREEDY = Decoding(max_new_tokens=7)


@pytest.fixture
def server():
    with serve(StandIn()) as running:
        yield running


@pytest.fixture
def waits() -> list[float]:
    """How long a client has waited: it does not really."""
    return []


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def ask(server, waits, told):
    """An engine that asks the server."""
    def build(key: str = "", *, retries: int = 3, timeout: float = 5.0, **options) -> OpenAIEngine:
        client = JsonClient(server.url, key, retries=retries, timeout=timeout, sleep=waits.append)
        options = {"prompt": PromptSettings(), "warn": told.append} | options
        return OpenAIEngine(client, "small", read_image, **options)
    return build


@pytest.fixture
def sample(tmp_path) -> VQASample:
    levels = np.random.default_rng(0).integers(0, 256, (30, 60, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    return VQASample(dataset="d", split="test", question_id="q1", image_id="a", question="Is it?", answer="yes",
                     answer_type="closed", images=(str(tmp_path / "a.png"),))


def show_picture(part: dict) -> Image.Image:
    head, _, data = part["image_url"]["url"].partition(",")
    assert (part["type"], head) == ("image_url", "data:image/png;base64")
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_question_is_sent_with_its_picture_and_plain_greedy_decoding(server, ask, sample):
    (written,) = ask().generate([sample], GREEDY)
    assert (written.text, written.logprob, written.num_tokens, written.is_ended) == ("about Is it?", -0.75, 2, True)
    (request,) = server.requests
    picture, text = request["messages"][0]["content"]
    assert text == {"type": "text", "text": "Is it?"}
    assert np.array_equal(np.asarray(show_picture(picture)), np.asarray(Image.open(sample.images[0])))
    assert {key: request[key] for key in ("model", "temperature", "top_p", "frequency_penalty", "max_tokens")} == {
        "model": "small", "temperature": 0.0, "top_p": 1.0, "frequency_penalty": 0.0, "max_tokens": 7}
    assert "n" not in request


def test_large_pictures_are_made_smaller_and_blank_ones_grey(server, ask, sample):
    ask(image_size=20).generate([sample], GREEDY)
    ask(blank_images=True).generate([sample], GREEDY)
    small, blank = (show_picture(request["messages"][0]["content"][0]) for request in server.requests)
    assert small.size == (20, 10)
    assert (blank.size, blank.getcolors()) == ((60, 30), [(1800, (127, 127, 127))])


def test_exemplars_stand_first_each_with_its_own_picture(server, ask, sample, tmp_path):
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "red.png")
    prompt = PromptSettings(exemplars=(Exemplar(question="Red?", answer="yes", image=tmp_path / "red.png"),))
    ask(prompt=prompt, blank_images=True).generate([sample], GREEDY)
    shown, said, asked = server.requests[0]["messages"]
    assert (shown["role"], said, asked["role"]) == ("user", {"role": "assistant", "content": "yes"}, "user")
    assert show_picture(shown["content"][0]).getpixel((0, 0)) == (255, 0, 0)
    assert show_picture(asked["content"][0]).getpixel((0, 0)) == (127, 127, 127)


def fail(times: int, fault: Fault):
    """The first requests fail."""
    return lambda request, number: fault if number < times else None


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
def test_a_busy_server_is_asked_again_after_growing_waits(server, ask, sample, waits, status):
    server.fault = fail(3, Fault(status))
    assert ask().generate([sample], GREEDY)[0].text == "about Is it?"
    assert len(server.requests) == 4
    assert [0.5 <= wait / (0.5 * 2**n) <= 1 for n, wait in enumerate(waits)] == [True] * 3


@pytest.mark.parametrize("wish", ["7", "date"])
def test_the_servers_wish_to_wait_is_heeded(server, ask, sample, waits, wish):
    server.fault = fail(1, Fault(429, headers={"Retry-After": formatdate(time.time() + 7.9, usegmt=True)
                                               if wish == "date" else wish}))
    ask().generate([sample], GREEDY)
    assert len(waits) == 1
    assert 5.5 < waits[0] <= 8


def test_a_server_that_stays_at_fault_is_given_up_with_what_it_said(server, ask, sample):
    server.fault = fail(99, Fault(500, {"error": {"message": "out of\n memory"}}))
    with pytest.raises(RefusedError, match=r"\(status 500\): out of memory \(4 times tried\)$"):
        ask().generate([sample], GREEDY)
    assert len(server.requests) == 4


def test_no_answer_in_time_is_an_answer_that_is_missing(server, ask, sample):
    server.fault = fail(99, Fault(200, seconds=0.4))
    with pytest.raises(AnswerError, match=r"no answer within 0\.1 s \(2 times tried\)") as failure:
        ask(retries=1, timeout=0.1).generate([sample], GREEDY)
    assert "infer.server.timeout" in failure.value.hint


def test_a_connection_that_breaks_once_is_made_again(server, ask, sample):
    server.fault = fail(2, Fault(0))
    assert ask().generate([sample], GREEDY)[0].text == "about Is it?"


def test_a_server_that_is_gone_ends_everything(ask, sample, server):
    server.fault = fail(99, Fault(0))
    with pytest.raises(ModelError, match="cannot be reached") as failure:
        ask(retries=1).generate([sample], GREEDY)
    assert not isinstance(failure.value, AnswerError)
    assert "the same command goes on" in failure.value.hint


@pytest.mark.parametrize(("fault", "message"), [
    (Fault(400, {"error": {"message": "picture too large"}}), r"\(status 400\): picture too large$"),
    (Fault(422, {"detail": "Unexpected fields"}), r"\(status 422\): Unexpected fields$"),
    (Fault(413, b"<html>no</html>"), r"\(status 413\): <html>no</html>$"),
    (Fault(307, headers={"Location": "http://127.0.0.1:9/"}), r"\(status 307\): \{\}$"),
    (Fault(200, b"not json"), "is no JSON: 'not json'"),
    (Fault(200, {"choices": []}), "holds no choices"),
    (Fault(200, {"choices": ["text"]}), "not a chat completion"),
    (Fault(200, {"choices": [{"finish_reason": "content_filter", "message": {"content": None}}]}),
     r"holds no text \(finish reason 'content_filter'\)"),
])
def test_what_cannot_be_answered_is_not_asked_again(server, ask, sample, fault, message):
    server.fault = fail(99, fault)
    with pytest.raises(AnswerError, match=message):
        ask().generate([sample], GREEDY)
    assert len(server.requests) == 1


def test_the_key_is_sent_and_shown_nowhere(server, ask, sample):
    ask("sk-secret").generate([sample], GREEDY)
    assert server.headers[-1]["Authorization"] == "Bearer sk-secret"
    server.fault = fail(99, Fault(401, {"error": {"message": "Incorrect API key provided: sk-secret"}}))
    with pytest.raises(ModelError, match=r"does not take the key \(status 401\): Incorrect API key provided: \*\*\*"
                       ) as failure:
        ask("sk-secret").generate([sample], GREEDY)
    assert "infer.server.key_variable" in failure.value.hint
    assert "secret" not in str(failure.value)


def test_an_unknown_model_names_those_there_are(server, ask, sample):
    server.fault = lambda request, number: Fault(404, {"detail": "no such model"}) if "messages" in request else None
    with pytest.raises(ModelError, match="has no model 'small': no such model") as failure:
        ask().generate([sample], GREEDY)
    assert failure.value.hint == "It offers: small, large."


def test_log_probabilities_may_be_missing_and_that_is_said_once(server, ask, sample, told):
    server.logprobs = False
    engine = ask()
    written = [engine.generate([sample], GREEDY)[0] for _ in range(3)]
    assert [(answer.logprob, answer.num_tokens) for answer in written] == [(None, 2)] * 3
    assert told == ["The server tells no log-probabilities: none are known of its answers."]


def refuse(*fields: str, words: str = "Unrecognized request argument supplied: {}"):
    """A server that takes no request with one of these fields."""
    def fault(request, number):
        named = next((name for name in fields if name in request), None)
        return Fault(400, {"error": {"message": words.format(named)}}) if named else None
    return fault


def test_what_a_server_does_not_take_is_left_out_and_said(server, ask, sample, told):
    server.fault = refuse("logprobs", "seed", "n", words="'{}' is not supported")
    engine = ask()
    assert engine.generate([sample], GREEDY)[0].logprob is None
    (drawn,) = engine.sample([sample], 5, Decoding(3, temperature=1.0, seed=1))
    assert sum(answer.count for answer in drawn) == 5
    assert told == ["The server does not take 'logprobs': no log-probabilities are known.",
                    "The server does not take 'seed': sampled answers cannot be drawn again as they were.",
                    "The server does not take 'n': every sampled answer is a request of its own."]
    before = len(server.requests)
    engine.generate([sample], GREEDY)
    assert len(server.requests) == before + 1, "it has been learnt"


def test_a_newer_name_of_the_bound_is_taken_when_the_server_asks_for_it(server, ask, sample):
    server.fault = refuse("max_tokens", words="Unsupported parameter: '{}'. Use 'max_completion_tokens' instead.")
    ask().generate([sample], GREEDY)
    assert server.requests[-1]["max_completion_tokens"] == 7
    assert "max_tokens" not in server.requests[-1]


def test_a_temperature_that_is_refused_is_no_other_temperature(server, ask, sample):
    server.fault = refuse("temperature", words="'{}' does not support 0.0")
    with pytest.raises(AnswerError, match="'temperature' does not support"):
        ask().generate([sample], GREEDY)


@pytest.mark.parametrize("choices", [None, 1, 3])
def test_samples_are_as_many_as_asked_for_however_the_server_counts(server, ask, sample, choices):
    server.choices = choices
    decoding = Decoding(3, temperature=0.7, seed=5)
    (drawn,) = ask().sample([sample], 300, decoding)
    assert sum(answer.count for answer in drawn) == 300
    assert {answer.text for answer in drawn} == {"yes", "no"}
    assert drawn[0].count > drawn[1].count
    assert drawn[0].logprob == pytest.approx(-0.75)
    share = next(answer.count for answer in drawn if answer.text == "yes") / 300
    assert abs(share - 0.7) < 4 * math.sqrt(0.21 / 300), "each request has a seed of its own"
    assert len({request["seed"] for request in server.requests}) == len(server.requests)
    assert ask().sample([sample], 300, decoding) == [drawn]


def test_seeds_depend_on_the_question_not_on_its_company(server, ask, sample):
    other = dataclasses.replace(sample, question_id="q2")
    engine = ask()
    engine.generate([sample, other], GREEDY)
    engine.generate([other], GREEDY)
    engine.generate([sample], Decoding(7, seed=1))
    seeds = [request["seed"] for request in server.requests]
    assert seeds[1] == seeds[2]
    assert len(set(seeds)) == 3


def test_usage_is_counted(server, ask, sample):
    engine = ask()
    engine.generate([sample, sample], GREEDY)
    assert engine.count_usage() == {"requests": 2, "prompt_tokens": 20, "completion_tokens": 4}


def test_candidates_are_not_scored_in_another_way(ask, sample):
    engine = ask()
    assert engine.scores_candidates is False
    with pytest.raises(ModelError, match="cannot score given answers") as failure:
        engine.score_candidates([sample], [["yes", "no"]])
    assert "--engine transformers or vllm" in failure.value.hint


def test_an_answer_cut_off_is_known_as_such(server, ask, sample):
    choice = {"finish_reason": "length", "message": {"content": " the left "}}
    server.fault = fail(99, Fault(200, {"choices": [choice]}))
    (written,) = ask().generate([sample], GREEDY)
    assert (written.text, written.is_ended, written.num_tokens) == ("the left", False, None)

"""A small server that speaks chat completions and plays every fault a real one has."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np


@dataclass
class Fault:
    """What a request gets instead of an answer; a status of 0 breaks the connection off."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class StandIn:
    """A server under test: what it was asked, and how it answers.

    `reply` gives a question's text, `fault` what goes wrong with a request (None: nothing).
    """

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    reply: Callable[[str], str] = lambda question: f"about {question}"
    fault: Callable[[dict[str, Any], int], Fault | None] = lambda request, number: None
    models: tuple[str, ...] = ("small", "large")
    logprobs: bool = True
    choices: int | None = None
    seconds: float = 0.0
    most_at_once: int = 0
    at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def questions(self) -> Counter[str]:
        """How often each question was asked."""
        return Counter(find_question(request) for request in self.requests)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return a chat completion: as many choices as asked for, or as the server gives."""
        number = min(request.get("n", 1), self.choices or 999)
        choices = []
        for index in range(number):
            choice = {"index": index, "finish_reason": "stop",
                      "message": {"role": "assistant", "content": self._write(request, index)}}
            if self.logprobs and request.get("logprobs"):
                choice["logprobs"] = {"content": [{"token": "a", "logprob": -0.25}, {"token": "b", "logprob": -0.5}]}
            choices.append(choice)
        return {"model": request["model"], "choices": choices,
                "usage": {"prompt_tokens": 10, "completion_tokens": 2 * number}}

    def _write(self, request: dict[str, Any], index: int) -> str:
        if request["temperature"] == 0:
            return self.reply(find_question(request))
        draw = np.random.default_rng([request.get("seed", 0), index]).random()
        return "yes" if draw < 0.7 else "no"


def find_question(request: dict[str, Any]) -> str:
    """Return the text of a request's last turn."""
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


@contextmanager
def serve(server: StandIn) -> Iterator[StandIn]:
    """Run a stand-in on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            server.headers.append(dict(self.headers))
            fault = server.fault({"path": self.path}, 0)
            self._send(fault or {"data": [{"id": name} for name in server.models]})

        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                number = len(server.requests)
                server.requests.append(request)
                server.headers.append(dict(self.headers))
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            time.sleep(server.seconds)
            with server.lock:
                server.at_once -= 1
            self._send(server.fault(request, number) or server.answer(request))

        def _send(self, content):
            fault = content if isinstance(content, Fault) else Fault(200, content)
            time.sleep(fault.seconds)
            if fault.status == 0:
                self.close_connection = True
                self.connection.close()
                return
            body = fault.body if isinstance(fault.body, bytes) else json.dumps(fault.body or {}).encode()
            self.send_response(fault.status)
            for name, value in {"Content-Length": str(len(body)), **fault.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            """A client that does not wait is no news."""

    http = Quiet(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()

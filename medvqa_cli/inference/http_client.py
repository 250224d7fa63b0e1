"""JSON over HTTP to a server that may be busy, slow or down: retried with patience, each failure said in one line.

Nothing but the standard library: which HTTP package comes along depends on the version of huggingface_hub.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import random
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from medvqa_cli.errors import ModelError
from medvqa_cli.inference.protocol import AnswerError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses after which the same request may succeed."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
LONGEST_REQUESTED_WAIT = 600.0
LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
FAULTS = (OSError, http.client.HTTPException)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a user has named a server and its model, for hints: two flags and the section of the settings."""

    address: str = "--base-url"
    model: str = "--model"
    section: str = "infer.server"


INFERENCE = Origin()


class RefusedError(AnswerError):
    """The server does not take a request; `status` is its HTTP status and `reason` what it says."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"The server refuses the request (status {status}): {reason}")
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Reply:
    """Status 0: there was no reply; `text` says why."""

    status: int
    text: str
    wait: float | None = None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would hand the key to whoever it names."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none."""


class JsonClient:
    """Sends JSON and returns JSON; safe to use from several threads.

    A request is repeated after a rate limit, a fault of the server, a timeout or a broken connection, with waits that
    double from 0.5 s to 30 s, each shortened by a random part of up to a half. The server's own wish (Retry-After) is
    heeded, by all threads.

    Args:
        base_url: What paths are put behind.
        key: Sent as bearer token if it is not empty; it stands in no error.
        timeout: Seconds to wait for a reply.
        retries: How often a request is repeated.
        origin: Where the server was named.
        sleep: What waits.
    """

    def __init__(self, base_url: str, key: str = "", *, timeout: float = 120.0, retries: int = 6,
                 origin: Origin = INFERENCE, sleep: Callable[[float], object] = time.sleep) -> None:
        self.base_url = base_url
        self.origin = origin
        self._headers = {"Content-Type": "application/json", "User-Agent": "medvqa"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._key = key
        self._timeout = timeout
        self._retries = retries
        self._sleep = sleep
        self._lock = threading.Lock()
        self._open_from = 0.0
        proxies: dict[str, str] | None = {} if urlsplit(base_url).hostname in LOCAL else None
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _NoRedirects)

    def get(self, path: str) -> Any:
        """Return what stands at a path, asked for once: a server that is not there is told at once.

        Raises:
            RefusedError: If the server answers with an error.
            ModelError: If it cannot be reached or does not take the key.
        """
        reply = self._send(path, None)
        if reply.status == 0:
            raise self._unreachable(reply.text)
        return self._read(reply)

    def post(self, path: str, content: Mapping[str, Any]) -> Any:
        """Send a JSON document and return the one that comes back.

        Raises:
            RefusedError: If the server does not take it, or is still at fault after all repetitions.
            AnswerError: If no answer came in time, or it is no JSON.
            ModelError: If the server is gone, or does not take the key.
        """
        body = json.dumps(content).encode()
        for attempt in range(self._retries + 1):
            self._await_turn()
            reply = self._send(path, body)
            if reply.status and reply.status not in BUSY:
                break
            if attempt < self._retries:
                self._hold_back(attempt, reply)
        return self._read(reply)

    def _send(self, path: str, body: bytes | None) -> _Reply:
        request = urllib.request.Request(self.base_url + path, body, self._headers)  # noqa: S310 - settings check it
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                return _Reply(response.status, response.read().decode(errors="replace"))
        except urllib.error.HTTPError as error:
            with error:
                return _Reply(error.code, _read_body(error), _read_wait(error.headers))
        except FAULTS as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                return _Reply(0, f"no answer within {self._timeout:g} s")
            return _Reply(0, str(reason) or type(reason).__name__)

    def _await_turn(self) -> None:
        with self._lock:
            wait = self._open_from - time.monotonic()
        if wait > 0:
            self._sleep(wait)

    def _hold_back(self, attempt: int, reply: _Reply) -> None:
        """Wait before a repetition; a wait that the server wishes holds for every thread."""
        if reply.wait is not None and reply.wait <= LONGEST_REQUESTED_WAIT:
            with self._lock:
                self._open_from = max(self._open_from, time.monotonic() + reply.wait)
            return
        self._sleep(min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * random.uniform(0.5, 1.0))

    def _read(self, reply: _Reply) -> Any:
        again = self._retries and (reply.status in BUSY or not reply.status)
        tries = f" ({self._retries + 1} times tried)" if again else ""
        if reply.status in {401, 403}:
            raise ModelError(f"The server at '{self.base_url}' does not take the key (status {reply.status}): "
                             f"{self._explain(reply)}",
                             f"Put a valid key into the environment variable that {self.origin.section}.key_variable "
                             "names.")
        if reply.status == 0 and reply.text.startswith("no answer within"):
            raise AnswerError(f"The server gave {reply.text}{tries}.",
                              f"Allow more time with --set {self.origin.section}.timeout=SECONDS.")
        if reply.status == 0:
            raise self._unreachable(reply.text + tries)
        if not 200 <= reply.status < 300:
            raise RefusedError(reply.status, self._explain(reply) + tries)
        try:
            return json.loads(reply.text)
        except ValueError as error:
            raise AnswerError(f"The server's answer is no JSON: {reply.text[:80]!r}.") from error

    def _unreachable(self, reason: str) -> ModelError:
        return ModelError(f"The server at '{self.base_url}' cannot be reached: {reason}.",
                          f"Start it, or correct {self.origin.address}. What has been answered is kept: the same "
                          "command goes on.")

    def _explain(self, reply: _Reply) -> str:
        """Return what the server says of an error in one line, without the key, which some servers repeat."""
        text = " ".join(_find_message(reply.text).split())[:300] or "it says no more"
        return text.replace(self._key, "***") if self._key else text


def _read_body(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(65536).decode(errors="replace")
    except FAULTS:
        return ""


def _find_message(text: str) -> str:
    try:
        found = json.loads(text)
    except ValueError:
        return text
    for name in ("error", "detail", "message"):
        if isinstance(found, dict) and found.get(name):
            inner = found[name]
            return str(inner.get("message", inner) if isinstance(inner, dict) else inner)
    return text


def _read_wait(headers: Any) -> float | None:
    """Return the seconds that Retry-After asks to wait: it is a number, or a date (RFC 9110, section 10.2.3)."""
    wished = headers.get("Retry-After", "").strip()
    if wished.replace(".", "", 1).isdecimal():
        return float(wished)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(wished).timestamp() - time.time()) if wished else None
    except ValueError:
        return None

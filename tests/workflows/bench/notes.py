"""What a benchmark says while it runs."""

from __future__ import annotations


class Notes:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    warn = say

    def start(self, *_: object, **__: object) -> None: ...
    def advance(self, *_: object, **__: object) -> None: ...
    def finish(self) -> None: ...

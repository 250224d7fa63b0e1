"""A model hub played below the HTTP client of huggingface_hub; the client itself, its cache included, is real."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

http = sys.modules[HfHubHTTPError.__bases__[0].__module__.partition(".")[0]]
"""The HTTP library that the hub's client uses."""
COMMITS = ("0123456789abcdef0123456789abcdef01234567", "89abcdef0123456789abcdef0123456789abcdef")


class PlayedHub:
    """One repository, `org/model`: commit -> name of a file -> its bytes; the last commit is the main branch.

    `tags` maps further names of commits to them.
    """

    def __init__(self, commits: dict[str, dict[str, bytes]], tags: dict[str, str] | None = None) -> None:
        self.commits = commits
        self.tags = tags or {}
        self.fetched: list[tuple[str, str]] = []

    def answer(self, request):
        path = request.url.path
        if "/resolve/" in path:
            revision, _, name = path.partition("/resolve/")[2].partition("/")
            return self._answer_file(request, self._find(revision), name)
        if "/tree/" in path:
            files = self.commits[self._find(path.partition("/tree/")[2].partition("/")[0])]
            return http.Response(200, json=[{"type": "file", "path": name, "size": len(content), "oid": digest(content)}
                                            for name, content in files.items()])
        revision = path.partition("/revision/")[2] or "main"
        if revision not in ("main", *self.commits, *self.tags):
            return refuse(request, 404, "RevisionNotFound")
        return http.Response(200, json={"id": "org/model", "sha": self._find(revision), "siblings": []})

    def _find(self, revision: str) -> str:
        return self.tags.get(revision, revision if revision in self.commits else list(self.commits)[-1])

    def _answer_file(self, request, commit: str, name: str):
        if name not in self.commits[commit]:
            return refuse(request, 404, "EntryNotFound")
        content = self.commits[commit][name]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{digest(content)}"', "Content-Length": str(len(content))}
        if request.method == "HEAD":
            return http.Response(200, headers=headers)
        self.fetched.append((commit, name))
        return http.Response(200, headers=headers, content=content)


def refuse(request, status: int, code: str):
    return http.Response(status, headers={"X-Error-Code": code, "X-Error-Message": "no"}, request=request)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:40]


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def play(monkeypatch, tmp_path):
    """Put a function in the place of the network, with an empty cache."""
    def start(answer) -> None:
        def answer_online(request):
            if huggingface_hub.constants.HF_HUB_OFFLINE:
                raise OfflineModeIsEnabled("offline")
            return answer(request)

        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        huggingface_hub.set_client_factory(lambda: http.Client(transport=http.MockTransport(answer_online)))

    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's attempts
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    yield start
    huggingface_hub.utils._http.set_client_factory(huggingface_hub.utils._http.default_client_factory)

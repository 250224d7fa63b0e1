"""Runs the probes in a process of their own and tells what each found, or what stopped it."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.workflows.machine import probes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PROBE_SECONDS = 120.0
NEEDS = {"torchvision": {"torch"}, "transformers": {"torch", "torchvision"}, "peft": {"torch", "transformers",
         "torchvision"}, "bitsandbytes": {"torch"}, "flash-attn": {"torch"}}
"""Probe -> probes whose failure would be its own; transformers imports torchvision wherever that is installed."""
EXCEPTION = re.compile(r"(?:\w+\.)*(\w+(?:Error|Exception)\b.*)")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a probe found, or in one line why it found nothing."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""


def run_probes(names: Sequence[str], progress: Progress = SILENT, *,
               timeout: float = PROBE_SECONDS) -> dict[str, Outcome]:
    """Run probes one after another; one that fails, crashes or hangs does not stop the others.

    A probe that would fail for another one's reason (`NEEDS`) is left out.

    Args:
        names: Probes, in the order to run them.
        progress: Counts them.
        timeout: Seconds that one probe may take.
    """
    outcomes: dict[str, Outcome] = {}
    progress.start("Looking at this machine", len(names), "part")
    while waiting := _list_waiting(names, outcomes):
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
            process = _start(waiting, said)
            for name, facts in _read_answers(process, timeout):
                outcomes[name] = Outcome(facts)
                progress.advance()
            if unanswered := [name for name in waiting if name not in outcomes]:
                outcomes[unanswered[0]] = Outcome(failure=_explain(process.wait(), said, timeout))
                progress.advance()
    progress.advance(len(names) - len(outcomes))
    progress.finish()
    return outcomes


def _list_waiting(names: Sequence[str], outcomes: Mapping[str, Outcome]) -> list[str]:
    failed = {name for name, outcome in outcomes.items() if outcome.failure}
    return [name for name in names if name not in outcomes and not failed & NEEDS.get(name, set())]


def _start(names: Sequence[str], said: IO[str]) -> subprocess.Popen[str]:
    # -P keeps the script's own folder off the path, so that its modules hide nobody else's
    command = [sys.executable, "-P", str(Path(probes.__file__)), *names]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,  # noqa: S603 - our own file
                            stderr=said, text=True, encoding="utf-8")


def _read_answers(process: subprocess.Popen[str], timeout: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each probe's name and facts as they come; the process is ended by a slow probe or an interruption."""
    watch = _watch(process, timeout)
    try:
        with process.stdout or contextlib.nullcontext(()) as lines:
            for line in lines:
                watch.cancel()
                watch = _watch(process, timeout)
                answer = json.loads(line)
                yield answer["probe"], answer["facts"]
        process.wait()
    finally:
        watch.cancel()
        process.kill()
        process.wait()


def _watch(process: subprocess.Popen[str], timeout: float) -> threading.Timer:
    watch = threading.Timer(timeout, process.kill)
    watch.daemon = True
    watch.start()
    return watch


def _explain(code: int, said: IO[str], timeout: float) -> str:
    """Return why a probe ended the process: what killed it, or the first exception of the chain it printed."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"no answer within {timeout:.0f} s, or no memory left" if name == "SIGKILL" else f"it crashed ({name})"
    said.seek(0)
    lines = [line.strip() for line in said.read().rpartition(probes.MARK)[2].splitlines() if line.strip()]
    named = [found[1] for line in lines if (found := EXCEPTION.match(line))]
    return named[0] if named else lines[-1] if lines else f"it ended with code {code}"

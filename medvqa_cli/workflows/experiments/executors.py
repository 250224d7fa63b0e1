"""Where tasks run: on this machine, one process a slot. The cluster's executor lies in `cluster`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Protocol

from medvqa_cli.errors import SettingsError
from medvqa_cli.runs import now
from medvqa_cli.settings.sources import PREFIX, RESERVED_VARIABLES
from medvqa_cli.workflows.machine.findings import count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from medvqa_cli.progress import Progress

TAIL_LINES = 8
POLL_SECONDS = 0.1
GRACE_SECONDS = 120.0
"""How long a stopped training may take to write its checkpoint."""


@dataclass(frozen=True, slots=True)
class Step:
    """One process of a task. Its command is asked for when its turn comes."""

    label: str
    command: Callable[[], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Task:
    """Steps that follow one another; the first that fails ends it. All write into one log."""

    name: str
    log: Path
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended: `failed` names the step that failed, `tail` holds the last lines of its log."""

    name: str
    seconds: float
    failed: str = ""
    code: int = 0
    tail: tuple[str, ...] = ()

    @property
    def ending(self) -> str:
        """How its last process ended, for people."""
        if self.code >= 0:
            return f"exit code {self.code}"
        killed = ", as where memory runs out" if self.code == -signal.SIGKILL else ""
        return f"ended by {signal.Signals(-self.code).name}{killed}"


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one process at a time, such as a GPU, and the variables that lead a process there."""

    name: str
    variables: Mapping[str, str] = field(default_factory=dict)


class Executor(Protocol):
    """Runs tasks and reports each one's end; a failed task stops no other."""

    def run(self, tasks: Sequence[Task], report: Callable[[Outcome], None], progress: Progress) -> list[Outcome]:
        """Run all tasks.

        Raises:
            KeyboardInterrupt: After Ctrl-C, once no process of a task runs any more.
        """


def make_slots(gpus: str | None, jobs: int | None, environment: Mapping[str, str] | None = None) -> list[Slot]:
    """Return one slot a GPU, or so many slots that share the CPU's cores.

    Args:
        gpus: Numbers such as "0,1", counted as this process sees the GPUs.
        jobs: Slots where no GPU is named; 1 if not given.
        environment: Variables; the process's own if not given.

    Raises:
        SettingsError: If both are given, or `gpus` is no list of numbers, each once.
    """
    environment = os.environ if environment is None else environment
    if gpus is None:
        threads = max(1, (os.cpu_count() or 1) // (jobs or 1))
        share = {} if jobs in (None, 1) or "OMP_NUM_THREADS" in environment else {"OMP_NUM_THREADS": str(threads)}
        return [Slot(f"slot {number + 1}", share) for number in range(jobs or 1)]
    if jobs is not None:
        raise SettingsError("--gpus and --jobs exclude each other: there is one job a GPU.", "Leave one out.")
    numbers = [part.strip() for part in gpus.split(",")]
    if not all(number.isdecimal() for number in numbers) or len(set(numbers)) < len(numbers):
        raise SettingsError(f"--gpus '{gpus}' is no list of GPU numbers, each once.", "Write --gpus 0,1.")
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    return [Slot(f"GPU {number}", {"CUDA_VISIBLE_DEVICES": _find_device(int(number), visible)}) for number in numbers]


def _find_device(number: int, visible: str) -> str:
    devices = [part.strip() for part in visible.split(",") if part.strip()]
    if devices and number >= len(devices):
        raise SettingsError(f"--gpus names GPU {number}, but this process sees {len(devices)} "
                            f"(CUDA_VISIBLE_DEVICES is '{visible}').", "Count from 0 within those it sees.")
    return devices[number] if devices else str(number)


class LocalExecutor:
    """Runs tasks in child processes of this machine, one at a time in each slot.

    Args:
        slots: Where to run.
        keep_open: File descriptors that children inherit, such as that of a lock.
        grace: Seconds that children have, after Ctrl-C, to end by themselves.
    """

    def __init__(self, slots: Sequence[Slot], *, keep_open: Sequence[int] = (), grace: float = GRACE_SECONDS) -> None:
        self._slots = slots
        self._keep_open = tuple(keep_open)
        self._grace = grace

    def run(self, tasks: Sequence[Task], report: Callable[[Outcome], None], progress: Progress) -> list[Outcome]:
        """Run all tasks; after Ctrl-C or SIGTERM the children are stopped as by Ctrl-C, and waited for."""
        with _terminated_as_interrupted():
            return self._run(tasks, report, progress)

    def _run(self, tasks: Sequence[Task], report: Callable[[Outcome], None], progress: Progress) -> list[Outcome]:
        waiting, running, outcomes = deque(tasks), dict[str, _Running](), list[Outcome]()
        try:
            while waiting or running:
                for slot in self._slots:
                    if slot.name not in running and waiting:
                        running[slot.name] = _Running(waiting.popleft(), slot, self._keep_open, progress,
                                                      is_one_of_many=len(self._slots) > 1)
                    if slot.name in running and (outcome := running[slot.name].advance()):
                        del running[slot.name]
                        outcomes.append(outcome)
                        report(outcome)
                time.sleep(POLL_SECONDS)
        except BaseException:
            _stop_all(list(running.values()), self._grace, progress)
            raise
        return outcomes


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM act as Ctrl-C does, where this thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Running:
    """A task under way in a slot."""

    def __init__(self, task: Task, slot: Slot, keep_open: tuple[int, ...], progress: Progress, *,
                 is_one_of_many: bool) -> None:
        self.task = task
        self._slot = slot
        self._place = f" ({slot.name})" if is_one_of_many else ""
        self._keep_open = keep_open
        self._progress = progress
        self._left = deque(task.steps)
        self._began = time.monotonic()
        self._step = ""
        self.process: subprocess.Popen[bytes] | None = None

    def advance(self) -> Outcome | None:
        """Start the next step if none runs; return the outcome once the task has ended."""
        code = self.process.poll() if self.process else 0
        if code is None:
            return None
        if code or not self._left:
            failed = {"failed": self._step, "code": code, "tail": read_tail(self.task.log)} if code else {}
            return Outcome(self.task.name, round(time.monotonic() - self._began, 1), **failed)  # type: ignore[arg-type]
        step = self._left.popleft()
        self._step = step.label
        self._progress.say(f"{self.task.name}: {step.label}{self._place}")
        with open_log(self.task.log) as log:
            command = list(step.command())
            write_header(log, command)
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,  # noqa: S603 - our own
                                            stderr=subprocess.STDOUT, env=clean_environment(self._slot.variables),
                                            start_new_session=True, pass_fds=self._keep_open)
        return None


def open_log(path: Path) -> IO[bytes]:
    """Open a task's log for appending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab")


def write_header(log: IO[bytes], command: Sequence[str]) -> None:
    """Write the time and the command line."""
    log.write(f"\n# {now()}\n$ {' '.join(command)}\n".encode())
    log.flush()


def clean_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return this process's variables for a child; MEDVQA_* settings are in its settings file and would hide that."""
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(PREFIX) or name in RESERVED_VARIABLES}
    return kept | dict(variables)


def read_tail(log: Path) -> tuple[str, ...]:
    """Return the last lines of what the last command wrote."""
    text = log.read_text(encoding="utf-8", errors="replace").rpartition("\n$ ")[2]
    return tuple([line.rstrip() for line in text.splitlines()[1:] if line.strip()][-TAIL_LINES:])


def _stop_all(running: Sequence[_Running], grace: float, progress: Progress) -> None:
    """End all children: as by Ctrl-C first, so that a training writes its checkpoint; by force if that takes long."""
    processes = [item.process for item in running if item.process and item.process.poll() is None]
    if processes:
        progress.warn(f"Stopping {count(len(processes), 'job')}: each finishes its step and writes a checkpoint. "
                      "Ctrl-C again ends them at once.")
    for process in processes:
        process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + grace
    try:
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        progress.warn("Ended at once.")
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

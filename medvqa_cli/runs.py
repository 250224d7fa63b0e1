"""A run is a folder: settings, manifest, model, predictions, scores, report."""

from __future__ import annotations

import datetime
import errno
import itertools
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli import __version__
from medvqa_cli.errors import RunError
from medvqa_cli.records import write_json

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_OF_A_NAME = 10_000
REMAKE = "Delete it, and run the command again that made it."
LOST = "Put a copy of it back, or train anew: the run cannot be used without it."
REMEDIES = {"manifest.json": LOST, "settings.json": LOST,
            "metrics.json": "Delete it and measure anew: medvqa eval answers --run {run}"}
PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "numpy", "pillow")


@dataclass(frozen=True, slots=True)
class Run:
    """Paths and files of one run."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def settings(self) -> Path:
        """Resolved settings, JSON."""
        return self.path / "settings.json"

    @property
    def manifest(self) -> Path:
        """Versions, seeds, data fingerprint, hardware, times, JSON."""
        return self.path / "manifest.json"

    @property
    def events(self) -> Path:
        """Progress while it runs, JSON lines."""
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of resumable training states."""
        return self.path / "checkpoints"

    @property
    def figures(self) -> Path:
        """Folder of figures."""
        return self.path / "figures"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    @property
    def weights(self) -> Path | None:
        """The trained adapter's or model's folder, once training has ended."""
        return next((path for path in (self.path / "adapter", self.path / "model") if path.is_dir()), None)

    def read_json(self, name: str) -> dict[str, Any]:
        """Return one of the run's JSON documents.

        Raises:
            RunError: If it is missing or damaged.
        """
        path = self.path / name
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunError(f"Run '{self.name}' has no {name}.") from error
        except ValueError as error:
            raise RunError(f"{path} is damaged: {error}.", REMEDIES.get(name, REMAKE).format(run=self.name)) from error
        return content

    def name_resume(self) -> str:
        """Return the command by which the training goes on."""
        return name_resume(self.name, self.read_json("manifest.json"))

    def update_manifest(self, **facts: Any) -> None:
        """Merge facts into the manifest."""
        current = self.read_json("manifest.json") if self.manifest.exists() else {}
        write_json(self.manifest, current | facts)


def create_run(runs: Path, name: str, *, counts_up: bool = True) -> Run:
    """Make a new run folder.

    Args:
        runs: The folder of runs.
        name: The run's name.
        counts_up: Put a number behind a name that is taken; else that is an error.

    Raises:
        RunError: If the name is no plain folder name, or is taken.
    """
    _check_spelling(name)
    make_runs_folder(runs)
    for number in range(1, MOST_OF_A_NAME if counts_up else 2):
        path = runs / _number(name, number)
        try:
            path.mkdir()
        except FileExistsError:
            continue
        run = Run(path.resolve())
        run.update_manifest(created=now(), **describe_environment())
        return run
    if not counts_up:
        check_name(runs, name)
    raise RunError(f"There are 9,999 runs called '{name}' in '{runs}'.", "Choose another --name.")


def make_runs_folder(runs: Path) -> None:
    """Make the folder of runs if it is not there.

    Raises:
        RunError: If it cannot be made.
    """
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise RunError(f"The folder of runs '{runs}' cannot be made: {error.strerror}.",
                       "Choose another place with --runs-dir.") from error


def find_free_name(runs: Path, name: str) -> str:
    """Return a name for a new run: this one, with a number behind it if it is taken."""
    return next(free for number in itertools.count(1) if not (runs / (free := _number(name, number))).exists())


def _check_spelling(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise RunError(f"'{name}' is no run name.", "Use letters, digits, '.', '_' and '-', such as slake-lora-1.")


def _number(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def check_name(runs: Path, name: str) -> None:
    """Refuse a name for a new run that is no plain folder name, or that another run has.

    Raises:
        RunError: Saying what may be done instead: that depends on how far the other one is.
    """
    _check_spelling(name)
    if not (runs / name).exists():
        return
    run, other = Run(runs / name), "or choose another --name."
    manifest = run.read_json("manifest.json") if run.manifest.is_file() else {}
    if run.weights:
        hint = f"It is finished: start from its weights with --init-from {name} and another --name."
    elif {"model", "method"} <= manifest.keys():
        hint = f"Go on with it: {name_resume(name, manifest)}, {other}"
    else:
        hint = f"Nothing has been trained in it: delete '{runs / name}' if it is not needed, {other}"
    raise RunError(f"There is a run '{name}' in '{runs}' already.", hint)


def name_resume(run: str, manifest: Mapping[str, Any]) -> str:
    """Return the command by which a run's training goes on: by its method, in as many processes as it began with."""
    number = manifest.get("processes", 1)
    return f"medvqa train {manifest.get('method', 'sft')} --resume {run}" + (
        f" --num-processes {number}" if number > 1 else "")


def list_runs(runs: Path) -> list[Run]:
    """Return all runs, the one created last first; one with a damaged manifest comes last and hides no other."""
    if not runs.is_dir():
        return []
    found = [Run(path.resolve()) for path in runs.iterdir() if (path / "manifest.json").is_file()]
    return sorted(found, key=lambda run: (_read_creation(run), run.name), reverse=True)


def _read_creation(run: Run) -> str:
    try:
        return str(run.read_json("manifest.json").get("created", ""))
    except RunError:
        return ""


def open_run(runs: Path, name: str | Path) -> Run:
    """Return a run by name or path.

    Raises:
        RunError: If there is no such run.
    """
    for path in (runs / name, Path(name)):
        if (path / "manifest.json").is_file():
            return Run(path.resolve())
    names = [run.name for run in list_runs(runs)][:10]
    known = f"Known: {', '.join(names)}." if names else "There are no runs yet: start with `medvqa quickstart`."
    raise RunError(f"There is no run '{name}' in '{runs}'.", known)


def latest_run(runs: Path) -> Run:
    """Return the trained run that was created last.

    Raises:
        RunError: If no run has finished training.
    """
    for run in list_runs(runs):
        if run.weights:
            return run
    raise RunError(f"No model is named and there is no trained run in '{runs}'.",
                   "Run `medvqa quickstart` or `medvqa train sft` first, or name a run (--run) or a model (--model).")


def now() -> str:
    """Return the time as ISO 8601, UTC, microseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat()


def describe_environment() -> dict[str, Any]:
    """Return versions, hardware and git commit, for the manifest."""
    return {
        "medvqa": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git_commit": _git_commit(),
        "command": " ".join(sys.argv),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)  # noqa: S607
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None

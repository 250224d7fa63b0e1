"""The command line in one process, away from the user's settings, with workflows that only record their calls."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from medvqa_cli import plugins
from medvqa_cli.cli.app import app
from medvqa_cli.reporting.estimates import CONFIDENCE_TERMS
from medvqa_cli.runs import Run, create_run
from medvqa_cli.settings.schema import make_settings, to_tree
from medvqa_cli.workflows import rescoring  # noqa: F401 - imports the real workflows before they are replaced


@dataclass
class QuickstartResult:
    """As the quickstart returns it."""

    run: Run
    report: Path
    table: list[tuple[str, str, str]]
    seconds: float


CALIBRATION = {"intervals": {}, "bin_data": [], "num_questions": 2, "num_samples": 100, "ece": 0.125,
               "method": "sampling",
               "protocol": dict.fromkeys(CONFIDENCE_TERMS) | {"dataset": "slake", "split": "test", "inference": {},
                                                              "rules": {}}}


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """Run in an empty folder, without settings from outside; loose plugins and variables do not outlive the test."""
    for name in [name for name in os.environ if name.startswith("MEDVQA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MEDVQA_CONFIG_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.chdir(tmp_path)
    for registry in plugins.REGISTRIES.values():
        monkeypatch.setattr(registry, "_loose", {})
    return tmp_path


@pytest.fixture
def medvqa() -> Callable[..., Result]:
    """Call the command line: `medvqa("data", "list")`."""
    def call(*arguments: str) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="medvqa")

    return call


@pytest.fixture
def document(medvqa) -> Callable[..., Any]:
    """Call the command line with --json and return the document."""
    def call(*arguments: str) -> Any:
        result = medvqa(*arguments, "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    return call


@pytest.fixture
def make_run(tmp_path) -> Callable[..., Run]:
    """Make a run below ./runs: `make_run("a", dataset="slake", trained=True, answered=True)`."""
    def make(name: str, *, dataset: str = "demo", trained: bool = True, answered: bool = False, **settings: Any) -> Run:
        run = create_run(tmp_path / "runs", name)
        run.settings.write_text(json.dumps(to_tree(make_settings({"data": {"dataset": dataset}, **settings}))))
        run.update_manifest(data={"dataset": dataset}, model={"family": "llava"})
        if trained:
            (run.path / "model").mkdir()
        if answered:
            (run.path / "predictions.jsonl").write_text("")
        return run

    return make


@pytest.fixture
def workflows(monkeypatch, tmp_path) -> list[SimpleNamespace]:
    """Replace the workflows by functions that note how they were called."""
    calls: list[SimpleNamespace] = []

    def fake(name: str, answer: Any) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            calls.append(SimpleNamespace(job=name, arguments=arguments, **keywords))
            return answer
        return call

    run = Run(tmp_path / "elsewhere" / "fake")
    answers = {
        "train": {"train_sft": run}, "infer": {"infer_split": run, "infer_image": []},
        "evaluate": {"evaluate_answers": {"accuracy": 0.5}}, "calibrate": {"evaluate_calibration": (run, CALIBRATION)},
        "report": {"write_report": run.report},
        "quickstart": {"run_quickstart": QuickstartResult(run, run.report, [("Closed", "0.95", "0.5 guessed")], 65.0)},
    }
    run.path.mkdir(parents=True)
    run.update_manifest(created="2000-01-01")
    for module, functions in answers.items():
        fakes = SimpleNamespace(**{name: fake(name, answer) for name, answer in functions.items()})
        monkeypatch.setitem(sys.modules, f"medvqa_cli.workflows.{module}", fakes)
    return calls

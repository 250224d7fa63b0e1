"""README's commands run as written; those that cannot say what they need."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from medvqa_cli.cli.app import app

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- (run|ci|needs)(?:: ([^>]*))? -->\s*```bash\n(.*?)```", re.DOTALL)
SHELL_BLOCK = re.compile(r"```(?:bash|console|sh)\n(.*?)```", re.DOTALL)


def commands(mark: str) -> list[str]:
    return [line for kind, _, body in BLOCK.findall(README) if kind == mark for line in body.strip().splitlines()]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the quick start has been run."""
    folder = tmp_path_factory.mktemp("readme")
    done = run("medvqa quickstart --quick", folder)
    assert done.returncode == 0, done.stderr
    assert "Report:" in done.stdout
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command)
    assert words[0] == "medvqa"
    environment = {**os.environ, "XDG_CONFIG_HOME": str(folder / "config"), "COLUMNS": "100", "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-m", "medvqa_cli", *words[1:]], cwd=folder, env=environment, text=True,
                          capture_output=True, timeout=300, check=False)


def test_every_shell_block_says_whether_it_runs_here():
    assert len(SHELL_BLOCK.findall(README)) == len(BLOCK.findall(README))


def test_the_set_up_is_one_line_each_in_its_own_environment():
    lines = commands("ci")
    assert len(lines) == 2
    assert all(line.startswith("python3 -m venv .venv && .venv/bin/pip install") for line in lines)
    assert lines[0].endswith(".venv/bin/medvqa quickstart")
    assert lines[1].endswith("pytest -q -n 2")


@pytest.fixture
def call(home, monkeypatch) -> Callable[[str], Result]:
    """Call a command in this process: a new one would import torch again for each."""
    monkeypatch.setattr(os, "environ", {**os.environ, "XDG_CONFIG_HOME": str(home / "config"), "COLUMNS": "100"})
    monkeypatch.chdir(home)

    def make(command: str) -> Result:
        words = shlex.split(command.replace("examples/", f"{REPOSITORY}/examples/"))
        assert words[0] == "medvqa"
        return CliRunner().invoke(app, words[1:], prog_name="medvqa")

    return make


def test_the_commands_run(call):
    """The data commands come first: they make the demo's files that the image command reads."""
    lines = sorted(commands("run"), key=lambda line: not line.startswith("medvqa data"))
    assert len(lines) > 10
    for line in lines:
        typed = re.sub(r"(?<!medvqa )\bquickstart\b", "quickstart-quick", line)
        done = call(typed)
        assert done.exit_code == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr


def test_the_commands_that_need_something_parse(call):
    """Each stops, if it stops, at what it needs: never at its own spelling (exit code 2)."""
    for line in commands("needs"):
        for command in line.split(" && "):
            done = call(command + (" --dry-run" if "train" in command else ""))
            allowed = (1,) if "sanity-check" in command else (0, 4, 5, 7)  # a failed check is what it reports
            assert done.exit_code in allowed, f"{command}\n{done.stderr}"


def test_the_python_example_runs(home, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    monkeypatch.chdir(home)
    exec(code, {})
    assert "report.html" in capsys.readouterr().out


def test_the_file_tree_names_what_is_there():
    for name in re.findall(r"^  (\w+)/  ", README, re.MULTILINE):
        assert (REPOSITORY / "medvqa_cli" / name).is_dir(), name

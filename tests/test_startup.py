"""What a fresh process imports before it has something to do, and what that costs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "datasets", "numpy", "pydantic", "PIL", "peft", "pyarrow", "matplotlib", "yaml")
PROBE = f"""
import sys
from medvqa_cli.__main__ import main
sys.argv = ["medvqa", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    code = end.code
print("CODE", code, "LOADED", sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)
"""


def probe(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "100", **variables}
    return subprocess.run([sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, check=False,
                          env=environment, timeout=60)


@pytest.mark.parametrize("arguments", [
    ("--help",), ("--version",), ("train", "sft", "--help"), ("data", "list"), ("models", "list", "--json"),
    ("plugins", "list"), ("runs", "list"),
])
def test_help_and_listings_import_nothing_heavy(arguments, tmp_path):
    done = probe(*arguments, MEDVQA_CONFIG_HOME=str(tmp_path), MEDVQA_PATHS__RUNS=str(tmp_path))
    assert done.stderr.splitlines()[-1] == "CODE 0 LOADED []"


@pytest.mark.parametrize("words", ["medvqa tra", "medvqa train sft --dataset ", "medvqa train sft --model l",
                                   "medvqa infer --run ", "medvqa infer --split "])
def test_completion_imports_nothing_heavy(words, tmp_path):
    parts = words.split(" ")
    done = probe(_MEDVQA_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(parts) - 1),
                 MEDVQA_CONFIG_HOME=str(tmp_path), MEDVQA_PATHS__RUNS=str(tmp_path))
    assert done.stderr.splitlines()[-1] == "CODE 0 LOADED []"
    if "--run" not in words:
        assert done.stdout.split(), "there is something to complete"


def test_the_probe_sees_a_heavy_import(tmp_path):
    """`config show` needs pydantic: were the probe blind, the tests above would prove nothing."""
    done = probe("config", "show", MEDVQA_CONFIG_HOME=str(tmp_path))
    assert done.stderr.splitlines()[-1] == "CODE 0 LOADED ['pydantic']"


def test_the_python_api_imports_no_framework():
    code = f"import sys, medvqa_cli.workflows; print(sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"

"""Reading a plugin's name and card must be quick: its file imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "datasets", "numpy", "pydantic", "PIL", "pyarrow")


@pytest.mark.parametrize("name", ["slake", "vqa_rad", "path_vqa", "vqa_med_2019", "pmc_vqa", "table", "conversations"])
def test_a_plugin_file_imports_nothing_heavy(name, repository):
    code = (f"import sys; from medvqa_cli.data.sources.{name} import PLUGIN; assert PLUGIN.card.title; "
            f"print(*(set(sys.modules) & {set(HEAVY)!r}))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repository, check=True)
    assert done.stdout.split() == []

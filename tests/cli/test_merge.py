"""`medvqa merge` as it is typed."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from medvqa_cli.errors import ModelError


@pytest.fixture
def merges(monkeypatch):
    """Replace the workflow by one that notes its calls."""
    calls = []

    def merge_adapter(settings, source, output, **options):
        if source == "bad":
            raise ModelError("The merged model does not answer as the adapted one.", "Merge in float32.")
        options.pop("progress")
        calls.append((settings, source, output, options))
        return {"output": f"/abs/{output}", "dtype": "float32"}

    monkeypatch.setitem(sys.modules, "medvqa_cli.workflows.merge", SimpleNamespace(merge_adapter=merge_adapter))
    return calls


def test_every_flag_reaches_the_workflow(medvqa, merges):
    result = medvqa("merge", "tuned", "--output", "out", "--base", "llava", "--overwrite", "--dtype", "bfloat16",
                    "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    settings, source, output, options = merges[0]
    assert (source, output, options) == ("tuned", "out", {"base": "llava", "overwrite": True})
    assert (settings.model.dtype, settings.model.device) == ("bfloat16", "cpu")
    assert "Merged: /abs/out. Next: medvqa infer --model /abs/out" in result.stderr


def test_json_is_the_record(medvqa, merges):
    result = medvqa("merge", "tuned", "--output", "out", "--json")
    assert json.loads(result.stdout) == {"output": "/abs/out", "dtype": "float32"}
    assert merges[0][3] == {"base": None, "overwrite": False}


def test_a_failed_check_is_an_error(medvqa, merges):
    result = medvqa("merge", "bad", "--output", "out")
    assert result.exit_code == 5
    assert result.stderr.startswith("error: The merged model does not answer as the adapted one.\nhint: ")
    assert merges == []


def test_the_output_must_be_named(medvqa, merges):
    result = medvqa("merge", "tuned")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: Where to write the merged model is not said.\nhint: Name a folder with "
                                    "--output.")
    assert merges == []

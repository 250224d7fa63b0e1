"""`medvqa convert llava-med SRC DST`."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.models.original_llava_med import write_original


@pytest.fixture
def calls(monkeypatch):
    found = []

    def convert(*arguments, **keywords):
        found.append((arguments, keywords))
        return {"checkpoint": "dst", "files": ["model.safetensors"]}

    monkeypatch.setitem(sys.modules, "medvqa_cli.workflows.convert", SimpleNamespace(convert_checkpoint=convert))
    return found


def test_every_option_reaches_the_conversion(medvqa, calls):
    result = medvqa("convert", "llava-med", "src", "dst", "--vision-tower", "openai/clip", "--allow-pickle",
                    "--overwrite", "--max-shard-size", "2GB", "--revision", "v1")
    assert result.exit_code == 0, result.stderr
    ((arguments, keywords),) = calls
    keywords.pop("progress")
    assert arguments == ("src", Path("dst"))
    assert keywords == {"vision_tower": "openai/clip", "revision": "v1", "allow_pickle": True, "overwrite": True,
                        "max_shard_size": "2GB"}
    assert "Next: medvqa sanity-check --model dst" in result.stderr


def test_left_out_options_are_the_defaults(document, calls):
    assert document("convert", "llava-med", "src", "dst")["files"] == ["model.safetensors"]
    (_, keywords), = calls
    assert (keywords["vision_tower"], keywords["allow_pickle"], keywords["overwrite"], keywords["max_shard_size"]) == (
        None, False, False, "5GB")


def test_both_places_must_be_named(medvqa):
    result = medvqa("convert", "llava-med", "src")
    assert result.exit_code == 2
    assert "Missing argument 'DST'" in result.stderr


def test_a_conversion_from_the_command_line(medvqa, document, tmp_path):
    write_original(tmp_path / "src")
    report = document("convert", "llava-med", str(tmp_path / "src"), "dst")
    assert report["added_tokens"] == ["<image>", "<pad>"]
    assert (tmp_path / "dst" / "model.safetensors").is_file()
    again = medvqa("convert", "llava-med", str(tmp_path / "src"), "dst")
    assert again.exit_code == 5
    assert "There is a checkpoint in 'dst' already." in again.stderr
    assert "--overwrite" in again.stderr

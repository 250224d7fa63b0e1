"""Runs, tags and files are found; what differs in how they were asked is told."""

from __future__ import annotations

import json

import pytest

from medvqa_cli.errors import RunError, SettingsError
from medvqa_cli.records import Prediction, VQASample, write_json, write_jsonl
from medvqa_cli.runs import create_run
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.compare import compare_runs


@pytest.fixture
def settings(tmp_path):
    """Two runs: one right everywhere, one on half the questions; the first has blank answers too."""
    def write(run, name, answers, **meta):
        rows = [Prediction(sample=VQASample(dataset="d", split="test", question_id=str(n), image_id=str(n // 2),
                                            question=f"{n}?", answer="yes", answer_type="closed"), answer=answer)
                for n, answer in enumerate(answers)]
        write_jsonl(run.path / f"{name}.jsonl", rows)
        write_json(run.path / f"{name}.meta.json", meta)

    first, second = (create_run(tmp_path / "runs", name) for name in ("good", "poor"))
    write(first, "predictions", ["yes"] * 8, decoding={"temperature": 0.0}, blank_images=False)
    write(first, "predictions-blank", ["no"] * 8, decoding={"temperature": 0.0}, blank_images=True)
    write(second, "predictions", ["yes", "no"] * 4, decoding={"temperature": 0.0}, blank_images=False)
    return make_settings({"paths": {"runs": str(tmp_path / "runs")}})


def test_runs_tags_and_files_are_compared(settings, tmp_path):
    file = str(tmp_path / "runs" / "poor" / "predictions.jsonl")
    result = compare_runs(settings, ["good", "good:blank", file], output=tmp_path / "out.json")
    assert [(row["second"], row["difference"]) for row in result["comparisons"]] == [("good:blank", -1.0), (file, -0.5)]
    assert result["differences"] == {"good:blank": ["blank_images differs"], file: []}
    assert json.loads((tmp_path / "out.json").read_text())["n"] == 8


@pytest.mark.parametrize(("names", "slices", "error", "text"), [
    (["good"], [], SettingsError, "1 system is named"), (["good", "good"], [], SettingsError, "1 system is named"),
    (["good", "poor"], ["colour"], SettingsError, "'colour' is no slice"),
    (["good", "bad"], [], RunError, "There is no run 'bad'"),
    (["good", "poor:blank"], [], RunError, "has no predictions-blank.jsonl"),
])
def test_what_cannot_be_compared(settings, names, slices, error, text):
    with pytest.raises(error, match=text):
        compare_runs(settings, names, slices=slices)

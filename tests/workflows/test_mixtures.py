"""Mixtures from a file to a training run: loaded, checked, drawn, and every batch begun as the file says."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from medvqa_cli.errors import DataError, PluginError, SettingsError
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.training.order import TrainingOrder
from medvqa_cli.workflows.mixtures import check_mixture, fingerprint_mixture, load_mixture
from medvqa_cli.workflows.train import train_sft
from tests.data.builders import build_rad, build_slake
from tests.workflows.conftest import TREE, merge

FILE = """
groups:
  - {name: rad, datasets: [mine], weight: 3}
  - {name: organs, datasets: [slake], weight: 1, mandatory: true, language: en}
size: 40
seed: 5
datasets:
  mine: {reader: vqa_rad, root: rad, options: {closed: yes_no}}
"""


@pytest.fixture
def mix(tmp_path):
    """Settings for a mixture of two small data sets, one of them declared in the file alone."""
    build_rad(tmp_path / "rad")
    root = build_slake(tmp_path / "slake")
    (tmp_path / "mix.yaml").write_text(FILE, encoding="utf-8")

    def build(text: str = FILE, **sections):
        (tmp_path / "mix.yaml").write_text(text, encoding="utf-8")
        tree = {"data": {"mixture": str(tmp_path / "mix.yaml")}, "aliases": {"roots": {"slake": str(root)}},
                "paths": {"prepared": str(tmp_path / "prepared"), "runs": str(tmp_path / "runs")}}
        return make_settings(merge(tree, **sections))

    return build


def test_data_sets_are_drawn_by_weight_and_mandatory_ones_begin_a_block(mix):
    mixed = load_mixture(mix(), block=4)
    assert len(mixed.samples) == 40
    assert mixed.has_mandatory
    assert {sample.dataset for sample in mixed.samples[::4]} == {"slake"}
    assert {sample.language for sample in mixed.samples} == {"en"}
    counts = Counter(sample.dataset for sample in mixed.samples)
    assert {group["name"]: group["drawn"] for group in mixed.report["groups"]} == {
        "rad": counts["mine"], "organs": counts["slake"]}
    assert [group["wanted"] for group in mixed.report["groups"]] == pytest.approx([0.75 * 0.75, 0.25 + 0.75 * 0.25])
    assert [source["dataset"] for source in mixed.report["datasets"]] == ["mine", "slake"]
    again = load_mixture(mix(), block=4)
    assert again.samples == mixed.samples
    assert fingerprint_mixture(again.report) == fingerprint_mixture(mixed.report)
    other = load_mixture(mix(FILE.replace("seed: 5", "seed: 6")), block=4)
    assert fingerprint_mixture(other.report) != fingerprint_mixture(mixed.report)


def test_blocks_keep_together_what_was_drawn_together(mix):
    samples = load_mixture(mix(), block=4).samples
    blocks = list(TrainingOrder(samples, 32, seed=0, block=4))
    assert len(blocks) == 10
    drawn = [sorted(sample.question_id for sample in samples[start: start + 4]) for start in range(0, 40, 4)]
    found = [sorted(sample.question_id for group in block for sample in group) for block in blocks]
    assert sorted(found) == sorted(drawn)
    for block in blocks:
        assert all(len({sample.images for sample in group}) == 1 for group in block)
        assert "slake" in {sample.dataset for group in block for sample in group}
    assert {len(block) for block in TrainingOrder(samples, 32, seed=0)} == {1}


def test_each_data_set_is_checked(mix, tmp_path):
    check = check_mixture(mix())
    assert check.state == "passed"
    assert any(warning.startswith("mine: 2 of 2 images of 'test' are also in 'train'") for warning in check.warnings)
    never = mix(data={"analyze": "never"})
    assert check_mixture(never).state == "passed"
    (tmp_path / "prepared" / "slake" / "analysis.json").unlink()
    with pytest.raises(DataError, match="DATA ANALYSIS NOT FOUND: 'slake'"):
        check_mixture(never)


def test_a_run_is_trained_on_a_mixture(mix, monkeypatch, tmp_path):
    settings = mix(model=TREE["model"], train={"max_steps": 4, "batch_size": 4}, infer=TREE["infer"])
    run = train_sft(settings, name="mixed")
    data = json.loads(run.manifest.read_text())["data"]
    assert (data["dataset"], data["train_questions"], data["check"]) == ("a mixture", 40, "passed")
    assert data["mixture"]["groups"][1]["name"] == "organs"
    assert any("are also in 'train'" in warning for warning in data["warnings"])
    assert json.loads(run.settings.read_text())["data"]["mixture"] == str(tmp_path / "mix.yaml")


@pytest.mark.parametrize(("old", "new", "error", "text"), [
    ("datasets: [slake]", "datasets: [slakee]", PluginError, "slakee"),
    ("weight: 3", "wieght: 3", SettingsError, "wieght"),
    ("language: en", "language: de", DataError, "de"),
])
def test_wrong_files_are_one_clear_error(mix, old, new, error, text):
    with pytest.raises(error) as caught:
        load_mixture(mix(FILE.replace(old, new)))
    assert text in str(caught.value)
    assert caught.value.hint


def test_a_name_declared_twice_is_refused(mix):
    with pytest.raises(SettingsError, match=r"mix\.yaml declares the data set 'mine', which the settings declare too"):
        load_mixture(mix(datasets={"mine": {"reader": "vqa_rad"}}))


def test_a_mixture_must_be_named():
    with pytest.raises(SettingsError, match="No mixture is named"):
        load_mixture(make_settings({}))

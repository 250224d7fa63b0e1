"""What is checked without a model."""

from __future__ import annotations

import pytest

from medvqa_cli import plugins
from medvqa_cli.errors import DataError, ModelError, PluginError, SettingsError
from medvqa_cli.progress import SILENT
from medvqa_cli.scoring import calibration
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.checks.basics import check_configs, check_metrics, check_plugins, check_samples, list_basics
from medvqa_cli.workflows.checks.outcome import FaultError


def test_a_broken_plugin_is_named_with_its_cause(monkeypatch):
    monkeypatch.setattr(plugins.models, "failure", lambda name: f"'{name}' is broken." if name == "llava" else "")
    with pytest.raises(FaultError) as caught:
        check_plugins()
    assert caught.value.message == "'llava' is broken."


def test_a_wrong_metric_is_found(monkeypatch):
    assert check_metrics().startswith("yes/no parsing, exact match")
    monkeypatch.setattr(calibration, "expected_calibration_error", lambda bins: 0.5)
    with pytest.raises(FaultError, match=r"calibration error: expected 0\.15, found 0\.5"):
        check_metrics()


def test_names_in_settings_must_lead_somewhere():
    assert check_configs(make_settings({"model": {"name": "llava"}})) == (
        "data set demo, model llava-hf/llava-1.5-7b-hf")
    assert check_configs(make_settings({"model": {"family": "llava"}})) == "data set demo, family llava"
    with pytest.raises(PluginError, match="Unknown data set 'slak'. Did you mean 'slake'"):
        check_configs(make_settings({"data": {"dataset": "slak"}}))
    with pytest.raises(ModelError, match="Unknown model 'lava'"):
        check_configs(make_settings({"model": {"name": "lava"}}))
    with pytest.raises(SettingsError, match="prompt"):
        check_configs(make_settings({"prompt": {"template": "{nothing}"}}))


def test_steps_can_be_chosen():
    settings = make_settings({})
    assert [step.name for step in list_basics(settings, settings, SILENT, ("data", "configs"))] == ["configs", "data"]
    assert len(list_basics(settings, settings, SILENT)) == 4


def test_the_first_picture_is_read(tmp_path):
    settings = make_settings({"data": {"options": {"train_images": 1, "validation_images": 1, "test_images": 1,
                                                   "size": 32, "questions": 3}},
                              "paths": {"prepared": str(tmp_path)}})
    assert check_samples(settings, SILENT) == "demo: 3 test questions; the first picture is 32 x 32 pixels"
    next((tmp_path / "demo").rglob("test_*.png")).write_bytes(b"no picture")
    with pytest.raises(DataError, match="test_.*png"):
        check_samples(settings, SILENT)

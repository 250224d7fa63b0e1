"""What is cheap to check is checked before data are read or a model is loaded."""

from __future__ import annotations

import pytest

from medvqa_cli.errors import DataError, MedVQAError, ModelError, PluginError, RunError
from medvqa_cli.runs import create_run
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows import infer, train
from medvqa_cli.workflows.infer import infer_image, infer_split
from medvqa_cli.workflows.models import choose_model
from medvqa_cli.workflows.train import train_sft


@pytest.fixture
def settle(tmp_path, monkeypatch):
    """Make settings; reading any data is an error that is no user's."""
    def read(*_arguments, **_keywords):
        raise AssertionError("data are read")

    for module, name in ((train, "check_training_data"), (train, "load_training_data"), (infer, "load_samples")):
        monkeypatch.setattr(module, name, read)

    def settle(**sections):
        return make_settings({"paths": {"runs": str(tmp_path / "runs"), "prepared": str(tmp_path / "prepared")},
                              **sections})

    return settle


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(("model", "error", "message"), [
    ({"name": "nonsuch"}, ModelError, "Unknown model 'nonsuch'."),
    ({}, ModelError, "No model is named."),
    ({"name": "lava", "scratch": True}, PluginError, "Unknown model family 'lava'. Did you mean 'llava'?"),
    ({"name": "llava", "scratch": True, "options": {"depth": 3}}, MedVQAError,
     "Unknown setting 'model.options.depth'."),
])
def test_a_model_is_looked_for_before_data_are_read(settle, model, error, message, dry_run):
    with pytest.raises(error) as caught:
        train_sft(settle(model=model), dry_run=dry_run)
    assert caught.value.message == message


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_taken_name_is_refused_before_data_are_read(settle, tmp_path, dry_run):
    create_run(tmp_path / "runs", "q")
    with pytest.raises(RunError, match="There is a run 'q' in .* already"):
        train_sft(settle(model={"name": "llava"}), name="q", dry_run=dry_run)


def test_a_folder_of_runs_that_cannot_be_made_is_said_before_data_are_read(settle, tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunError, match="The folder of runs '.*' cannot be made: File exists"):
        train_sft(settle(model={"name": "llava"}))


@pytest.mark.parametrize(("sections", "error", "message"), [
    ({"model": {"name": "nonsuch"}}, ModelError, "Unknown model 'nonsuch'."),
    ({"model": {"name": "llava"}, "infer": {"calibrator": "nope.json"}}, DataError, "nope.json"),
])
def test_to_answer_names_are_looked_at_before_data_are_read(settle, sections, error, message):
    with pytest.raises(error) as caught:
        infer_split(settle(**sections))
    assert message in caught.value.message


def test_a_picture_that_is_missing_is_no_matter_of_a_data_set(settle, tmp_path):
    with pytest.raises(DataError) as caught:
        infer_image(settle(model={"name": "llava"}), tmp_path / "none.png", ["What?"])
    assert caught.value.message == f"The image '{tmp_path / 'none.png'}' is missing."
    assert caught.value.hint.startswith("Name a picture with --image")


def test_an_unknown_model_is_told_the_few_near_it(settle):
    with pytest.raises(ModelError) as caught:
        choose_model(settle(model={"name": "lava-next"}))
    assert caught.value.message == "Unknown model 'lava-next'. Did you mean 'llava_next'?"
    near = caught.value.hint.partition(". ")[0].removeprefix("Near it are also: ").split(", ")
    assert 1 <= len(near) <= 4
    assert caught.value.hint.endswith("`medvqa models list` shows all; a folder or a hub id such as org/name will do "
                                      "too.")

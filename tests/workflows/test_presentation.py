"""What the model is shown: masked images and facts, decided by settings, stated beside every number."""

from __future__ import annotations

import dataclasses
import json

import pytest

from medvqa_cli.errors import DataError, SettingsError
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.data import choose_samples, load_presented, load_samples, prepare_data
from medvqa_cli.workflows.evaluate import evaluate_answers
from medvqa_cli.workflows.infer import infer_split
from medvqa_cli.workflows.report import write_report
from medvqa_cli.workflows.train import train_sft
from tests.data.builders import Notes, build_slake
from tests.workflows.conftest import TREE, merge


@pytest.fixture
def slake(tmp_path):
    def build(**sections):
        root = tmp_path / "slake"
        if not root.exists():
            build_slake(root)
        tree = {"data": {"dataset": "slake", "root": str(root)}, "paths": {"prepared": str(tmp_path / "prepared")}}
        return make_settings(merge(tree, **sections))

    return build


def test_nothing_is_changed_unless_asked_for(slake):
    assert load_samples(slake(), "train") == choose_samples(slake(), "train")


def test_masked_images_are_files_of_the_store(slake, tmp_path):
    presented = load_presented(slake(mask={"mode": "crop"}), "train")
    before = choose_samples(slake(), "train")
    assert [sample.image_id for sample in presented.samples] == [sample.image_id for sample in before]
    crop = presented.samples[0].images[0]
    assert crop.startswith(str(tmp_path / "prepared" / "slake" / "masked"))
    assert presented.notes["mask"]["questions"] == 2
    assert presented.notes["mask"]["privileged"] is True
    assert presented.notes["mask"]["note"] in presented.warnings
    assert load_samples(slake(mask={"mode": "crop"}), "train") == presented.samples


def test_training_needs_masks_and_other_uses_warn(slake):
    settings = slake(mask={"mode": "masked"}, data={"language": "en"})
    prepare_data(settings)
    samples = choose_samples(settings, "test")
    assert not any(sample.boxes for sample in samples)
    for sample in samples:
        for mask in sample.masks:
            from PIL import Image

            Image.new("L", (20, 10), 0).save(mask)
    with pytest.raises(DataError, match=r"0 of 2 questions"):
        load_presented(settings, "test", require_hits=True)
    notes = Notes()
    presented = load_presented(settings, "test", notes)
    assert presented.samples == samples
    assert len(notes.warnings) == 1
    assert notes.warnings[0] in presented.warnings


def test_facts_stand_before_the_question(slake, tmp_path):
    plain = load_samples(slake(), "train")
    informed = load_presented(slake(knowledge={"mode": "record"}), "train")
    assert [dataclasses.replace(sample, context=()) for sample in informed.samples] == plain
    assert informed.samples[1].context
    assert informed.notes["knowledge"]["privileged"] is True
    with pytest.raises(DataError, match="KG"):
        load_samples(slake(knowledge={"mode": "graph"}), "train")


def test_a_wrong_template_is_found_before_a_model_is_loaded(slake):
    with pytest.raises(SettingsError, match="question"):
        load_samples(slake(prompt={"template": "no field"}), "train")


def test_a_masked_run_states_it_beside_its_numbers(tmp_path):
    tree = merge(TREE, mask={"mode": "crop"}, train={"max_steps": 3, "eval_fraction": 0.0},
                 paths={"prepared": str(tmp_path / "prepared"), "runs": str(tmp_path / "runs")})
    settings = make_settings(tree)
    run = train_sft(settings, name="cropped")
    data = json.loads(run.manifest.read_text())["data"]
    assert data["mask"]["mode"] == "crop"
    assert 0 < data["mask"]["hit_rate"] <= 1
    note = data["mask"]["note"]
    assert note in data["warnings"]
    infer_split(settings, run="cropped")
    metrics = evaluate_answers(run, settings)
    assert note in metrics["protocol"]["inference"]["data_warnings"]
    assert metrics["protocol"]["inference"]["presentation"]["mask"]["questions"] == metrics["overall"]["n"]
    infer_split(make_settings(merge(tree, mask={"mode": "none"})), run="cropped")
    assert (run.path / "predictions-mask-none.jsonl").is_file()
    assert note in write_report(run).read_text(encoding="utf-8")

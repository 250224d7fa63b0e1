"""Answers of trust controls: what the model was shown, told in the rows and beside them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from medvqa_cli.errors import DataError, ModelError, RunError, SettingsError
from medvqa_cli.inference.protocol import Intake
from medvqa_cli.records import VQASample, read_jsonl, write_json
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.asking import ask, identify, plan_portions
from medvqa_cli.workflows.infer import check_control, infer_image, infer_split
from tests.workflows.conftest import merge


def change(settings, **sections):
    return make_settings(merge(settings.model_dump(mode="json"), **sections))


def read_rows(run, name):
    return {row["sample"]["question_id"]: row["sample"] for row in read_jsonl(run.path / f"predictions-{name}.jsonl")}


def test_each_control_has_a_file_and_states_what_was_shown(own_run):
    settings, run = own_run
    for control in ("shuffled", "text-only"):
        infer_split(change(settings, infer={"control": control}), run="small")
        assert run.read_json(f"predictions-{control}.meta.json")["control"] == control
    bare, shuffled = read_rows(run, "text-only"), read_rows(run, "shuffled")
    assert bare.keys() == shuffled.keys()
    assert not any("images" in sample for sample in bare.values())
    shown = {}
    for sample in shuffled.values():
        shown.setdefault(sample["image_id"], set()).add(*sample["images"])
    assert [len(images) for images in shown.values()] == [1] * 4
    assert len(set().union(*shown.values())) == 4
    with pytest.raises(RunError, match="made with another control: 'shuffled', now 'text-only'"):
        infer_split(change(settings, infer={"control": "text-only"}), run="small", tag="shuffled")


def test_rows_of_a_version_without_controls_are_gone_on_with(own_run):
    settings, run = own_run
    blank = change(settings, infer={"blank_images": True}, data={"limit": 6})
    infer_split(blank, run="small")
    side = run.read_json("predictions-blank.meta.json")
    del side["control"], side["option_rotation"]
    write_json(run.path / "predictions-blank.meta.json", side)
    infer_split(change(blank, infer={"blank_images": False, "control": "blank"}), run="small")
    side["blank_images"] = False
    write_json(run.path / "predictions-blank.meta.json", side)
    with pytest.raises(RunError, match="another blank_images: False, now True"):
        infer_split(blank, run="small")


def test_a_picture_alone_cannot_be_shuffled(own_run, tmp_path):
    settings, _ = own_run
    with pytest.raises(SettingsError, match="no other to be shuffled with"):
        infer_image(change(settings, infer={"control": "shuffled"}), tmp_path / "x.png", ["What?"], run="small")


def test_two_controls_at_once_contradict_each_other():
    with pytest.raises(SettingsError, match="shows a grey picture, but infer.control is 'shuffled'"):
        make_settings({"infer": {"blank_images": True, "control": "shuffled"}})


def test_options_that_nothing_shows_cannot_be_moved_on(own_run):
    settings, _ = own_run
    with pytest.raises(DataError, match="No question shows more than 9 options"):
        infer_split(change(settings, infer={"option_rotation": 9}), run="small")


@pytest.mark.parametrize(("family", "refused"), [("paligemma", True), ("llava", False), (None, False)])
def test_a_family_that_needs_an_image_is_not_asked_without_one(family, refused):
    engine = SimpleNamespace(facts={"family": family} if family else {})
    settings = make_settings({"infer": {"control": "text-only"}})
    if not refused:
        check_control(engine, settings)
        return
    with pytest.raises(ModelError, match="family 'paligemma' answers no question without an image"):
        check_control(engine, settings)
    check_control(engine, make_settings({"infer": {"control": "blank"}}))


def test_questions_of_two_data_sets_may_share_an_id():
    samples = [VQASample(dataset=name, split="test", question_id=str(number), image_id="i", question="?", answer="",
                         answer_type="open") for name in ("one", "other") for number in range(2)]
    engine = SimpleNamespace(intake=Intake(by_image=False))
    portions = plan_portions(engine, samples)
    asked = [identify(s) for portion, _ in ask(engine, samples[2:], list, portions=portions) for s in portion]
    assert asked == [("other", "test", "0"), ("other", "test", "1")]

"""Trust controls of a run: asked once, in the same way as the answers; told from files alone."""

from __future__ import annotations

import dataclasses

import pytest

from medvqa_cli.errors import RunError, SettingsError
from medvqa_cli.records import VQASample, read_jsonl, write_json, write_jsonl
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows import controls, models
from medvqa_cli.workflows.controls import answer_controls, read_controls
from medvqa_cli.workflows.evaluate import evaluate_answers
from medvqa_cli.workflows.infer import infer_split
from tests.inference.stand_in_server import StandIn, serve
from tests.workflows.conftest import merge


def change(settings, **sections):
    return make_settings(merge(settings.model_dump(mode="json"), **sections))


@pytest.fixture
def answered(own_run):
    """A run whose test split is answered."""
    settings, run = own_run
    infer_split(settings, run="small")
    return settings, run


def test_controls_are_asked_once_and_stand_beside_the_result(answered, listener, monkeypatch):
    settings, run = answered
    hurried = change(settings, infer={"max_new_tokens": 1}, prompt={"style": "short"}, data={"limit": 3})
    hurried = hurried.model_copy(update={"seed": 5})
    tags = answer_controls(run, hurried, ["blank", "text-only"], progress=listener)
    assert tags == ["blank", "text-only"]
    own, blank = run.read_json("predictions.meta.json"), run.read_json("predictions-blank.meta.json")
    assert {key for key in own if own[key] != blank[key]} == {"blank_images", "control", "created"}
    infer_split(change(settings, infer={"blank_images": True}), run="small", tag="typed")
    assert (run.path / "predictions-typed.jsonl").read_bytes() == (run.path / "predictions-blank.jsonl").read_bytes()
    monkeypatch.setattr(models, "load_choice", lambda *_: pytest.fail("the answers are there: no model is needed"))
    assert answer_controls(run, hurried, ["blank", "text-only"], progress=listener) == tags
    found = evaluate_answers(run, settings, progress=listener)["controls"]
    assert list(found["images"]) == ["blank", "text-only"]
    part = found["images"]["blank"]["closed"]["accuracy@medvqa"]
    evaluate_answers(run, settings, tag="blank")
    for side, name in (("own", "scores"), ("control", "scores-blank")):
        scores = [row["values"]["accuracy@medvqa"] for row in read_jsonl(run.path / f"{name}.jsonl")
                  if row["groups"]["answer_type"] == "closed"]
        assert part[side] == pytest.approx(sum(scores) / len(scores))
    assert found["question_text"]["closed"] == own["baselines"]["closed"]["same_question_text"]
    assert run.read_json("metrics.json")["answers"]["main"]["controls"] == found


def test_a_killed_control_is_finished(answered, listener):
    settings, run = answered
    answer_controls(run, settings, ["shuffled"], progress=listener)
    path = run.path / "predictions-shuffled.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    left = evaluate_answers(run, settings, progress=listener)["controls"]["images"]["shuffled"]["n"]
    assert 0 < left < 32
    assert any(f"predictions-shuffled.jsonl holds {left} of 32 answers" in line for line in listener.warnings)
    answer_controls(run, settings, ["shuffled"], progress=listener)
    assert path.read_bytes() == whole


def test_what_was_made_in_another_way_is_not_compared(answered, listener):
    settings, run = answered
    infer_split(change(settings, infer={"control": "blank", "max_new_tokens": 2}), run="small")
    with pytest.raises(RunError, match="and predictions-blank.jsonl differ in more than the control: decoding is") as e:
        answer_controls(run, settings, ["blank"], progress=listener)
    assert "--control NAME --overwrite" in e.value.hint
    assert evaluate_answers(run, settings, progress=listener)["controls"]["images"] == {}
    assert any("predictions-blank.jsonl was made in another way" in line and "(decoding)" in line
               for line in listener.warnings)


def test_answers_of_unknown_making_have_no_controls(answered, listener):
    settings, run = answered
    write_json(run.path / "predictions.meta.json", {"dataset": "demo", "split": "test"})
    with pytest.raises(RunError, match=r"does not tell how its answers were made \(model, decoding, prompt, seed\)"):
        answer_controls(run, settings, ["blank"], progress=listener)


def test_without_answers_there_is_nothing_to_control(own_run, listener):
    settings, run = own_run
    with pytest.raises(RunError, match="Run 'small' has no predictions.jsonl"):
        answer_controls(run, settings, ["blank"], progress=listener)


def test_controls_of_other_answers_are_left_out(answered, listener):
    """Answers of another tool take the place of the run's own: nothing tells that the same model gave them."""
    settings, run = answered
    answer_controls(run, settings, ["blank"], progress=listener)
    write_json(run.path / "predictions.meta.json", {"dataset": "demo", "split": "test"})
    assert evaluate_answers(run, settings, progress=listener)["controls"]["images"] == {}
    assert any("(model, decoding, prompt, seed): it is left out" in line for line in listener.warnings)


def test_a_control_has_no_controls_of_its_own(answered, listener):
    settings, run = answered
    answer_controls(run, settings, ["blank"], progress=listener)
    assert "controls" not in evaluate_answers(run, settings, tag="blank", progress=listener)
    with pytest.raises(SettingsError, match="The answers under --tag blank are those of a control"):
        answer_controls(run, settings, ["text-only"], tag="blank", progress=listener)


def test_option_orders_where_none_is_shown_are_said(answered, listener):
    settings, run = answered
    assert answer_controls(run, settings, [], orders=2, progress=listener) == []
    assert any("No question shows more than 1 options" in line for line in listener.warnings)
    assert evaluate_answers(run, settings, progress=listener)["controls"]["option_order"] is None


def test_orders_of_options_are_compared_question_by_question(answered, listener):
    settings, run = answered
    options = ("lung", "liver", "heart")
    for places, name in enumerate(("", "-options-1", "-options-2")):
        moved = (*options[places:], *options[:places])
        rows = [{"sample": dataclasses.asdict(VQASample(
            dataset="demo", split="test", question_id=str(number), image_id=str(number), question="Which?",
            answer="lung", answer_type="closed", options=moved)), "answer": "A"} for number in range(4)]
        write_jsonl(run.path / f"predictions{name}.jsonl", rows)
        write_json(run.path / f"predictions{name}.meta.json", {"split": "test", "option_rotation": places})
    order = evaluate_answers(run, settings, progress=listener)["controls"]["option_order"]
    assert (order["changed"]["value"], order["spread"], order["positions"]) == (1.0, 1.0, {"A": 1.0})


def test_wrong_names_and_numbers_are_refused(answered, listener):
    settings, run = answered
    assert read_controls("blank, shuffled,blank") == ["blank", "shuffled"]
    with pytest.raises(SettingsError, match="'grey' is no control") as failure:
        read_controls("blank,grey")
    assert "blank, shuffled, shuffled-modality, text-only" in failure.value.hint
    with pytest.raises(SettingsError, match="--option-orders is 27: it should be at most 26"):
        answer_controls(run, settings, [], orders=27, progress=listener)
    side = run.read_json("predictions.meta.json") | {"engine": "vllm"}
    write_json(run.path / "predictions.meta.json", side)
    with pytest.raises(SettingsError, match="vLLM loads a model once a process"):
        answer_controls(run, settings, ["blank", "shuffled"], progress=listener)


def test_a_family_that_needs_an_image_is_left_out_and_said(answered, listener, monkeypatch):
    from medvqa_cli.workflows import infer

    settings, run = answered
    monkeypatch.setattr(infer, "reads_questions", lambda *_: False)
    assert controls.answer_controls(run, settings, ["text-only"], progress=listener) == []
    assert any("Control 'text-only' is left out" in line for line in listener.warnings)


def test_options_are_asked_for_in_every_order(own_run, listener):
    settings, run = own_run
    shown = change(settings, prompt={"options": "always"})
    infer_split(shown, run="small")
    answer_controls(run, settings, [], orders=3, progress=listener)
    assert not (run.path / "predictions-options-2.jsonl").exists(), "no question of the demo has three options"
    files = [run.path / f"predictions{name}.jsonl" for name in ("", "-options-1")]
    own, moved = ({row["sample"]["question_id"]: row["sample"] for row in read_jsonl(file)} for file in files)
    assert moved
    assert all(sample["options"] == own[name]["options"][::-1] for name, sample in moved.items())
    order = evaluate_answers(run, settings, progress=listener)["controls"]["option_order"]
    assert (order["n"], order["orders"]) == (len(moved), 2)


def test_a_servers_answers_have_controls_too(own_run, listener, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serve(StandIn(reply=lambda question: "yes")) as server:
        settings = change(own_run[0], model={"name": "small", "scratch": False}, data={"limit": 10}, infer={
            "engine": "openai", "server": {"base_url": server.url, "retries": 0}})
        run = infer_split(settings)
        asked = len(server.requests)
        answer_controls(run, settings, ["shuffled", "text-only"], progress=listener)
        seen = [[part for part in request["messages"][-1]["content"] if isinstance(part, dict)]
                for request in server.requests]
        assert [len(parts) for parts in seen] == [2] * asked + [2] * 10 + [0] * 10
        found = evaluate_answers(run, settings, progress=listener)["controls"]["images"]
    assert [part["closed"]["accuracy@medvqa"]["survives"]["value"] for part in found.values()] == [1.0, 1.0]

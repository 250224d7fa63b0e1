"""Trust controls as people read them, from files made here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medvqa_cli.records import Prediction, VQASample, write_json, write_jsonl

WAY = {"split": "test", "model": {}, "decoding": {"max_new_tokens": 4, "temperature": 0.0}, "prompt": {}, "seed": 1}


def answer(number: int, text: str) -> Prediction:
    return Prediction(answer=text, sample=VQASample(
        dataset="d", split="test", question_id=str(number), image_id=str(number // 2), question="Is it?",
        answer="yes", answer_type="closed"))


@pytest.fixture
def answered(make_run):
    run = make_run("a")
    for name, right, told in (("", 8, {"baselines": {"closed": {"same_question_text": 0.6}, "open": None}}),
                              ("-blank", 4, {"blank_images": True})):
        write_jsonl(run.path / f"predictions{name}.jsonl", [answer(n, "yes" if n < right else "no") for n in range(10)])
        write_json(run.path / f"predictions{name}.meta.json", WAY | {"engine": "openai"} | told | {"expected": 10})
    return run


def test_controls_that_are_there_stand_beside_the_result(medvqa, document, answered):
    result = medvqa("eval", "answers", "--run", "a", "--resamples", "50")
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    row = next(line for line in lines if line[:2] == ["blank,", "closed:"])
    assert row[3:7] == ["10", "0.800", "0.400", "50"]
    assert ["10", "0.800", "0.600", "75", "%"] in [line[-5:] for line in lines]
    assert ("Collapse, closed questions: no: “yes” answers 80 % of 10; the most frequent gold answer 100 %."
            in result.stdout)
    found = document("eval", "answers", "--run", "a", "--resamples", "50", "--controls", "blank")["metrics"]["controls"]
    assert found["images"]["blank"]["closed"]["accuracy@medvqa"]["survives"]["value"] == 0.5


def test_a_model_that_does_not_look_is_warned_of(medvqa, document, make_run):
    """40 images; the control gives the same answers, to open questions none; the text alone gives more."""
    run = make_run("b")
    told = {"baselines": {"closed": {"majority": 0.7, "same_question_text": 0.9},
                          "open": {"majority": 0.1, "same_question_text": None}}}
    for name, facts in (("", told), ("-blank", {"blank_images": True})):
        rows = [answer(n, "yes" if n % 4 else "no") for n in range(80)]
        opened = [answer(100 + n, "") for n in range(20)]
        rows += [replace(row, sample=replace(row.sample, answer="lung", answer_type="open")) for row in opened]
        write_jsonl(run.path / f"predictions{name}.jsonl", rows)
        write_json(run.path / f"predictions{name}.meta.json", WAY | {"engine": "openai"} | facts | {"expected": 100})
    result = medvqa("eval", "answers", "--run", "b", "--resamples", "50")
    assert result.exit_code == 0, result.stderr
    warnings = document("eval", "answers", "--run", "b", "--resamples", "50")["metrics"]["warnings"]
    assert warnings[0].startswith("No sign that the model uses the image: with grey pictures its closed accuracy is "
                                  "0.750, with the right ones 0.750 (difference ")
    below = "lies below what the question's text alone gives:"
    assert warnings[1:] == [
        f"The closed accuracy of 0.750 {below} 0.900 with the most frequent training answer to the same question.",
        f"The open accuracy of 0.000 {below} 0.100 with the most frequent training answer."]
    assert all(f"warning: {text}" in result.stderr for text in warnings)
    assert "Empty answers: 20 % [" in result.stdout
    assert "Collapse, open questions: no: an empty text answers 100 % of 20" in result.stdout  # as are the gold answers


def test_wrong_controls_are_one_error(medvqa, answered):
    result = medvqa("eval", "answers", "--run", "a", "--controls", "grey")
    assert result.exit_code == 2
    assert "error: 'grey' is no control." in result.stderr
    result = medvqa("eval", "answers", "--run", "a", "--option-orders", "0")
    assert "error: --option-orders is '0': it should be a whole number of at least 1." in result.stderr


def test_a_diagnosis_is_a_folder_and_a_few_lines(medvqa, answered):
    result = medvqa("eval", "answers", "--run", "a", "--resamples", "20", "--diagnose", "--diagnose-examples", "1")
    assert result.exit_code == 0, result.stderr
    assert "Wrong: 2 closed and 0 open answers of 10." in result.stdout
    assert "Most frequent closed answers: 'yes' 8 times, 8 right; 'no' 2 times, 0 right." in result.stdout
    assert (answered.path / "diagnosis" / "diagnosis.json").is_file()
    assert len(list((answered.path / "diagnosis" / "errors").iterdir())) == 1


def test_a_judge_needs_a_server(medvqa, answered):
    result = medvqa("eval", "answers", "--run", "a", "--judge", "large")
    assert result.exit_code == 2
    assert "error: The judge 'large' needs a server." in result.stderr
    assert "hint: Name one with --judge-base-url" in result.stderr


def test_a_run_remembers_that_missing_images_are_left_out(document, make_run):
    make_run("b", data={"dataset": "demo", "missing_images": "skip"})
    for command in (("infer",), ("eval", "answers"), ("eval", "calibration")):
        assert document(*command, "--run", "b", "--dry-run")["settings"]["data.missing_images"] == "skip"

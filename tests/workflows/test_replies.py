"""Answers are read from replies where they are made, and how questions were put stays with them."""

from __future__ import annotations

import math

import pytest

from medvqa_cli.errors import RunError
from medvqa_cli.inference.protocol import Generation, Intake
from medvqa_cli.records import AnswerSample, VQASample, read_jsonl, write_json
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.calibrate import evaluate_calibration
from medvqa_cli.workflows.elicitation.sampling import draw_portion, read_answers
from medvqa_cli.workflows.infer import answer_samples, infer_split
from tests.data.builders import Notes
from tests.workflows.conftest import merge

THINK = make_settings({"prompt": {"style": "think"}})


@pytest.fixture
def progress() -> Notes:
    return Notes()


class Parrot:
    """An engine that gives set replies."""

    intake = Intake()

    def __init__(self, *replies: str) -> None:
        self.replies = replies

    def generate(self, samples, decoding):
        return [Generation(reply, -1.0, 3) for reply in self.replies]

    def sample(self, samples, count, decoding):
        return [tuple(AnswerSample(reply, 2, math.log(0.25)) for reply in self.replies) for _ in samples]


def make_samples(count: int, **values) -> list[VQASample]:
    return [VQASample(dataset="d", split="test", question_id=str(n), image_id="i", question="Is it?", answer="yes",
                      answer_type="closed", images=("/i.png",), **values) for n in range(count)]


def test_the_answer_is_read_from_the_reply_and_the_reply_is_kept(progress):
    engine = Parrot("<think>so</think><answer>yes</answer>", "no idea", "<answer>no</answer>")
    found = list(answer_samples(engine, make_samples(3), THINK, progress))
    assert [prediction.answer for prediction in found] == ["yes", "no idea", "no"]
    assert [prediction.text for prediction in found] == [engine.replies[0], "", engine.replies[2]]
    (line,) = progress.warnings
    assert line.startswith("1 of 3 replies are not in the form that prompt.style asks for")


def test_plain_answers_stay_as_they_are(progress):
    found = list(answer_samples(Parrot("B", "yes"), make_samples(2), make_settings(), progress))
    assert [(prediction.answer, prediction.text) for prediction in found] == [("B", ""), ("yes", "")]
    assert progress.warnings == []


def test_letters_become_the_options_they_stand_for(progress):
    samples = make_samples(2, options=("liver", "heart"))
    found = list(answer_samples(Parrot("B", "liver"), samples, make_settings(), progress))
    assert [(prediction.answer, prediction.text) for prediction in found] == [("heart", "B"), ("liver", "")]


def test_sampled_replies_with_one_answer_add_up(progress):
    written = (AnswerSample("<think>a</think><answer>no</answer>", 3, math.log(0.3)), AnswerSample("<think>", 2, None),
               AnswerSample("<think>b</think><answer>no</answer>", 1, math.log(0.1)),
               AnswerSample("<answer>yes</answer>", 4, math.log(0.4)))
    (sample,) = make_samples(1)
    answers, malformed = read_answers(written, sample, THINK)
    assert [(answer.text, answer.count) for answer in answers] == [("no", 4), ("yes", 4), ("<think>", 2)]
    assert [answer.logprob and round(math.exp(answer.logprob), 9) for answer in answers] == [0.4, 0.4, None]
    assert malformed == 2
    settings = make_settings({"prompt": {"style": "think"}, "calibration": {"samples": 4}})
    ((prediction, faults),) = draw_portion(Parrot("<answer>no</answer>", "hm"), settings, [sample])
    assert (prediction.answer, prediction.samples[0].count, faults) == ("hm", 2, 2)


def test_plain_sampled_answers_stay_as_they_are():
    written = (AnswerSample("yes", 3, -0.5), AnswerSample("no", 1, None), AnswerSample("maybe", 1, -math.inf))
    assert read_answers(written, make_samples(1)[0], make_settings()) == ((written[0], written[2], written[1]), 0)


def test_how_questions_were_put_is_part_of_the_job(own_run):
    settings, run = own_run
    infer_split(settings, run="small")
    evaluate_calibration(settings, run="small")
    styled = make_settings(merge(settings.model_dump(mode="json"), prompt={"style": "short"}))
    for work in (infer_split, evaluate_calibration):
        with pytest.raises(RunError, match="made with another prompt"):
            work(styled, run="small")
    assert run.read_json("predictions.meta.json")["prompt"]["style"] == "plain"
    assert run.read_json("samples.meta.json")["mask"]["mode"] == "none"


@pytest.mark.parametrize("name", ["predictions", "samples"])
def test_rows_of_an_older_version_are_taken_up(own_run, name):
    settings, run = own_run
    work = infer_split if name == "predictions" else evaluate_calibration
    work(settings, run="small")
    path = run.path / f"{name}.meta.json"
    new = run.read_json(path.name)
    old = {key: value for key, value in new.items() if key not in {"prompt", "mask", "knowledge", "question_type"}}
    rows = list(read_jsonl(run.path / f"{name}.jsonl"))
    write_json(path, old | {"instruction": ""})
    work(settings, run="small")
    assert list(read_jsonl(run.path / f"{name}.jsonl")) == rows
    write_json(path, old | {"instruction": "Be brief."})
    with pytest.raises(RunError, match="made with another prompt"):
        work(settings, run="small")

"""Confidence of answers as they are given: recalibrated, marked, refused where it cannot be had."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from medvqa_cli.errors import DataError, RunError, SettingsError
from medvqa_cli.evaluation.questions import classify_question
from medvqa_cli.records import Prediction, VQASample, prediction_from_json, read_jsonl, to_json
from medvqa_cli.scoring.recalibration import fit_calibrator, write_calibrator
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.abstaining import describe_doubt, open_doubt
from medvqa_cli.workflows.infer import infer_split

LEVELS = [0.9] * 10 + [0.6] * 10
HITS = [True] * 7 + [False] * 3 + [True] * 2 + [False] * 8


def answer(modality="", **facts):
    sample = VQASample(dataset="d", split="test", question_id="1", image_id="1", question="q?", answer="yes",
                       answer_type="closed", modality=modality)
    return Prediction(sample=sample, answer="yes", **facts)


def store(path, source, kinds=("yes_no",), **options):
    write_calibrator(path, fit_calibrator("histogram", LEVELS, HITS, kinds=kinds, source=source, **options))
    return {"calibrator": str(path)}


def doubt(**settings):
    return open_doubt(make_settings({"infer": settings}))


def test_nothing_is_said_unless_asked():
    assert doubt() is None
    assert describe_doubt(None) == {"calibrator": None, "abstain_below": None}


def test_raw_confidence_and_threshold():
    candidates = answer(candidates={"yes": 0.7, "no": 0.3}, logprob=-0.1, num_tokens=1)
    found = [doubt(abstain_below=least).judge(candidates) for least in (0.7, 0.71)]
    assert [(row.confidence, row.abstains) for row in found] == [(0.7, False), (0.7, True)]
    free = doubt(abstain_below=0.5).judge(answer(logprob=math.log(0.16), num_tokens=2))
    assert (free.confidence, free.abstains) == (pytest.approx(0.4), True)
    silent = doubt(abstain_below=0.0).judge(answer())
    assert (silent.confidence, silent.abstains, silent.answer) == (None, True, "yes")
    assert prediction_from_json(json.loads(json.dumps(to_json(free)))) == free


def test_recalibrated_confidence(tmp_path):
    asked = doubt(**store(tmp_path / "c.json", "likelihood"), abstain_below=0.5)
    found = [asked.judge(answer(logprob=math.log(sure), num_tokens=1)) for sure in (0.9, 0.6)]
    assert [row.confidence for row in found] == pytest.approx([0.7, 0.2])
    assert [row.abstains for row in found] == [False, True]
    facts = describe_doubt(asked)
    assert facts["abstain_below"] == 0.5
    assert json.loads(json.dumps(facts))["calibrator"]["source"] == "likelihood"


def test_groups_of_questions(tmp_path):
    options = store(tmp_path / "c.json", "logits", groups=["CT"] * 20, group_by="modality", min_group=10)
    found = doubt(**options, closed_candidates="auto").judge(answer("CT", candidates={"yes": 0.9, "no": 0.1}))
    assert (found.confidence, found.abstains) == (pytest.approx(0.7), False)


def test_calibrators_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="learnt from confidences by 'sampling', which a single answer") as caught:
        doubt(**store(tmp_path / "c.json", "sampling"))
    assert "--method logits --fit-calibrator" in caught.value.hint
    for source in ("entropy", "p_true"):
        with pytest.raises(SettingsError, match=f"by '{source}', which a single answer does not have"):
            doubt(**store(tmp_path / "c.json", source))
    with pytest.raises(SettingsError, match="probabilities of candidates, and no question is offered any") as caught:
        doubt(**store(tmp_path / "c.json", "logits"))
    assert "--closed-candidates auto" in caught.value.hint
    with pytest.raises(SettingsError, match="goes by 'weather'"):
        doubt(**store(tmp_path / "c.json", "likelihood", groups=["sun"] * 20, group_by="weather"))
    with pytest.raises(DataError, match="There is no calibrator"):
        doubt(calibrator=str(tmp_path / "none.json"))
    with pytest.raises(DataError, match="log-probability of an answer is 'nan'"):
        doubt(abstain_below=0.5).judge(answer(logprob=math.nan, num_tokens=1))
    with pytest.raises(SettingsError, match=r"infer\.abstain_below"):
        doubt(abstain_below=1.5)


def test_answers_to_other_questions_have_no_confidence_which_is_said_once(own_run, listener, tmp_path):
    settings, run = own_run
    infer = settings.infer.model_copy(update={"abstain_below": 0.1} | {
        "calibrator": tmp_path / store(tmp_path / "c.json", "likelihood")["calibrator"]})
    infer_split(settings.model_copy(update={"infer": infer}), run=run.name, tag="sure", progress=listener)
    rows = [prediction_from_json(row) for row in read_jsonl(run.path / "predictions-sure.jsonl")]
    others = [row for row in rows if classify_question(row.sample) != "yes_no"]
    assert 0 < len(others) < len(rows)
    assert all(row.confidence is None and row.abstains for row in others)
    assert all(row.confidence is not None for row in rows if row not in others)
    number = len(others)
    expected = (f"{number} of {len(rows)} answers have no confidence: {number} are to other questions than the yes/no "
                "questions that the calibrator was learnt from. They count as abstentions.")
    assert [text for text in listener.warnings if "no confidence" in text] == [expected]
    count = sum(row.abstains for row in rows)
    assert f"{count} of {len(rows)} answers abstain: less sure than 0.1, or without a confidence." in listener.said


def test_a_question_about_a_picture_of_ones_own_counts_by_its_answer(tmp_path, listener):
    asked = doubt(**store(tmp_path / "c.json", "likelihood"))
    rows = [asked.judge(dataclasses.replace(Prediction(sample=dataclasses.replace(
        answer().sample, answer="", answer_type="open"), answer=text), logprob=math.log(0.9), num_tokens=1))
        for text in ("yes", "the liver")]
    assert [row.confidence for row in rows] == [pytest.approx(0.7), None]
    silent = asked.judge(answer())
    assert asked.count_silent([*rows, silent]) == (1, 1)
    asked.warn(1, 1, 3, listener)
    expected = ("2 of 3 answers have no confidence: 1 are to other questions than the yes/no questions that the "
                "calibrator was learnt from, 1 tell none by 'likelihood'.")
    assert listener.warnings == [expected]


def test_answers_of_a_split_state_their_confidence(own_run):
    settings, run = own_run
    data = settings.data.model_copy(update={"limit": 6})

    def configure(least):
        infer = settings.infer.model_copy(update={"abstain_below": least})
        return settings.model_copy(update={"infer": infer, "data": data})

    infer_split(configure(0.6), run=run.name, tag="sure")
    rows = [prediction_from_json(row) for row in read_jsonl(run.path / "predictions-sure.jsonl")]
    assert len(rows) == 6
    for row in rows:
        assert row.confidence == pytest.approx(math.exp(row.logprob / row.num_tokens))
        assert row.abstains == (row.confidence < 0.6)
    assert run.read_json("predictions-sure.meta.json")["abstain_below"] == 0.6
    with pytest.raises(RunError, match="another abstain_below: 0.6, now 0.9"):
        infer_split(configure(0.9), run=run.name, tag="sure")
